"""What stands beside a recipe at equal bytes, on text that had no part in the choice, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

from cerebellum.allocation.recipes import WEIGHT_ERROR, shuffles, uniform, weight_error_recipe
from cerebellum.allocation.table import Table
from cerebellum.domain import Trial, TrialKind
from cerebellum.results.allocation import Controls, Equivalent, Rung, Shuffled
from cerebellum.scoring.summary import mean_kld
from cerebellum.stats.intervals import Interval
from cerebellum.study.runner import Split
from cerebellum.verbs.allocation.measuring import first_chunks, kld_ratio, recipe_trial
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.stock import climb, equivalent_bytes
from cerebellum.verbs.compose import compare
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL

#: Chunks of the report text that shuffled recipes are measured on, at most: there are many of them, and they are far away.
SHUFFLE_CHUNKS = 3


def run_controls(session: Session, table: Table, recipe: Trial, budget: int, options: AllocationOptions) -> Controls:
    """Measure the recipe and its controls on the report text."""
    alone = recipe_trial(session, WEIGHT_ERROR, weight_error_recipe(table, budget).types)
    blankets = [recipe_trial(session, n, types, TrialKind.BLANKET) for n, types in uniform(table, budget).items()]
    comparison = compare(session, session.report, [BASE_TRIAL, recipe, alone, *blankets])
    runner, chunks = session.runner(session.report), session.report.chunks
    base, ours, theirs = (runner.known(trial, chunks) for trial in (BASE_TRIAL, recipe, alone))
    ratio = kld_ratio(ours, base)
    rungs = climb(
        session,
        table,
        session.report,
        mean_kld(base) * max(min(ratio.low, ratio.estimate), 0.0),
        mean_kld(base) * ratio.high,
    )
    return Controls(
        comparison,
        ratio,
        kld_ratio(ours, theirs),
        measure_shuffles(session, table, recipe, options),
        rungs,
        equivalent_of(rungs, mean_kld(base), ratio),
    )


def measure_shuffles(session: Session, table: Table, recipe: Trial, options: AllocationOptions) -> Shuffled:
    """The recipe's types shuffled within their roles, on a few chunks."""
    types = {name: kind for name, kind in recipe.types(session.base.model.types).items() if name in table.types}
    drawn = shuffles(table, types, options.n_shuffled, options.seed)
    split: Split = first_chunks(session.report, SHUFFLE_CHUNKS, options.seed)
    trials = [recipe_trial(session, f"shuffled {i}", one, TrialKind.RANDOM) for i, one in enumerate(drawn, start=1)]
    scores = session.runner(split).measure([BASE_TRIAL, recipe, *trials], split.chunks, "shuffled controls")
    start = mean_kld(scores[BASE_TRIAL.label]) or 1.0
    return Shuffled(
        mean_kld(scores[recipe.label]) / start,
        tuple(mean_kld(scores[t.label]) / start for t in trials if t.label in scores),
        len(split.chunks),
    )


def equivalent_of(rungs: Sequence[Rung], base_kld: float, ratio: Interval) -> Equivalent:
    """Where the recipe's KL divergence lies on the stock ladder; a smaller share is a larger file."""
    found = [equivalent_bytes(rungs, base_kld * share) for share in (ratio.estimate, ratio.high, ratio.low)]
    return Equivalent(*found)
