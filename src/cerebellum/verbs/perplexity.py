"""Perplexity of a file on a text, as `llama-perplexity` computes it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cerebellum.domain import ChunkScore
from cerebellum.errors import EngineError, TextError
from cerebellum.files import FileState, check_unchanged
from cerebellum.gguf import model_file
from cerebellum.gguf.next_token import check_predicts
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress, Silent
from cerebellum.stats import intervals
from cerebellum.verbs.chat_hints import chat_hints
from cerebellum.verbs.text import corpus_of, fewer_chunks, odd_marks, read, too_long
from cerebellum.verbs.warned import tell


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean NLL. ``std_error`` is llama-perplexity's: it takes tokens for independent samples, so it is a little small.
    ``warnings``: llama.cpp's of the file."""

    perplexity: float
    std_error: float
    tokens: int
    chunks: int
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, scores: Iterable[ChunkScore]) -> Perplexity:
        """From the sums of some chunks. Raises `ValueError` where there are none, `EngineError` where they are no perplexity."""
        scores = list(scores)
        if not scores:
            raise ValueError("no chunks were scored")
        n = sum(s.n_tokens for s in scores)
        sums = (math.fsum(s.nll for s in scores), math.fsum(s.nll2 for s in scores))
        return cls(*intervals.perplexity(*sums, n), n, len(scores))


def measure_perplexity(
    backend: Backend,
    model: Path,
    text: Path,
    settings: Settings,
    n_chunks: int | None = None,
    progress: Progress | None = None,
    chat: bool = False,
) -> Perplexity:
    """Perplexity of ``model`` on the first ``n_chunks`` chunks of ``text`` (all by default), or conversations with ``chat``.

    Raises a `CerebellumError`; `EngineError` names model and chunk where a sum is no finite number, `InputError` the model that changed
    meanwhile.
    """
    progress = progress or Silent()
    states = [FileState.of(file) for file in model_file.model_files(model)]
    source = model_file.read_model(model)
    check_predicts(source)
    content = read(text, chat)
    odd_marks(text.name, content, progress)
    too_long(source, settings.n_ctx, progress)
    chat_hints(source, text, content, progress)
    engine, warnings = backend.open(model, settings), list[str]()
    try:
        tell(engine.warnings, progress, warnings)
        corpus = corpus_of(engine, text.name, content, settings.n_ctx, progress)
        if n_chunks is not None and n_chunks < 1:
            raise TextError(f"--chunks must be at least 1, not {n_chunks}")
        tell(fewer_chunks(corpus, n_chunks), progress, warnings)
        numbers = range(min(n_chunks or corpus.n_chunks, corpus.n_chunks))
        progress.begin(f"perplexity of {model.name}", len(numbers))
        scores = []
        for score in engine.score((), corpus.chunks(numbers), label=f"perplexity of {model.name}"):
            if fault := intervals.fault_of(score):
                raise EngineError(f"{model.name} on {text.name}, chunk {score.chunk}: {fault}: the model is broken")
            scores.append(score)
            progress.step(f"{Perplexity.of(scores).perplexity:.4f}")
        progress.end()
    except EngineError:
        check_unchanged(states)  # a file that was cut short under llama.cpp is no fault of the model
        raise
    finally:
        engine.close()
    check_unchanged(states)
    return replace(Perplexity.of(scores), warnings=tuple(warnings))
