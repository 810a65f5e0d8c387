"""The sweep: each chosen tensor alone in another type, measured on the search split, judged against the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cerebellum.allocation.effects import SingleEffect
from cerebellum.allocation.plan import SweepPlan, plan_sweep
from cerebellum.domain import Trial, TrialKind
from cerebellum.errors import EngineError
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.types import quant_type
from cerebellum.results import Sweep, SweepRow
from cerebellum.scoring.summary import Contrast, contrast, kld_sums, nll_sums, summarize
from cerebellum.stats.classes import Thresholds
from cerebellum.stats.fdr import adjusted_p
from cerebellum.stats.intervals import paired_values
from cerebellum.stats.sequential import Schedule, sequential_p
from cerebellum.study.runner import FailedTrial, Scores, TrialRunner
from cerebellum.verbs.base_mix import barrier
from cerebellum.verbs.identity import keep_canary
from cerebellum.verbs.imatrix_entries import coverage_in
from cerebellum.verbs.session import Session

#: Share of false discoveries that is tolerated among the effects of a sweep that are called real.
FALSE_DISCOVERIES = 0.05

BASE_TRIAL = Trial("base", TrialKind.BASE)


@dataclass(frozen=True, slots=True)
class RaceOptions:
    """Give each trial chunks only until its verdict is settled. Budgets bound what all trials together may decode."""

    budget_tokens: int | None = None
    budget_minutes: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What to try: roles (or 'all'), types, blocks (None: all). ``race`` None: every trial gets the whole search text."""

    roles: tuple[str, ...] = ("ffn_gate",)
    types: tuple[str, ...] = ("Q2_K",)
    blocks: tuple[int, ...] | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    race: RaceOptions | None = None


def make_plan(session: Session, options: SweepOptions) -> SweepPlan:
    """The trials of a sweep, with notes about fallbacks told to the user."""
    base, imatrix = session.base.model, session.options.imatrix
    plan = plan_sweep(
        base,
        base.types,
        options.roles,
        options.types,
        options.blocks,
        has_imatrix=imatrix is not None,
        unused=session.engines[0].unused,
        barred=barrier(
            session.base.mix,
            base,
            load_imatrix(imatrix) if imatrix else None,
            coverage_in(imatrix, base).cannot_have if imatrix else None,
        ),
    )
    for note in (*plan.notes, *_left_out(plan)):
        session.progress.note(note)
    return plan


def _left_out(plan: SweepPlan) -> list[str]:
    """What is said of tensors that aren't measured because they can't be stored or were excluded."""
    told = [skip for skip in plan.skipped if skip.reason.startswith(("is excluded", "can't be", "has no entry"))]
    return [f"{skip.tensor} {skip.reason}, so it is not measured at {skip.type}" for skip in told[:8]] + (
        [f"and {len(told) - 8} more that are not measured"] if len(told) > 8 else []
    )


def run_sweep(session: Session, plan: SweepPlan, options: SweepOptions) -> Sweep:
    """Measure the planned trials on the whole search split; what was measured before is not measured again.


    A trial that fails is left out. Raises `EngineError` where all of them do.
    """
    runner, chunks = session.part_runner(session.search), session.search.chunks
    if session.options.shard is not None:
        keep_canary(runner, plan.trials, session.base.model)
    scores = runner.measure([BASE_TRIAL, *plan.trials], chunks, "sweep")
    base = scores.pop(BASE_TRIAL.label)
    plan, failed = without_failed(plan, runner)
    pairs = {t.label: runner.paired(t, chunks) if runner.pooled else (scores[t.label], base) for t in plan.trials}
    rows = judge_rows(session, plan, pairs, options.thresholds)
    return Sweep(plan, summarize(base), base, rows, failed=failed)


def without_failed(plan: SweepPlan, runner: TrialRunner) -> tuple[SweepPlan, tuple[FailedTrial, ...]]:
    """The plan less the trials that failed, and those. Raises `EngineError` where none is left."""
    failed = runner.failed(plan.trials)
    lost = {failure.label for failure in failed}
    left = tuple(planned for planned in plan.planned if planned.trial.label not in lost)
    if not left:
        raise EngineError(
            f"every trial of the sweep failed, the first so: {failed[0].reason}; try them again with --retry-failed, or other types"
        )
    return replace(plan, planned=left), failed


def judge_rows(
    session: Session, plan: SweepPlan, pairs: Mapping[str, tuple[Scores, Scores]], thresholds: Thresholds
) -> tuple[SweepRow, ...]:
    """A row per trial of its scores and those of the base beside it; false-discovery control runs over all of them together."""
    adjusted = p_values([pairs[trial.label] for trial in plan.trials])
    rows = []
    for planned, p in zip(plan.planned, adjusted, strict=True):
        measured, base = pairs[planned.trial.label]
        whole = summarize(base)
        difference = contrast(measured, base, noise_floor=session.noise_floor, significant=p <= FALSE_DISCOVERIES)
        effect = effect_of(session, planned.trial, difference)
        rows.append(SweepRow(effect, summarize(measured), whole, difference, effect.classify(thresholds), p))
    return in_order(rows)


def in_order(rows: Iterable[SweepRow]) -> tuple[SweepRow, ...]:
    """Rows by block, tensor, type."""
    return tuple(sorted(rows, key=lambda row: (_place(row.effect), row.effect.tensor, row.effect.to_type)))


def _place(effect: SingleEffect) -> int:
    return -1 if effect.block is None else effect.block


def effect_of(session: Session, trial: Trial, difference: Contrast) -> SingleEffect:
    """The single effect of a trial of one swap."""
    (swap,) = trial.tensor_types
    tensor = session.base.model.tensor(swap.tensor)
    assert tensor is not None
    ppl, kld = difference.ppl, difference.kld
    return SingleEffect(
        tensor=tensor.name,
        block=tensor.block,
        role=tensor.role,
        from_type=tensor.type,
        to_type=swap.type,
        delta_bytes=tensor.bytes_as(quant_type(swap.type)) - tensor.n_bytes,
        estimate=ppl.estimate,
        low=ppl.low,
        high=ppl.high,
        kld=kld.estimate if kld else None,
        kld_low=kld.low if kld else None,
        kld_high=kld.high if kld else None,
    )


def p_values(pairs: Sequence[tuple[Scores, Scores]]) -> list[float]:
    """Adjusted p-values (Benjamini-Hochberg) of each trial's difference from its base: in KL divergence where measured, else in NLL."""
    raw = []
    for scores, base in pairs:
        kld, base_kld = kld_sums(scores), kld_sums(base)
        if kld and base_kld:
            values = paired_values(kld, base_kld)
        else:
            values = paired_values(nll_sums(scores), nll_sums(base))
        raw.append(sequential_p(values, Schedule((len(values),))) if len(values) > 1 else 1.0)
    return [float(p) for p in adjusted_p(raw)]


def delta_bytes(session: Session, trial: Trial) -> int:
    """Bytes of tensor data more (or less) than the base's."""
    total = 0
    for swap in trial.tensor_types:
        tensor = session.base.model.tensor(swap.tensor)
        assert tensor is not None
        total += tensor.bytes_as(quant_type(swap.type)) - tensor.n_bytes
    return total
