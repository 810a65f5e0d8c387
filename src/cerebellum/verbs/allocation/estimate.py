"""What an allocation will take: trials counted, a chunk timed. Nothing is written."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cerebellum.allocation.anchors import MORE_SHARE, SECOND_SHARE, first_anchors
from cerebellum.allocation.candidates import DEFAULT_TYPES, allowed_types, candidate_types
from cerebellum.allocation.floor import harmless_types
from cerebellum.allocation.sizes import file_bytes, target_bytes
from cerebellum.allocation.table import Table, table_of
from cerebellum.domain import Model
from cerebellum.figures import counted
from cerebellum.gguf.types import TYPES
from cerebellum.llamacpp.protocol import LOGITS_BYTES, Backend, Engine, Settings, Sources
from cerebellum.progress import Progress, Silent
from cerebellum.results.estimate import Estimate
from cerebellum.stats.intervals import smallest_detectable
from cerebellum.study.runner import Split
from cerebellum.verbs.allocation.anchors import LOOKS
from cerebellum.verbs.allocation.controls import SHUFFLE_CHUNKS
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.refine import STEP_CHUNKS, judged_chunks, judging_cost
from cerebellum.verbs.allocation.run import checked_budget, own_reference_doubts, refuse_own_reference, stock_base
from cerebellum.verbs.allocation.transfer import expected_trials
from cerebellum.verbs.allocation.weights import important
from cerebellum.verbs.calibration import wants_imatrix
from cerebellum.verbs.inputs import Inputs, read_inputs
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.session import count_engines, local_fleet
from cerebellum.verbs.splits import make_splits

#: Standard deviation between chunks of a recipe's change of KL divergence, as a share of the stock file's mean: on the models measured so
#: far 0.06 to 0.15 (recipes at equal bytes, 128 to 256 scored tokens a chunk).
SPREAD = 0.2
#: A difference between files worth showing, as a share of the stock file's KL divergence.
USEFUL = 0.05
#: Under so many chunks only large differences can be shown.
FEW_CHUNKS = 8
#: Whole passes that a trial of one tensor is worth: it begins at its block.
ONE_TENSOR = 0.55
#: Whole files measured: candidate recipes on the search text; base, recipe, controls, stock rungs and the written file on the report text.
CANDIDATES, REPORTED = 6, 10
#: Passes of the noise floor: changes by files by chunks.
NOISE_PASSES = 20
#: Bytes a scored token that the reference's rows take, where not all words are kept.
ROW_BYTES = 2048


def estimate_allocation(
    options: SessionOptions, allocation: AllocationOptions, backend: Backend, progress: Progress | None = None
) -> Estimate:
    """Opens the model, cuts the texts, times a chunk. Raises a `CerebellumError` for all that `allocate_session` would refuse of the
    inputs."""
    progress = progress or Silent()
    progress.note(f"estimate: reading {options.model.name} and the texts")
    inputs = read_inputs(options)
    progress.note("estimate: asking llama.cpp for the stock file's types")
    source, ftype = inputs.source, options.base or stock_base(backend, inputs.source, options, allocation.target)
    types = backend.types(source.path, ftype, (), options.imatrix)
    named = () if allocation.rules.types == DEFAULT_TYPES else allowed_types(allocation.rules)
    makes = wants_imatrix(replace(options, base=ftype), named, backend)
    table = nominal_table(source, ftype, types, allocation, inputs, makes_imatrix=makes)
    refuse_own_reference(table, inputs, target_bytes(allocation.target, table.base))
    local = local_fleet(options, backend, source)
    n_engines = count_engines(options, local)
    settings = replace(options.settings, devices=local.settings[0].devices, n_threads=local.settings[0].n_threads)
    progress.note(f"estimate: opening {source.path.name}, cutting the texts into chunks")
    engine = backend.open(source.path, settings, Sources(source.path, options.imatrix))
    try:
        search, report = make_splits(engine, inputs.texts, options.settings.n_ctx, progress)
        table = nominal_table(source, ftype, types, allocation, inputs, engine.unused, makes)
        progress.note(f"estimate: timing a chunk of {options.settings.n_ctx:,} tokens, twice")
        seconds = timed(engine, search)
        n_vocab = engine.n_vocab
    finally:
        engine.close()
    limit = target_bytes(allocation.target, table.base)
    budget = checked_budget(table, limit)
    refuse_own_reference(table, inputs, limit)
    n_first, n_trials, n_harmless = counted_trials(table, budget, allocation, source)
    counts = chunk_counts(
        n_first, n_trials, n_harmless, len(table.names), seconds / n_engines, search, report, allocation
    )
    n = min(len(search.chunks), len(report.chunks))
    return Estimate(
        source.path.name,
        ftype,
        limit,
        len(table.names),
        n_trials + n_harmless,
        len(search.chunks),
        len(report.chunks),
        round(sum(counts.values())),
        (counts["anchors"] + counts["steps"]) * ONE_TENSOR
        + sum(counts[n] for n in ("judging", "recipes", "reference")),
        seconds,
        disk_of(table.base, limit, ftype, source, rows_of(search, report, n_vocab, options.settings)),
        source.file_bytes + table.base.file_bytes + options.settings.replay_bytes + 2 * LOGITS_BYTES,
        SPREAD,
        smallest_detectable(SPREAD / math.sqrt(n), n),
        USEFUL,
        chunks_to_show(USEFUL, SPREAD),
        tuple(notes_of(options.n_chunks, (*own_reference_doubts(inputs), *inputs.doubts), (search, report))),
        n_engines=n_engines,
    )


def counted_trials(table: Table, budget: int, allocation: AllocationOptions, source: Model) -> tuple[int, int, int]:
    """(tensors that are measured, their trials, harmless trials of a quantized source, which measure its floor): none with a map, few with
    a transfer whose profiles hold."""
    if allocation.sensitivity is not None:
        return 0, 0, 0
    cells, n_harmless = first_anchors(table, budget), len(harmless_types(table.tensors, source.types))
    if allocation.origin is not None:
        n = expected_trials(table, cells, allocation.origin, source)
        return n, n, n_harmless
    return len(cells), len(cells) + round(SECOND_SHARE * len(cells)), n_harmless


def nominal_table(
    source: Model,
    ftype: str,
    types: Mapping[str, str],
    allocation: AllocationOptions,
    inputs: Inputs,
    unused: frozenset[str] = frozenset(),
    makes_imatrix: bool = False,
) -> Table:
    """The job's table with errors that fall by 4 a bit, as they do about: which types are measured depends on their order alone."""
    tensors = tuple(replace(t, type=types[t.name]) for t in source.tensors)
    base = replace(source, tensors=tensors, ftype=ftype, file_bytes=file_bytes(source, types))
    known = frozenset(t.name for t in tensors) if makes_imatrix else important(inputs.imatrix, source)
    kinds_of = candidate_types(source, base.types, allocation.rules, known, unused)
    source_types = source.types

    def error(name: str, kind: str) -> float:
        return 0.0 if kind == source_types[name] else 4.0 ** -TYPES[kind].bits_per_weight

    errors = {name: {k: error(name, k) for k in (*kinds, base.types[name])} for name, kinds in kinds_of.items()}
    return table_of(base, kinds_of, errors, dict.fromkeys(kinds_of, 1.0))


