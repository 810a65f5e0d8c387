"""The validity gate: may perplexity rank anything on this model and text? A ladder of stock quantizations answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebellum.allocation.sizes import file_bytes
from cerebellum.domain import Model, TensorTypes, Trial, TrialKind, tensor_types_of
from cerebellum.errors import EngineError, InputError, RefusedError
from cerebellum.gguf import model_file
from cerebellum.gguf.next_token import check_predicts
from cerebellum.llamacpp.protocol import Backend, Settings, Sources
from cerebellum.progress import Progress, Silent
from cerebellum.results import LadderResult
from cerebellum.scoring.summary import kld_sums, mean_kld, mean_of, nll_sums
from cerebellum.stats.intervals import MOST_NLL, ChunkSums, exp_nll, paired_interval, within
from cerebellum.stats.ladder import Rung, Validity, assess, parse_ladder
from cerebellum.study.hashes import cached_sha256
from cerebellum.study.runner import Scores, Split, TrialRunner, series_facts
from cerebellum.verbs.capture import capture_rows, note_older, reference_facts, store_for
from cerebellum.verbs.chat_hints import chat_hints
from cerebellum.verbs.divergence import measure_files, opened_study
from cerebellum.verbs.session import Session
from cerebellum.verbs.text import corpus_of, odd_marks, read, split_facts, too_long
from cerebellum.verbs.warned import tell

#: The stock file types of a ladder, none of which needs an importance matrix.
LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
#: Chunks of the text that a ladder is measured on at most, unless asked for otherwise.
LADDER_CHUNKS = 32


def judge_ladder_file(path: Path) -> LadderResult:
    """A published ladder: JSON as `cerebellum.stats.ladder.parse_ladder` reads it. Raises `InputError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"can't read the ladder {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(data, Mapping):
        raise InputError(f'the ladder {path} needs an entry "by_type": {{name: {{"ppl": number, "kld": number}}}}')
    reference_ppl, rungs = parse_ladder(data)
    return LadderResult(assess(reference_ppl, rungs), rungs, {"ladder": path.name})


def judge_scores(
    rungs: Mapping[str, Scores], reference: ChunkSums, facts: dict[str, Any], sizes: Mapping[str, int] | None = None
) -> LadderResult:
    """From measured rungs and the reference's own NLL sums, on the same chunks. ``sizes``: bytes of the rungs' files."""
    n_tokens = sum(n for _, n in reference.values())
    own = exp_nll(math.fsum(total for total, _ in reference.values()) / n_tokens)
    sizes = sizes or {}
    found = tuple(rung_of(name, scores, reference, own, sizes.get(name)) for name, scores in rungs.items())
    return LadderResult(assess(own, found, n_tokens), found, facts)


def rung_of(name: str, scores: Scores, reference: ChunkSums, own: float, file_bytes: int | None = None) -> Rung:
    """A rung with the limits of its perplexity relative to the reference, paired by chunk, and those of its KL divergence."""
    sums = kld_sums(scores)
    kld = within(mean_of(sums), 0.0) if sums else None
    limits = (None, None) if kld is None else (kld.low, kld.high)
    ratio = paired_interval(nll_sums(scores), reference)
    low, high = (max(1.0, own * math.exp(min(x, MOST_NLL))) for x in (ratio.low, ratio.high))
    return Rung(name, own * exp_nll(ratio.estimate), mean_kld(scores), low, high, file_bytes, *limits)


def check_models(
    backend: Backend,
    models: Sequence[Path],
    reference: Path | None,
    text: Path,
    settings: Settings,
    n_chunks: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    chat: bool = False,
) -> LadderResult:
    """One unquantized model: a ladder of its own quantizations, in memory. Several: they are the rungs, the first the reference unless
    ``reference`` is given. Raises a `CerebellumError`."""
    progress = progress or Silent()
    n_chunks = LADDER_CHUNKS if n_chunks is None else n_chunks
    if len(models) == 1 and reference is None:
        return _own_ladder(backend, models[0], text, settings, n_chunks, out, progress, chat)
    first, *rest = models
    rungs = rest if reference is None else list(models)
    found = measure_files(backend, rungs, reference or first, text, settings, n_chunks, out, progress, chat)
    own = exp_nll(found.reference_nll.estimate)
    n_tokens = found.files[0].summary.n_tokens
    measured = []
    for file in found.files:
        assert file.summary.divergence is not None
        low, high = (max(1.0, own * math.exp(min(x, MOST_NLL))) for x in (file.log_ratio.low, file.log_ratio.high))
        kld = file.summary.divergence.mean
        figures = (file.summary.perplexity, kld.estimate, low, high, file.file_bytes, kld.low, kld.high)
        measured.append(Rung(file.name, *figures))
    return LadderResult(assess(own, measured, n_tokens), tuple(measured), found.facts)


def _own_ladder(
    backend: Backend,
    model: Path,
    text: Path,
    settings: Settings,
    n_chunks: int,
    out: Path | None,
    progress: Progress,
    chat: bool,
) -> LadderResult:
    source = model_file.read_model(model)
    check_predicts(source)
    if source.is_quantized:
        raise InputError(
            f"{model.name} is quantized already, so nothing says how far it is from its original; give the unquantized file, or "
            "several files with --reference"
        )
    content = read(text, chat)
    odd_marks(text.name, content, progress)
    too_long(source, settings.n_ctx, progress)
    chat_hints(source, text, content, progress)
    with opened_study(out, (model, text)) as (folder, study):
        sha256 = cached_sha256(study, model)
        study.bind({"reference_sha256": sha256}, f"{model.name} as a reference")
        note_older(study, progress)
        build = backend.id
        engine = backend.open(model, settings, Sources(model))
        warnings: list[str] = []
        try:
            tell(engine.warnings, progress, warnings)
            corpus = corpus_of(engine, text.name, content, settings.n_ctx, progress)
            split = Split("ladder", corpus, tuple(range(corpus.n_chunks))[:n_chunks])
            facts = reference_facts(sha256, engine.n_vocab, settings.exact_reference)
            store = store_for(folder, corpus, facts, settings, build, study.watched)
            capture_rows(engine, [(split, store)], f"reference {model.name}", progress)
            series = study.series("ladder", series_facts({"file_sha256": sha256}, split, settings, build, facts))
            runner = TrialRunner([engine], study, series, source.types, corpus, store, progress)
            trials = ladder_trials(backend, model, source.types, None)
            scores = runner.measure(trials, split.chunks, "ladder")
        finally:
            engine.close()
        told: dict[str, Any] = {
            "reference": {"file": model.name, "sha256": sha256},
            "text": split_facts(split, text),
            "settings": settings.as_key(),
            "build": build,
            "warnings": warnings,
        } | failed_facts(runner, trials)
        sizes = sizes_of(source, trials)
        return judge_scores(scores, {chunk: store.nll(chunk) for chunk in split.chunks}, told, sizes)


def ladder_trials(backend: Backend, source: Path, base: Mapping[str, str], imatrix: Path | None) -> list[Trial]:
    """A trial for each stock file type: what llama.cpp would make of ``source``, as swaps away from the ``base`` types.

    File types that come out as the same file, since rows of some length can't hold them, are one rung.
    """
    names: dict[TensorTypes, list[str]] = {}
    for ftype in LADDER:
        types = backend.types(source, ftype, (), imatrix)
        tensor_types = tensor_types_of({name: kind for name, kind in types.items() if kind != base[name]})
        names.setdefault(tensor_types, []).append(ftype)
    return [Trial(" = ".join(alike), TrialKind.RUNG, tensor_types) for tensor_types, alike in names.items()]


def sizes_of(model: Model, trials: Sequence[Trial]) -> dict[str, int]:
    """Bytes of each rung's file, made of ``model``: its tensors at other types, its header as it is."""
    return {trial.label: file_bytes(model, trial.types(model.types)) for trial in trials}


def failed_facts(runner: TrialRunner, trials: Sequence[Trial]) -> dict[str, Any]:
    """The rungs that could not be measured, label → reason, where there are such. Raises `EngineError` where none could."""
    failed = runner.failed(trials)
    if len(failed) == len(trials):
        raise EngineError(f"no rung of the ladder can be measured, the first so: {failed[0].reason}")
    return {"failed": {failure.label: failure.reason for failure in failed}} if failed else {}


def check_session(session: Session) -> LadderResult:
    """The ladder of a job's model on its search text, with its engines and in its study."""
    chunks = session.search.chunks[:LADDER_CHUNKS]
    trials = ladder_trials(session.backend, session.options.model, session.base.model.types, session.options.imatrix)
    runner = session.runner(session.search)
    scores = runner.measure(trials, chunks, "ladder, search text")
    store = session.reference_store(session.search)
    facts = {"text": split_facts(replace(session.search, chunks=chunks), session.options.text)}
    facts |= failed_facts(runner, trials)
    sizes = sizes_of(session.base.model, trials)
    return judge_scores(scores, {chunk: store.nll(chunk) for chunk in chunks}, facts, sizes)


def refuse_invalid(found: LadderResult, trusted: bool) -> None:
    """Raises `RefusedError` where perplexity may not choose and nobody insisted."""
    if found.report.verdict is Validity.INVALID and not trusted:
        raise RefusedError(
            f"perplexity can't choose here: {found.report.reason} Choose by KL divergence (--policy greedy --objective kld), or insist "
            "with --trust-perplexity"
        )
