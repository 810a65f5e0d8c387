"""What an allocation will take: trials counted, a chunk timed. Nothing is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from cerebellum.allocation.anchors import MORE_SHARE, SECOND_SHARE, first_anchors
from cerebellum.allocation.floor import harmless_types
from cerebellum.allocation.sizes import Target
from cerebellum.allocation.table import Table
from cerebellum.domain import Model
from cerebellum.errors import InputError
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.results.estimate import Estimate
from cerebellum.stats.intervals import smallest_detectable
from cerebellum.verbs.allocation.anchors import LOOKS
from cerebellum.verbs.allocation.controls import n_shuffled_chunks
from cerebellum.verbs.allocation.first import (
    StockPlan,
    check_rules,
    checked_budget,
    nominal_table,
    own_reference_doubts,
    refuse_own_reference,
    stock_plan,
)
from cerebellum.verbs.allocation.ladder import check_targets, from_the_middle, labels_of
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.origin import check_origin, other_family
from cerebellum.verbs.allocation.refine import first_judged, judging_cost, step_chunks
from cerebellum.verbs.allocation.sensitivity import check_map
from cerebellum.verbs.allocation.transfer import expected_trials
from cerebellum.verbs.allocation.weights import SAMPLED_WEIGHTS
from cerebellum.verbs.calibration import is_comparable
from cerebellum.verbs.estimating import (
    NOISE_PASSES,
    ONE_TENSOR,
    TimedModel,
    chunks_to_show,
    disk_of,
    memory_of,
    notes_of,
    rows_of,
    time_model,
)
from cerebellum.verbs.inputs import Inputs, read_inputs
from cerebellum.verbs.options import SessionOptions

Planned = TypeVar("Planned")

#: Standard deviation between chunks of a recipe's change of KL divergence, as a share of the stock file's mean: on the models measured so
#: far 0.06 to 0.15 (recipes at equal bytes, 128 to 256 scored tokens a chunk).
SPREAD = 0.2
#: A difference between files worth showing, as a share of the stock file's KL divergence.
USEFUL = 0.05
#: Whole files measured: candidate recipes on the search text; base, recipe, controls, stock rungs and the written file on the report text,
#: in a ladder after the first size without the rungs that are known by then.
CANDIDATES, REPORTED, REPORTED_NEXT = 6, 12, 8
#: Whole files made while a recipe is refined: the recipe itself and steps from it. A weight error costs some more than making the weight.
REFINED, CHECKED = 4.0, 1.3


@dataclass(frozen=True, slots=True)
class _Rung:
    """A file that the job makes: its stock file, the table, the trials of single tensors that it measures (``n_harmless``: of the floor),
    chunks of trials by what they are for, and weights that are made in other types."""

    stock: StockPlan
    table: Table
    n_trials: int
    n_harmless: int
    counts: dict[str, float]
    made: float


def estimate_allocation(
    options: SessionOptions,
    allocation: AllocationOptions,
    backend: Backend,
    progress: Progress | None = None,
    targets: Sequence[Target] = (),
) -> Estimate:
    """Opens the model, cuts the texts, times a chunk. ``targets``: the sizes of a ladder, one of which measures the anchors for all. Raises
    a `CerebellumError` for all that `allocate_session` would refuse of the inputs."""
    progress = progress or Silent()
    check_rules(allocation.rules, model_file.read_model(options.model))
    progress.note(f"estimate: reading {options.model.name} and the texts")
    if allocation.origin is not None:
        check_origin(allocation.origin, options.model)
    inputs = read_inputs(options)
    source = inputs.source
    progress.note("estimate: asking llama.cpp for the stock file's types")
    sizes = in_order(options, allocation, targets, source, backend) if targets else (allocation.target,)
    plans, missed = stock_plans(inputs, options, allocation, sizes, backend)
    makes_imatrix = plans[0].makes_imatrix
    model = time_model(options, inputs, backend, progress, makes_imatrix)
    solvable, small = _possible(
        [(f"{stock.limit:,} bytes", partial(_solvable, inputs, stock, allocation, model)) for stock in plans]
    )
    # the first that can be had measures the anchors
    rungs = [_rung(*one, allocation, model, source, is_first=number == 0) for number, one in enumerate(solvable)]
    counts = counts_of(rungs, model, inputs, makes_imatrix)
    first, rungs = rungs[0], sorted(rungs, key=lambda rung: rung.stock.limit)
    search, report = model.search, model.report
    n = min(len(search.chunks), len(report.chunks))
    rows = rows_of((search, report), model.n_vocab, options.settings)
    bases = {rung.stock.ftype: rung.table.base for rung in rungs}  # sizes beside one stock mix share its file
    return Estimate(
        source.path.name,
        rungs[-1].stock.ftype,
        rungs[-1].stock.limit,
        len(first.table.names),
        first.n_trials + first.n_harmless,
        len(search.chunks),
        len(report.chunks),
        round(sum(counts.values())),
        (counts["anchors"] + counts["steps"]) * ONE_TENSOR
        + sum(counts[n] for n in ("judging", "recipes", "reference"))
        + model.imatrix_passes * model.n_engines,  # one engine makes it, whatever others there are
        model.seconds,
        rows + sum(rung.stock.limit for rung in rungs) + sum(disk_of(b, 0, f, source, 0) for f, b in bases.items()),
        max(memory_of(source, rung.table.base, options.settings.replay_bytes) for rung in rungs),
        SPREAD,
        smallest_detectable(SPREAD / math.sqrt(n), n),
        USEFUL,
        chunks_to_show(USEFUL, SPREAD),
        tuple(
            notes_of(
                options.n_chunks,
                (
                    *missed,
                    *small,
                    *model.notes,
                    *own_reference_doubts(inputs),
                    *inputs.doubts,
                    *_families(allocation, source),
                ),
                (search, report),
            )
        ),
        n_engines=model.n_engines,
        is_exact=all(size.n_bytes is not None for size in sizes)
        or has_own_header(source, makes_imatrix or inputs.imatrix),
        quantizing=model.seconds_a_weight * sum(rung.made for rung in rungs),
        sizes=tuple((rung.stock.ftype, rung.stock.limit) for rung in rungs) if targets else (),
    )


def stock_plans(
    inputs: Inputs, options: SessionOptions, allocation: AllocationOptions, sizes: Sequence[Target], backend: Backend
) -> tuple[list[StockPlan], list[str]]:
    """(the stock file of each size, with one importance matrix for all where any wants one; why others can't be had). Raises `InputError`
    where no size can, or for a map that isn't of this job."""
    plans, missed = _possible(
        [(str(size), partial(stock_plan, inputs, options, replace(allocation, target=size), backend)) for size in sizes]
    )
    makes_imatrix = any(stock.makes_imatrix for stock in plans)
    if allocation.sensitivity is not None:
        check_map(allocation.sensitivity, options.model, options.imatrix, backend.id, makes_imatrix)
    return [replace(stock, makes_imatrix=makes_imatrix) for stock in plans], missed


def counts_of(rungs: Sequence[_Rung], model: TimedModel, inputs: Inputs, makes_imatrix: bool) -> dict[str, float]:
    """Chunks of trials of all files together, the first file's first, and of what they share."""
    first, n_search = rungs[0], len(model.search.chunks)
    counts = {name: sum(rung.counts[name] for rung in rungs) for name in first.counts}
    if (makes_imatrix or inputs.imatrix) and is_comparable(inputs.source, first.stock.ftype, first.stock.types):
        counts["recipes"] += n_search  # the base without the importance matrix, once
    counts["reference"] = float(n_search + len(model.report.chunks) + NOISE_PASSES)
    if first.n_trials and not inputs.is_own_reference:
        counts["reference"] += 2 * n_search  # the source's own words, and the source beside the reference
    return counts


def _possible(sizes: Sequence[tuple[str, Callable[[], Planned]]]) -> tuple[list[Planned], list[str]]:
    """What is planned of each size, and of each that can't be had why. Raises the first size's `InputError` where none can."""
    planned, missed, errors = list[Planned](), list[str](), list[InputError]()
    for size, plan in sizes:
        try:
            planned.append(plan())
        except InputError as error:
            missed.append(f"no file of {size}: {error}")
            errors.append(error)
    if not planned:
        raise errors[0]
    return planned, missed


def in_order(
    options: SessionOptions, allocation: AllocationOptions, targets: Sequence[Target], source: Model, backend: Backend
) -> list[Target]:
    """The sizes of a ladder in the order in which it makes them. Raises `InputError` for those that it refuses."""
    check_targets(options, targets)
    labels = labels_of(targets, source, backend, options, allocation.rules)
    return [labels[label] for label in from_the_middle(list(labels))]


def _solvable(
    inputs: Inputs, stock: StockPlan, allocation: AllocationOptions, model: TimedModel
) -> tuple[StockPlan, Table, int]:
    """(the stock file, the table, bytes for its tensors). Raises `InputError` where there can be no file."""
    table = nominal_table(inputs, stock, allocation, model.unused)
    budget = checked_budget(table, stock.limit)
    refuse_own_reference(table, inputs, stock.limit)
    return stock, table, budget


def _rung(
    stock: StockPlan,
    table: Table,
    budget: int,
    allocation: AllocationOptions,
    model: TimedModel,
    source: Model,
    *,
    is_first: bool,
) -> _Rung:
    """What one file takes; the first one of a ladder also what all share."""
    trials = counted_trials(table, budget, allocation, source) if is_first else (0, 0, 0)
    reported = REPORTED if is_first else REPORTED_NEXT
    counts = chunk_counts(*trials, reported, len(table.names), model, allocation)
    _, n_trials, n_harmless = trials
    made = made_weights(table, n_trials + n_harmless, reported, allocation) + (
        sampled_weights(table) if is_first else 0
    )
    return _Rung(stock, table, n_trials, n_harmless, counts, made)


def sampled_weights(table: Table) -> float:
    """Weights that are made in other types for the weight errors: of a sample of each tensor."""
    sampled = sum(len(table.types[name]) * min(table.tensors[name].n_elements, SAMPLED_WEIGHTS) for name in table.names)
    return CHECKED * sampled


def made_weights(table: Table, n_trials: int, reported: int, allocation: AllocationOptions) -> float:
    """Weights that are made in other types, in whole files, times their number: of a tensor for each trial, of all tensors for whole
    recipes, ``reported`` of which on the report text. Recipes that are measured together share tensors, about half of them."""
    weights = sum(table.tensors[name].n_elements for name in table.names)
    files = n_trials / len(table.names) + 0.5 * CANDIDATES + reported + 0.5 * allocation.n_shuffled
    return (files + (REFINED if allocation.refine else 0.0)) * weights


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
    reported: int,
    n_tensors: int,
    model: TimedModel,
    allocation: AllocationOptions,
) -> dict[str, float]:
    """Chunks of trials by what they are for. Later looks at anchors are taken to hold half of the most that they may; refinement is taken
    to use up what it may. ``reported``: files that are measured on the report text."""
    search, report, seconds = model.search, model.report, model.seconds / model.n_engines
    n_search, n_report = len(search.chunks), len(report.chunks)
    first, last = min(LOOKS[0], n_search), min(LOOKS[-1], n_search)
    anchors = n_trials * first + 0.5 * MORE_SHARE * n_first * (last - first) + n_harmless * min(LOOKS[1], n_search)
    judging = float(judging_cost(first_judged(n_search)))
    steps = step_chunks(anchors or float(first * n_tensors), n_search)
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
        "recipes": CANDIDATES * n_search + reported * n_report + n_shuffled * n_shuffled_chunks(report),
    }
