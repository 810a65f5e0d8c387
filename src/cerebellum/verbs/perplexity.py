"""Perplexity of a file on a text, as `llama-perplexity` computes it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cerebellum.domain import ChunkScore
from cerebellum.errors import TextError
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress, Silent
from cerebellum.verbs.text import corpus_of, odd_marks, read, too_long


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean NLL. ``std_error`` is llama-perplexity's: it takes tokens for independent samples, so it is a little small."""

    perplexity: float
    std_error: float
    tokens: int
    chunks: int

    @classmethod
    def of(cls, scores: Iterable[ChunkScore]) -> Perplexity:
        """From the sums of some chunks. Raises `ValueError` where there are none."""
        scores = list(scores)
        if not scores:
            raise ValueError("no chunks were scored")
        n = sum(s.n_tokens for s in scores)
        mean = math.fsum(s.nll for s in scores) / n
        variance = max(0.0, math.fsum(s.nll2 for s in scores) / n - mean * mean)
        value = math.exp(mean)
        return cls(value, value * math.sqrt(variance / (n - 1)) if n > 1 else math.inf, n, len(scores))


def measure_perplexity(
    backend: Backend,
    model: Path,
    text: Path,
    settings: Settings,
    n_chunks: int | None = None,
    progress: Progress | None = None,
    chat: bool = False,
) -> Perplexity:
    """Perplexity of ``model`` on the first ``n_chunks`` chunks of ``text`` (all by default), or conversations with ``chat``."""
    progress = progress or Silent()
    content = read(text, chat)
    odd_marks(text.name, content, progress)
    too_long(model_file.read_model(model), settings.n_ctx, progress)
    engine = backend.open(model, settings)
    try:
        corpus = corpus_of(engine, text.name, content, settings.n_ctx, progress)
        if n_chunks is not None and n_chunks < 1:
            raise TextError(f"--chunks must be at least 1, not {n_chunks}")
        numbers = range(min(n_chunks or corpus.n_chunks, corpus.n_chunks))
        progress.begin(f"perplexity of {model.name}", len(numbers))
        scores = []
        for score in engine.score((), corpus.chunks(numbers), label=f"perplexity of {model.name}"):
            scores.append(score)
            progress.step(f"{Perplexity.of(scores).perplexity:.4f}")
        progress.end()
    finally:
        engine.close()
    return Perplexity.of(scores)
