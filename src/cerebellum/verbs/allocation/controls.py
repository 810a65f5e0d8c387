"""What stands beside a recipe at equal bytes, on text that had no part in the choice, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cerebellum.allocation.recipes import WEIGHT_ERROR, shuffles, uniform, weight_error_recipe
from cerebellum.allocation.sizes import file_bytes
from cerebellum.allocation.table import Table
from cerebellum.domain import Trial, TrialKind
from cerebellum.results.allocation import Controls, Shuffled
from cerebellum.scoring.summary import mean_kld
from cerebellum.stats.intervals import mean_interval
from cerebellum.study.runner import FailedTrial, Split
from cerebellum.verbs.allocation.measuring import effect_values, first_chunks, kld_ratio, recipe_trial
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.stock import beside_stock, stock_trial
from cerebellum.verbs.compose import compare
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL

#: Scored tokens of the report text that shuffled recipes are measured on, or a few more, and the fewest chunks that hold them: there are
#: many shuffled recipes, and they are only counted.
SHUFFLED_TOKENS, SHUFFLED_CHUNKS = 1000, 3
#: Chance that any control of a kind is called better than the recipe though none is.
ERROR_RATE = 0.05


def run_controls(
    session: Session, table: Table, recipe: Trial, budget: int, limit: int, options: AllocationOptions
) -> Controls:
    """Measure the recipe and its controls on the report text. A control that can't be measured is listed, and the others judge.
    ``limit``: bytes of the file at most."""
    alone = recipe_trial(session, WEIGHT_ERROR, weight_error_recipe(table, budget).types)
    blankets = [recipe_trial(session, n, types, TrialKind.BLANKET) for n, types in uniform(table, budget).items()]
    comparison = compare(session, session.report, [BASE_TRIAL, recipe, alone, *blankets])
    beside, failed = beside_stock(session, table.base, session.report, recipe, limit, options.rules)
    runner, chunks = session.runner(session.report), session.report.chunks
    ours = runner.known(recipe, chunks)
    measured = {row.trial.label for row in comparison.rows}
    theirs = runner.known(alone, chunks) if alone.label in measured else {}
    shuffled, lost, better = measure_shuffles(session, table, recipe, limit, options)
    others = [trial for trial in (BASE_TRIAL, alone, *blankets) if trial.label in measured]
    others += [trial for rung in beside.ladder if (trial := stock_trial(session, rung.ftype)).tensor_types]
    return Controls(
        comparison,
        beside.ratio,
        kld_ratio(ours, theirs),
        shuffled,
        beside.ladder,
        beside.equivalent,
        tuple({failure.label: failure for failure in (*comparison.failed, *failed, *lost)}.values()),
        (*surely_better(session, session.report, table, recipe, others, limit), *better),
        beside.rival,
    )


def n_shuffled_chunks(report: Split) -> int:
    """How many chunks of ``report`` shuffled recipes are measured on, by the tokens that a chunk scores on average."""
    n_chunks = len(report.chunks)
    n_scored = sum(int(chunk.wanted().sum()) for chunk in report.corpus.chunks(report.chunks))
    return min(n_chunks, max(SHUFFLED_CHUNKS, math.ceil(SHUFFLED_TOKENS * n_chunks / max(n_scored, 1))))


def surely_better(
    session: Session, split: Split, table: Table, recipe: Trial, others: Sequence[Trial], limit: int
) -> tuple[str, ...]:
    """Labels of the ``others``, measured on ``split``, that are nearer to the reference than the recipe beyond the interval, no larger
    than ``limit`` and of allowed types. All of them together err with `ERROR_RATE` at most."""
    runner, base = session.runner(split), session.base.model.types
    ours = runner.known(recipe, split.chunks)
    fitting = [t for t in others if table.allows(types := t.types(base)) and file_bytes(table.base, types) <= limit]
    level = 1.0 - ERROR_RATE / max(len(fitting), 1)
    changes = {t.label: effect_values(runner.known(t, split.chunks), ours) for t in fitting}
    return tuple(label for label, values in changes.items() if mean_interval(values, level).high < 0.0)


def measure_shuffles(
    session: Session, table: Table, recipe: Trial, limit: int, options: AllocationOptions
) -> tuple[Shuffled, tuple[FailedTrial, ...], tuple[str, ...]]:
    """The recipe's types shuffled within their roles, on a few chunks; those that can't be measured; those that are surely better."""
    types = {name: kind for name, kind in recipe.types(session.base.model.types).items() if name in table.types}
    drawn = shuffles(table, types, options.n_shuffled, options.seed)
    split: Split = first_chunks(session.report, n_shuffled_chunks(session.report), options.seed)
    trials = [recipe_trial(session, f"shuffled {i}", one, TrialKind.RANDOM) for i, one in enumerate(drawn, start=1)]
    runner = session.runner(split)
    scores = runner.measure([BASE_TRIAL, recipe, *trials], split.chunks, "shuffled controls")
    measured = [trial for trial in trials if trial.label in scores]
    start = mean_kld(scores[BASE_TRIAL.label])
    unit = start or mean_kld(scores[recipe.label]) or 1.0
    shuffled = Shuffled(
        mean_kld(scores[recipe.label]) / unit,
        tuple(mean_kld(scores[trial.label]) / unit for trial in measured),
        len(split.chunks),
        of_stock=start > 0.0,
    )
    return shuffled, runner.failed(trials), surely_better(session, split, table, recipe, measured, limit)
