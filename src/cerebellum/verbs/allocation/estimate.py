"""What an allocation will take: trials counted, a chunk timed. Nothing is written."""

from __future__ import annotations

import math

from cerebellum.allocation.anchors import MORE_SHARE, SECOND_SHARE, first_anchors
from cerebellum.allocation.floor import harmless_types
from cerebellum.allocation.table import Table
from cerebellum.domain import Model
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.results.estimate import Estimate
from cerebellum.stats.intervals import smallest_detectable
from cerebellum.study.runner import Split
from cerebellum.verbs.allocation.anchors import LOOKS
from cerebellum.verbs.allocation.controls import n_shuffled_chunks
from cerebellum.verbs.allocation.first import (
    check_rules,
    checked_budget,
    nominal_table,
    own_reference_doubts,
    refuse_own_reference,
    stock_plan,
)
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.origin import check_origin, other_family
from cerebellum.verbs.allocation.refine import STEP_CHUNKS, judged_chunks, judging_cost
from cerebellum.verbs.allocation.transfer import expected_trials
from cerebellum.verbs.allocation.weights import SAMPLED_WEIGHTS
from cerebellum.verbs.calibration import is_comparable
from cerebellum.verbs.estimating import (
    NOISE_PASSES,
    ONE_TENSOR,
    chunks_to_show,
    disk_of,
    memory_of,
    notes_of,
    rows_of,
    time_model,
)
from cerebellum.verbs.inputs import read_inputs
from cerebellum.verbs.options import SessionOptions

#: Standard deviation between chunks of a recipe's change of KL divergence, as a share of the stock file's mean: on the models measured so
#: far 0.06 to 0.15 (recipes at equal bytes, 128 to 256 scored tokens a chunk).
SPREAD = 0.2
#: A difference between files worth showing, as a share of the stock file's KL divergence.
USEFUL = 0.05
#: Whole files measured: candidate recipes on the search text; base, recipe, controls, stock rungs and the written file on the report text.
CANDIDATES, REPORTED = 6, 12
#: Whole files made while a recipe is refined: the recipe itself and steps from it. A weight error costs as much as making the weight twice.
REFINED, CHECKED = 4.0, 2.0


def estimate_allocation(
    options: SessionOptions, allocation: AllocationOptions, backend: Backend, progress: Progress | None = None
) -> Estimate:
    """Opens the model, cuts the texts, times a chunk. Raises a `CerebellumError` for all that `allocate_session` would refuse of the
    inputs."""
    progress = progress or Silent()
    check_rules(allocation.rules, model_file.read_model(options.model))
    progress.note(f"estimate: reading {options.model.name} and the texts")
    if allocation.origin is not None:
        check_origin(allocation.origin, options.model)
    inputs = read_inputs(options)
    progress.note("estimate: asking llama.cpp for the stock file's types")
    stock = stock_plan(inputs, options, allocation, backend)
    source, ftype = inputs.source, stock.ftype
    model = time_model(options, inputs, backend, progress, stock.makes_imatrix)
    search, report, seconds, n_engines = model.search, model.report, model.seconds, model.n_engines
    table = nominal_table(inputs, stock, allocation, model.unused)
    limit = stock.limit
    budget = checked_budget(table, limit)
    refuse_own_reference(table, inputs, limit)
    n_first, n_trials, n_harmless = counted_trials(table, budget, allocation, source)
    counts = chunk_counts(
        n_first, n_trials, n_harmless, len(table.names), seconds / n_engines, search, report, allocation
    )
    if n_first and not inputs.is_own_reference:
        counts["reference"] += 2 * len(search.chunks)  # the source's own words, and the source beside the reference
    if (stock.makes_imatrix or inputs.imatrix) and is_comparable(source, ftype, stock.types):
        counts["recipes"] += len(search.chunks)  # the base without the importance matrix
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
        + sum(counts[n] for n in ("judging", "recipes", "reference"))
        + model.imatrix_passes * n_engines,  # one engine makes it, whatever others there are
        seconds,
        disk_of(table.base, limit, ftype, source, rows_of((search, report), model.n_vocab, options.settings)),
        memory_of(source, table.base, options.settings.replay_bytes),
        SPREAD,
        smallest_detectable(SPREAD / math.sqrt(n), n),
        USEFUL,
        chunks_to_show(USEFUL, SPREAD),
        tuple(
            notes_of(
                options.n_chunks,
                (*model.notes, *own_reference_doubts(inputs), *inputs.doubts, *_families(allocation, source)),
                (search, report),
            )
        ),
        n_engines=n_engines,
        is_exact=allocation.target.n_bytes is not None or has_own_header(source, stock.makes_imatrix or inputs.imatrix),
        quantizing=model.seconds_a_weight * made_weights(table, n_trials + n_harmless, allocation),
    )


def made_weights(table: Table, n_trials: int, allocation: AllocationOptions) -> float:
    """Weights that are made in other types, in whole files, times their number: of a sample for the weight errors, of a tensor for each
    anchor, of all tensors for whole recipes. Recipes that are measured together share tensors, about half of them."""
    weights = sum(table.tensors[name].n_elements for name in table.names)
    sampled = sum(len(table.types[name]) * min(table.tensors[name].n_elements, SAMPLED_WEIGHTS) for name in table.names)
    files = n_trials / len(table.names) + 0.5 * CANDIDATES + REPORTED + 0.5 * allocation.n_shuffled
    files += REFINED if allocation.refine else 0.0
    return CHECKED * sampled + files * weights


def _families(allocation: AllocationOptions, source: Model) -> tuple[str, ...]:
    return () if allocation.origin is None else other_family(allocation.origin, source)


def has_own_header(source: Model, with_imatrix: object) -> bool:
    """Whether a quantized file has as many bytes of header as ``source``: llama.cpp adds these keys where they lack, and an importance
    matrix's name and counts."""
    return not with_imatrix and {"general.file_type", "general.quantization_version"} <= source.metadata.keys()


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
        "recipes": CANDIDATES * n_search + REPORTED * n_report + n_shuffled * n_shuffled_chunks(report),
        "reference": n_search + n_report + NOISE_PASSES,
    }
