"""The sweep: each chosen tensor alone in another type, measured on the search split, judged against the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cerebellum.classify import Class, Thresholds
from cerebellum.domain import Trial, TrialKind
from cerebellum.effects import SingleEffect
from cerebellum.fdr import adjusted_p
from cerebellum.measurer import Scores
from cerebellum.plan import SweepPlan, plan_sweep
from cerebellum.quants import quant_type
from cerebellum.sequential import Schedule, sequential_p
from cerebellum.stats import paired_values
from cerebellum.summary import Contrast, Summary, contrast, kld_sums, nll_sums, summarize
from cerebellum.verbs.job import Job

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


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One tensor at one type: its figures, the base's on the same chunks, its difference from the base, its class by perplexity, its
    adjusted p-value."""

    effect: SingleEffect
    summary: Summary
    base: Summary
    contrast: Contrast
    word: Class
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Race:
    """How a race went: chunks decoded for trials, what the full text would have taken, rounds, and whether the budget ended it."""

    n_chunks: int
    n_chunks_full: int
    n_rounds: int
    exhausted: bool
    looks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The plan, the base on the search split, a row per trial in the order of blocks, and how the race went, if it was one."""

    plan: SweepPlan
    base: Summary
    base_scores: Scores
    rows: tuple[SweepRow, ...]
    race: Race | None = None

    @property
    def effects(self) -> tuple[SingleEffect, ...]:
        return tuple(row.effect for row in self.rows)


def make_plan(job: Job, options: SweepOptions) -> SweepPlan:
    """The trials of a sweep, with notes about fallbacks told to the user."""
    base = job.base.model
    plan = plan_sweep(
        base,
        base.types,
        options.roles,
        options.types,
        options.blocks,
        has_imatrix=job.options.imatrix is not None,
        unused=job.engines[0].unused,
    )
    for note in plan.notes:
        job.progress.note(note)
    return plan


def run_sweep(job: Job, options: SweepOptions, allowed_damage: float | None = None) -> Sweep:
    """Measure the planned trials on the search split; what was measured before is not measured again.

    ``allowed_damage``: a race may let go what is surely too costly to be chosen; see `verbs.race.run_race`.
    """
    plan = make_plan(job, options)
    if options.race is not None:
        from cerebellum.verbs.race import run_race

        return run_race(job, plan, options, options.race, allowed_damage)
    scores = job.measurer(job.search).measure([BASE_TRIAL, *plan.trials], job.search.chunks, "sweep")
    base = scores.pop(BASE_TRIAL.label)
    return Sweep(plan, summarize(base), base, judge_rows(job, plan, scores, base, options.thresholds))


def judge_rows(
    job: Job, plan: SweepPlan, scores: Mapping[str, Scores], base: Scores, thresholds: Thresholds
) -> tuple[SweepRow, ...]:
    """A row per trial; false-discovery control runs over all of them together."""
    adjusted = p_values([scores[trial.label] for trial in plan.trials], base)
    whole = summarize(base)
    rows = []
    for planned, p in zip(plan.planned, adjusted, strict=True):
        measured = scores[planned.trial.label]
        difference = contrast(measured, base, noise_floor=job.noise_floor, significant=p <= FALSE_DISCOVERIES)
        effect = effect_of(job, planned.trial, difference)
        rows.append(SweepRow(effect, summarize(measured), whole, difference, effect.classify(thresholds), p))
    return in_order(rows)


def in_order(rows: Iterable[SweepRow]) -> tuple[SweepRow, ...]:
    """Rows by block, tensor, type."""
    return tuple(sorted(rows, key=lambda row: (_place(row.effect), row.effect.tensor, row.effect.to_type)))


def _place(effect: SingleEffect) -> int:
    return -1 if effect.block is None else effect.block


def effect_of(job: Job, trial: Trial, difference: Contrast) -> SingleEffect:
    """The single effect of a trial of one swap."""
    (swap,) = trial.swaps
    tensor = job.base.model.tensor(swap.tensor)
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


def p_values(trials: Sequence[Scores], base: Scores) -> list[float]:
    """Adjusted p-values (Benjamini-Hochberg) of each trial's difference: in KL divergence where measured, else in NLL."""
    base_kld = kld_sums(base)
    raw = []
    for scores in trials:
        kld = kld_sums(scores)
        if kld and base_kld:
            values = paired_values(kld, base_kld)
        else:
            values = paired_values(nll_sums(scores), nll_sums(base))
        raw.append(sequential_p(values, Schedule((len(values),))) if len(values) > 1 else 1.0)
    return [float(p) for p in adjusted_p(raw)]


def delta_bytes(job: Job, trial: Trial) -> int:
    """Bytes of tensor data more (or less) than the base's."""
    total = 0
    for swap in trial.swaps:
        tensor = job.base.model.tensor(swap.tensor)
        assert tensor is not None
        total += tensor.bytes_as(quant_type(swap.type)) - tensor.n_bytes
    return total
