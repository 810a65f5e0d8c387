"""The sweep as a race: each trial gets chunks until its verdict is settled, most uncertain first; a budget may end it earlier.

Which chunks a trial gets depends on the measurements alone (`cerebellum.racing`), so worker count, order and interruptions change
nothing. Intervals and verdicts hold under these repeated looks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from cerebellum.domain import Trial
from cerebellum.errors import InputError
from cerebellum.measure import Measurer, Scores
from cerebellum.plan import SweepPlan
from cerebellum.racing import RaceRules, RaceState, Standing, next_step, plan_race, race_state
from cerebellum.sequential import repeated_interval
from cerebellum.stats import ChunkSums, Interval, ratio_values
from cerebellum.summary import Contrast, summarize
from cerebellum.verbs.job import Job
from cerebellum.verbs.sweep import (
    BASE_TRIAL,
    FALSE_DISCOVERIES,
    Race,
    RaceOptions,
    Sweep,
    SweepOptions,
    SweepRow,
    effect_of,
    in_order,
)
from cerebellum.verdict import judge, practical_margin


def run_race(job: Job, plan: SweepPlan, sweep_options: SweepOptions, options: RaceOptions) -> Sweep:
    """Race the planned trials on the search split. Raises `InputError` where the budget can't give every trial its first look."""
    order, schedule = plan_race(job.search.chunks, options.seed)
    measurer = job.measurer(job.search)
    base = _base(job, measurer)
    rules = RaceRules(order, schedule, rate=FALSE_DISCOVERIES, margin=practical_margin(_mean_kld(base)))
    trials = {trial.label: trial for trial in plan.trials}
    budget = budget_chunks(job, options)
    if budget is not None and budget < len(trials) * schedule.looks[0]:
        least = -(-len(trials) * schedule.looks[0] * job.search.n_tokens // len(job.search.chunks))
        raise InputError(
            f"{len(trials)} trials need {least:,} tokens for their first look of {schedule.looks[0]} chunks each; give a larger budget, "
            "fewer tensors or types, or a smaller --ctx"
        )
    state, exhausted = _rounds(measurer, rules, trials, base, budget)
    scores = {label: measurer.known(trial, order) for label, trial in trials.items()}
    rows = [
        race_row(job, sweep_options, trials[standing.trial], standing, scores[standing.trial], base, rules)
        for standing in state.standings
    ]
    n_rounds = 1 + max((standing.look for standing in state.standings), default=0)
    race = Race(sum(map(len, scores.values())), len(trials) * len(order), n_rounds, exhausted, schedule.looks)
    return Sweep(plan, summarize(base), base, in_order(rows), race)


def _base(job: Job, measurer: Measurer) -> Scores:
    """The base on the whole search split; how long a chunk took is kept, for a budget in minutes."""
    missing = len(job.search.chunks) - len(measurer.known(BASE_TRIAL, job.search.chunks))
    started = time.monotonic()
    base = measurer.measure([BASE_TRIAL], job.search.chunks, "base")[BASE_TRIAL.label]
    if job.study.fact("seconds a chunk") is None and missing:
        job.study.set_fact("seconds a chunk", (time.monotonic() - started) / missing)
    return base


def budget_chunks(job: Job, options: RaceOptions) -> int | None:
    """How many chunks all trials together may take; minutes are turned into chunks once, by the rate the base was measured at."""
    budgets = []
    if options.budget_tokens is not None:
        budgets.append(options.budget_tokens * len(job.search.chunks) // job.search.n_tokens)
    if options.budget_minutes is not None:
        budgets.append(int(options.budget_minutes * 60 / max(float(job.study.fact("seconds a chunk") or 1.0), 1e-9)))
    return min(budgets, default=None)


def _mean_kld(base: Scores) -> float:
    return sum(score.kld or 0.0 for score in base.values()) / sum(score.n_tokens for score in base.values())


def _rounds(
    measurer: Measurer, rules: RaceRules, trials: Mapping[str, Trial], base: Scores, budget: int | None
) -> tuple[RaceState, bool]:
    """Measure round by round until the race is over (False) or the budget is spent (True)."""
    while True:
        known = {label: differences(measurer.known(trial, rules.order), base) for label, trial in trials.items()}
        state = race_state(rules, list(trials), known)
        step = next_step(state, budget)
        if state.done or not step.assignments:
            return state, step.exhausted
        what = (
            f"race, look {(state.round or 0) + 1} of {len(rules.schedule.looks)}, {len(step.assignments)} trials open"
        )
        measurer.measure_each([(trials[a.trial], a.chunks) for a in step.assignments], what)


def differences(trial: Scores, base: Scores) -> ChunkSums:
    """Chunk → (KL divergence sum of trial - base, scored tokens)."""
    return {chunk: ((score.kld or 0.0) - (base[chunk].kld or 0.0), score.n_tokens) for chunk, score in trial.items()}


def race_row(
    job: Job, options: SweepOptions, trial: Trial, standing: Standing, scores: Scores, base: Scores, rules: RaceRules
) -> SweepRow:
    """A row on what the trial was given; its intervals hold under repeated looks."""
    looked = rules.order[: rules.schedule.looks[standing.look]]
    scores = {chunk: scores[chunk] for chunk in looked}
    kld, ppl = standing.interval, _ppl_interval(scores, base, standing.look, rules)
    assert kld is not None  # the budget covers the first look of every trial
    significant = standing.adjusted_p <= rules.rate
    judged = judge(kld, ppl, noise_floor=rules.noise_floor, margin=rules.margin, significant=significant)
    difference = Contrast(ppl, kld, judged)
    effect = effect_of(job, trial, difference)
    return SweepRow(effect, summarize(scores), difference, effect.classify(options.thresholds), standing.adjusted_p)


def _ppl_interval(scores: Scores, base: Scores, look: int, rules: RaceRules) -> Interval:
    """The change of mean NLL, at the look's repeated level."""
    chunks = rules.order[: rules.schedule.looks[look]]
    sums = np.array([scores[c].nll - base[c].nll for c in chunks])
    counts = np.array([scores[c].n_tokens for c in chunks], np.float64)
    return repeated_interval(ratio_values(sums, counts), look, rules.schedule, rules.alpha)