def chunk_counts(
    n_first: int,
    n_trials: int,
    n_harmless: int,
    n_tensors: int,
    seconds: float,
    search: Split,
    report: Split,
    allocation: AllocationOptions,
) -> dict[str, float]:
    """Chunks of trials by what they are for. Later looks at anchors are taken to hold half of the most that they may; refinement is taken
    to use up what it may. ``seconds``: of a whole pass."""
    n_search, n_report = len(search.chunks), len(report.chunks)
    first, last = min(LOOKS[0], n_search), min(LOOKS[-1], n_search)
    anchors = n_trials * first + 0.5 * MORE_SHARE * n_first * (last - first) + n_harmless * min(LOOKS[1], n_search)
    judging = float(judging_cost(len(judged_chunks(search.chunks, STEP_CHUNKS))))
    steps = anchors or float(first * n_tensors)
    if allocation.refine_minutes is not None:  # judging and steps share them; a step is part of a pass
        spend = allocation.refine_minutes * 60.0 / seconds if seconds > 0.0 else 0.0
        judging, steps = min(judging, spend), max(spend - judging, 0.0) / ONE_TENSOR
    if not allocation.refine:
        judging = steps = 0.0
    n_shuffled = allocation.n_shuffled
    return {
        "anchors": anchors,
        "steps": steps,
        "judging": judging,
        "recipes": CANDIDATES * n_search + REPORTED * n_report + n_shuffled * min(SHUFFLE_CHUNKS, n_report),
        "reference": n_search + n_report + NOISE_PASSES,
    }


def timed(engine: Engine, split: Split) -> float:
    """Seconds of a whole pass over a chunk: the quickest of two, the first of which compiles."""
    seconds = math.inf
    for chunk in split.chunks[:2]:
        start = time.monotonic()
        for _ in engine.score((), [split.corpus.chunk(chunk)], label="timed chunk"):
            seconds = min(seconds, time.monotonic() - start)
    return seconds


def rows_of(search: Split, report: Split, n_vocab: int, settings: Settings) -> int:
    """Bytes of the reference's rows."""
    width = 2 * n_vocab if settings.exact_reference else min(ROW_BYTES, 4 * n_vocab)
    scored = sum(int(split.corpus.chunk(c).wanted().sum()) for split in (search, report) for c in split.chunks)
    return scored * width


def disk_of(base: Model, limit: int, ftype: str, source: Model, rows: int) -> int:
    """Bytes that the folder grows by: the base, the recipe, the reference's rows."""
    is_own_base = source.is_quantized and source.ftype == ftype
    return (0 if is_own_base else base.file_bytes) + limit + rows


def chunks_to_show(share: float, spread: float) -> int:
    """Chunks that show a change of such a share four times in five, where chunks differ by ``spread``."""
    return next(n for n in itertools.count(2) if smallest_detectable(spread / math.sqrt(n), n) <= share)


def notes_of(asked: int | None, doubts: Sequence[str], splits: Sequence[Split]) -> list[str]:
    """What should be known before hours are spent. ``asked``: chunks of each text."""
    notes, n = list(doubts), min(len(split.chunks) for split in splits)
    for split in splits:
        if asked is not None and len(split.chunks) < asked:
            notes.append(
                f"the {split.name} text has only {counted(len(split.chunks), 'chunk')} for it, not {asked}: a longer text shows smaller "
                "differences"
            )
    if n < FEW_CHUNKS:
        notes.append(f"{counted(n, 'chunk')} can show only large differences: give a longer text, or a smaller --ctx")
    return notes
