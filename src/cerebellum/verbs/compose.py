"""The choice put together: the recipe beside what adding up predicted, and beside its controls, all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cerebellum.domain import Trial, TrialKind, swaps_of
from cerebellum.effects import Prediction, predict_additive
from cerebellum.measurer import Split
from cerebellum.plan import blanket_trial, random_trials
from cerebellum.select import Choice
from cerebellum.summary import Contrast, Summary, contrast, summarize
from cerebellum.verbs.job import Job
from cerebellum.verbs.sweep import BASE_TRIAL, Sweep, delta_bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A whole set of types on one split; ``from_base`` and ``from_recipe`` are None for the set compared with itself."""

    trial: Trial
    delta_bytes: int
    summary: Summary
    from_base: Contrast | None
    from_recipe: Contrast | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base, recipe and controls on one split. The first row is the base, the second the recipe."""

    split: str
    rows: tuple[Row, ...]

    def row(self, kind: TrialKind) -> Row | None:
        """The first row of a kind."""
        return next((row for row in self.rows if row.trial.kind is kind), None)


@dataclass(frozen=True, slots=True)
class Combination:
    """The choice, its additive prediction, and what was measured on both splits."""

    choice: Choice
    recipe: Trial
    prediction: Prediction
    search: Comparison
    report: Comparison


def combine(
    job: Job, sweep: Sweep, choice: Choice, alternatives: Sequence[Choice], n_random: int, seed: int
) -> Combination:
    """Measure the chosen set, what other policies would have chosen, and the controls, on the search and the report split."""
    recipe = Trial("recipe", TrialKind.RECIPE, choice.swaps)
    others = [Trial(f"policy {c.policy}", TrialKind.RECIPE, c.swaps) for c in alternatives if c.effects]
    trials = [BASE_TRIAL, recipe, *others, *controls(job, sweep, choice, n_random, seed)]
    return Combination(
        choice,
        recipe,
        predict_additive(sweep.effects, choice.swaps),
        compare(job, job.search, trials),
        compare(job, job.report, trials),
    )


def controls(job: Job, sweep: Sweep, choice: Choice, n_random: int, seed: int) -> list[Trial]:
    """The base requantized without overrides, a blanket per type, random sets like the choice."""
    blankets = [
        blanket_trial(sweep.plan, kind) for kind in dict.fromkeys(kind for p in sweep.plan.planned for kind in p.asked)
    ]
    return [requantized(job), *blankets, *random_trials(sweep.plan, choice.swaps, n_random, seed)]


def requantized(job: Job) -> Trial:
    """What llama.cpp makes of the base when told its own file type again: the fair baseline where that changes types."""
    types = job.backend.types(job.base.model.path, job.base.ftype, (), job.options.imatrix)
    changed = {name: kind for name, kind in types.items() if kind != job.base.model.types[name]}
    return Trial("base requantized", TrialKind.REQUANTIZED, swaps_of(changed))


def compare(job: Job, split: Split, trials: list[Trial]) -> Comparison:
    """Measure ``trials`` (base first, recipe second) on a split and contrast them."""
    scores = job.measurer(split).measure(trials, split.chunks, f"comparison, {split.name} text")
    base, recipe = scores[trials[0].label], scores[trials[1].label]
    rows = tuple(
        Row(
            trial,
            delta_bytes(job, trial),
            summarize(scores[trial.label]),
            contrast(scores[trial.label], base, noise_floor=job.noise_floor) if trial is not trials[0] else None,
            contrast(scores[trial.label], recipe, noise_floor=job.noise_floor) if trial is not trials[1] else None,
        )
        for trial in trials
    )
    return Comparison(split.name, rows)
