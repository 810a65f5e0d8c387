"""What a sweep, or a sweep and its choice, will take and can show: trials counted, a chunk timed. Nothing is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from cerebellum.allocation.plan import SweepPlan, plan_sweep
from cerebellum.allocation.policies import POLICIES, check_policy
from cerebellum.gguf.overrides import pairs
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.results.estimate import Estimate
from cerebellum.stats.intervals import smallest_detectable
from cerebellum.stats.racing import plan_race
from cerebellum.stats.verdicts import PRACTICAL_SHARE
from cerebellum.verbs.base import base_ftype, planned_types
from cerebellum.verbs.base_mix import mix_of
from cerebellum.verbs.calibration import check_calibration, is_comparable, wants_imatrix
from cerebellum.verbs.doubts import OWN_REFERENCE, race_doubts, refuse_hopeless
from cerebellum.verbs.estimating import (
    NOISE_PASSES,
    ONE_TENSOR,
    chunks_to_show,
    disk_of,
    memory_of,
    nominal_base,
    notes_of,
    rows_of,
    time_model,
)
from cerebellum.verbs.inputs import Inputs, read_inputs
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.pipeline import (
    ChoiceOptions,
    check_sweep,
    check_writable,
    of_own_reference,
)
from cerebellum.verbs.sweep import SweepOptions
from cerebellum.verbs.validity import LADDER

#: Standard deviation between chunks of one tensor's change of KL divergence, as a share of the base's mean: on the bundled model at Q3_K_M,
#: 283 trials of all roles at Q2_K, Q4_K and Q6_K, 128 scored tokens a chunk, the median is 0.046 (0.057, 0.045, 0.040 by type).
SPREAD = 0.05


def estimate_sweep(
    options: SessionOptions,
    sweep: SweepOptions,
    choice: ChoiceOptions | None,
    backend: Backend,
    progress: Progress | None = None,
) -> Estimate:
    """Opens the model, cuts the texts, times a chunk. ``choice`` None: of a sweep alone. Raises a `CerebellumError` for all that
    `sweep_session` or `run_session` would refuse of the inputs."""
    progress = progress or Silent()
    if choice is not None:
        check_policy(choice.policy)
        check_writable(options, sweep)
    check_sweep(options, sweep, backend)
    inputs = read_inputs(options)
    source, is_own = inputs.source, of_own_reference(options)
    makes_imatrix = wants_imatrix(options, sweep.types, backend)
    types, has_imatrix = base_types(options, makes_imatrix, inputs, backend)
    plan = plan_sweep(source, types, sweep.roles, sweep.types, sweep.blocks, has_imatrix=has_imatrix)
    if is_own and choice is not None and not choice.by_perplexity:
        refuse_hopeless(plan, source)
    model = time_model(options, inputs, backend, progress, makes_imatrix)
    plan = replace(plan, planned=tuple(p for p in plan.planned if p.swap.tensor not in model.unused))
    base = nominal_base(source, base_ftype(source, options.base), types)
    doubts = [*model.notes, *([OWN_REFERENCE] if is_own else []), *inputs.doubts]
    doubts += race_doubts(len(model.search.chunks), sweep.race.seed) if sweep.race else []
    splits = (model.search,) if choice is None else (model.search, model.report)
    counts = chunk_counts(plan, sweep, choice, [len(split.chunks) for split in splits])
    if choice is not None and has_imatrix and is_comparable(source, options.base, types):
        counts["without imatrix"] = float(len(model.search.chunks))
    passes = sum(counts.values()) - counts["trials"] * (1.0 - one_trial(options.settings.replay_bytes))
    passes += model.imatrix_passes * model.n_engines  # one engine makes it, whatever others there are
    n_search = len(model.search.chunks)
    rows = rows_of(splits, model.n_vocab, options.settings)
    return Estimate(
        source.path.name,
        base.ftype or "",
        None,
        len({p.swap.tensor for p in plan.planned}),
        len(plan.planned),
        n_search,
        0 if choice is None else len(model.report.chunks),
        round(sum(counts.values())),
        passes,
        model.seconds,
        disk_of(base, 0 if choice is None else base.file_bytes, base.ftype or "", source, rows),
        memory_of(source, base, options.settings.replay_bytes),
        SPREAD,
        smallest_detectable(SPREAD / math.sqrt(n_search), n_search),
        PRACTICAL_SHARE,
        chunks_to_show(PRACTICAL_SHARE, SPREAD),
        tuple(notes_of(options.n_chunks, doubts, splits)),
        "sweep" if choice is None else "choice",
        model.n_engines,
    )


def one_trial(replay_bytes: int) -> float:
    """Whole passes that a trial of one tensor is worth."""
    return ONE_TENSOR if replay_bytes else 1.0


def base_types(
    options: SessionOptions, makes_imatrix: bool, inputs: Inputs, backend: Backend
) -> tuple[Mapping[str, str], bool]:
    """(the base's types by a dry run, whether there is an importance matrix): one that is yet to be made counts as there."""
    source = inputs.source
    if not makes_imatrix:
        types = planned_types(backend, source, options.imatrix, options.base, options.mix)
        return types, options.imatrix is not None
    ftype = base_ftype(source, options.base)
    check_calibration(options)
    return backend.types(source.path, ftype, pairs(mix_of(options.mix, source, ftype).lines), None), True


def chunk_counts(
    plan: SweepPlan, sweep: SweepOptions, choice: ChoiceOptions | None, n_chunks: list[int]
) -> dict[str, float]:
    """Chunks of trials by what they are for. ``n_chunks``: of the search text, and of the report text where there is a choice. A race is
    taken to need half of what its first look leaves."""
    n_search, n_both = n_chunks[0], sum(n_chunks)
    each = float(n_search)
    if sweep.race is not None:
        first = plan_race(range(n_search), sweep.race.seed)[1].looks[0]
        each = first + 0.5 * (n_search - first)
    counts = {"trials": len(plan.planned) * each, "base": float(n_search), "reference": float(n_both + NOISE_PASSES)}
    if choice is not None:
        blankets = len({kind for p in plan.planned for kind in p.asked})
        sets = (
            choice.n_random + blankets + len(POLICIES)
        )  # the recipe, and what the other policies would choose, among them
        counts["together"] = float(sets * n_both + 2 * n_chunks[1])  # base and written file on the report text
        counts["ladder"] = float(len(LADDER) * n_search) if choice.by_perplexity else 0.0
    return counts
