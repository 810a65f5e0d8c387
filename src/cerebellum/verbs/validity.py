"""The validity gate: may perplexity rank anything on this model and text? A ladder of stock quantizations answers."""

from __future__ import annotations

import contextlib
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
from cerebellum.llamacpp.protocol import Backend, Engine, Sources
from cerebellum.progress import Progress, Silent
from cerebellum.results import LadderResult, Measured
from cerebellum.scoring.summary import kld_sums, mean_kld, mean_of, nll_sums
from cerebellum.stats.intervals import MOST_NLL, ChunkSums, Interval, exp_nll, paired_interval, positive
from cerebellum.stats.ladder import Rung, Validity, assess, parse_ladder
from cerebellum.study.runner import Scores, Split, TrialRunner, series_facts
from cerebellum.verbs.capture import capture_rows, reference_facts
from cerebellum.verbs.divergence import bind_reference, measure_files, read_with_notes
from cerebellum.verbs.divergence import facts_of as measured_facts
from cerebellum.verbs.options import MeasureOptions
from cerebellum.verbs.session import Session
from cerebellum.verbs.text import Text, corpus_of, split_facts
from cerebellum.verbs.workspace import Workspace, opened_workspace

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
    ppl = exp_nll(math.fsum(total for total, _ in reference.values()) / n_tokens)
    sizes = sizes or {}
    ladder = tuple(rung_of(name, scores, reference, ppl, sizes.get(name)) for name, scores in rungs.items())
    return LadderResult(assess(ppl, ladder, n_tokens), ladder, facts)


def rung_of(
    name: str, scores: Scores, reference: ChunkSums, reference_ppl: float, file_bytes: int | None = None
) -> Rung:
    """A rung with the limits of its perplexity relative to the reference, paired by chunk, and those of its KL divergence."""
    sums = kld_sums(scores)
    kld = positive(mean_of(sums)) if sums else None
    limits = (None, None) if kld is None else (kld.low, kld.high)
    log_ratio = paired_interval(nll_sums(scores), reference)
    low, high = perplexity_limits(reference_ppl, log_ratio)
    ppl = reference_ppl * exp_nll(log_ratio.estimate)
    return Rung(name, ppl, mean_kld(scores), low, high, file_bytes, *limits)


def perplexity_limits(reference_ppl: float, log_ratio: Interval) -> tuple[float, float]:
    """The limits of a perplexity whose logarithm is ``log_ratio`` above that of the reference."""
    low, high = (max(1.0, reference_ppl * math.exp(min(x, MOST_NLL))) for x in (log_ratio.low, log_ratio.high))
    return low, high


def check_models(options: MeasureOptions, backend: Backend, progress: Progress | None = None) -> LadderResult:
    """The ladder of the files, or without any of the unquantized reference's own quantizations, in memory. Raises a `CerebellumError`."""
    progress = progress or Silent()
    if options.n_chunks is None:
        options = replace(options, n_chunks=LADDER_CHUNKS)
    if not options.models:
        return measure_ladder(options, backend, progress)
    measurement = measure_files(options, backend, progress)
    reference_ppl = exp_nll(measurement.reference_nll.estimate)
    n_tokens = measurement.files[0].summary.n_tokens
    rungs = tuple(rung_of_file(file, reference_ppl) for file in measurement.files)
    return LadderResult(assess(reference_ppl, rungs, n_tokens), rungs, measurement.facts)


def rung_of_file(file: Measured, reference_ppl: float) -> Rung:
    """A measured file as a rung."""
    assert file.summary.divergence is not None
    kld = file.summary.divergence.mean
    low, high = perplexity_limits(reference_ppl, file.log_ratio)
    return Rung(file.name, file.summary.perplexity, kld.estimate, low, high, file.file_bytes, kld.low, kld.high)


def measure_ladder(options: MeasureOptions, backend: Backend, progress: Progress) -> LadderResult:
    """The ladder of an unquantized model's own stock quantizations. Raises a `CerebellumError`."""
    model = options.reference
    source = model_file.read_model(model)
    check_predicts(source)
    if source.is_quantized:
        raise InputError(
            f"{model.name} is quantized already, so nothing says how far it is from its original; give the unquantized file, or "
            "several files with --reference"
        )
    text = read_with_notes(options, progress)
    with opened_workspace(backend, options.settings, options.out, (model, options.text), progress) as workspace:
        sha256 = bind_reference(workspace, model)
        with contextlib.closing(backend.open(model, options.settings, Sources(model))) as engine:
            workspace.warn(engine.warnings)
            return ladder_in(workspace, engine, source, sha256, text, options)


def ladder_in(
    workspace: Workspace, engine: Engine, source: Model, sha256: str, text: Text, options: MeasureOptions
) -> LadderResult:
    """As `measure_ladder`, with the model opened by ``engine``."""
    settings, study, progress = workspace.settings, workspace.study, workspace.progress
    corpus = corpus_of(engine, options.text.name, text, settings.n_ctx, progress)
    split = Split("ladder", corpus, tuple(range(corpus.n_chunks))[: options.n_chunks])
    reference = reference_facts(sha256, engine.n_vocab, settings.exact_reference)
    store = workspace.reference_store(corpus, reference)
    capture_rows(engine, [(split, store)], f"reference {source.path.name}", progress)
    facts = series_facts({"file_sha256": sha256}, split, settings, workspace.build, reference)
    runner = TrialRunner([engine], study, study.series("ladder", facts), source.types, corpus, store, progress)
    trials = ladder_trials(workspace.backend, source.path, source.types, None)
    scores = runner.measure(trials, split.chunks, "ladder")
    told = measured_facts(workspace, options, split, {"sha256": sha256}) | failed_facts(runner, trials)
    return judge_scores(scores, {chunk: store.nll(chunk) for chunk in split.chunks}, told, sizes_of(source, trials))


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


def refuse_invalid(ladder: LadderResult, trusted: bool) -> None:
    """Raises `RefusedError` where perplexity may not choose and nobody insisted."""
    if ladder.report.verdict is Validity.INVALID and not trusted:
        raise RefusedError(
            f"perplexity can't choose here: {ladder.report.reason} Choose by KL divergence (--policy greedy --objective kld), or insist "
            "with --trust-perplexity"
        )
