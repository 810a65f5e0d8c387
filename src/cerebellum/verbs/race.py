"""The sweep as a race: each trial gets chunks until its verdict is settled, most uncertain first; a budget may end it earlier.

Which chunks a trial gets depends on the measurements alone (`cerebellum.stats.racing`), so worker count, order and interruptions change
nothing. Intervals and verdicts hold under these repeated looks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from cerebellum.allocation.plan import SweepPlan
from cerebellum.domain import Trial
from cerebellum.errors import InputError
from cerebellum.results import Race, Sweep, SweepRow
from cerebellum.scoring.summary import Contrast, mean_kld, summarize
from cerebellum.stats.intervals import ChunkSums, Interval, mean_interval, ratio_values
from cerebellum.stats.racing import Goal, RaceRules, RaceState, Standing, for_choice, next_step, plan_race, race_state
from cerebellum.stats.sequential import repeated_interval
from cerebellum.stats.verdicts import judge, practical_margin, scale_of
from cerebellum.study.runner import Scores, TrialRunner
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import (
    BASE_TRIAL,
    FALSE_DISCOVERIES,
    RaceOptions,
    SweepOptions,
    delta_bytes,
    effect_of,
    in_order,
    without_failed,
)


def run_race(
    session: Session, plan: SweepPlan, sweep_options: SweepOptions, options: RaceOptions, allowed_damage: float | None
) -> Sweep:
    """Race the planned trials on the search split: to their verdicts, or, with ``allowed_damage`` (a share of the base's own KL
    divergence), to the trials that can still be chosen. Raises `InputError` where the budget can't give every trial its first look."""
    order, schedule = plan_race(session.search.chunks, options.seed)
    runner = session.runner(session.search)
    base = runner.measure([BASE_TRIAL], session.search.chunks, "base")[BASE_TRIAL.label]
    rules = RaceRules(
        order,
        schedule,
        rate=FALSE_DISCOVERIES,
        noise_floor=session.noise_floor,
        margin=practical_margin(mean_kld(base)),
    )
    trials = {trial.label: trial for trial in plan.trials}
    if allowed_damage is not None:
        allowed = allowed_damage * scale_of(mean_kld(base))
        saved = {trial.label: -delta_bytes(session, trial) for trial in plan.trials}
        rules = for_choice(rules, saved, {trial.label: trial.tensor_types[0].tensor for trial in plan.trials}, allowed)
    budget = budget_chunks(session, options, runner.series)
    if budget is not None and budget < len(trials) * schedule.looks[0]:
        raise InputError(too_small(session, options, runner.series, len(trials), schedule.looks[0], budget))
    state, exhausted = _rounds(runner, rules, trials, base, budget)
    plan, failed = without_failed(plan, runner)
    scores = {standing.trial: runner.known(trials[standing.trial], order) for standing in state.standings}
    rows = [
        race_row(session, sweep_options, trials[standing.trial], standing, scores[standing.trial], base, rules)
        for standing in state.standings
    ]
    n_rounds = 1 + max((standing.look for standing in state.standings), default=0)
    race = Race(state.n_measured, len(rows) * len(order), n_rounds, exhausted, schedule.looks)
    return Sweep(plan, summarize(base), base, in_order(rows), race, failed)


def budget_chunks(session: Session, options: RaceOptions, series: int) -> int | None:
    """How many chunks all trials together may take. Minutes become chunks by a rate that is measured once and kept with the study: a
    clock read along the way would make the choice depend on the machine's load."""
    budgets = []
    if options.budget_tokens is not None:
        budgets.append(options.budget_tokens * len(session.search.chunks) // session.search.n_tokens)
    if options.budget_minutes is not None:
        budgets.append(int(options.budget_minutes * 60 / seconds_a_chunk(session, series)))
    return min(budgets, default=None)


def too_small(session: Session, options: RaceOptions, series: int, n_trials: int, look: int, budget: int) -> str:
    """That a budget of so many chunks can't give every trial its first look, and how much would."""
    chunks = n_trials * look
    least = f"{-(-chunks * session.search.n_tokens // len(session.search.chunks)):,} tokens (--budget-tokens)"
    if options.budget_minutes is not None:
        least += f" and {minutes_for(chunks, seconds_a_chunk(session, series)):,.2f} minutes (--budget-minutes)"
    return (
        f"the budget holds {budget:,} chunks; {n_trials} trials need {least} for their first look of {look} chunks each; give a larger "
        "budget, fewer tensors or types, or a smaller --ctx"
    )


def minutes_for(chunks: int, seconds: float) -> float:
    """Minutes that hold so many chunks of so many seconds each, rounded up to hundredths."""
    return math.ceil((chunks + 1) * seconds / 60 * 100) / 100


def seconds_a_chunk(session: Session, series: int) -> float:
    """Seconds that one chunk of one trial takes on all engines together, measured on the base once per series and way of running."""
    name = f"seconds a chunk, series {series}, {session.options.settings.n_threads} threads, {session.options.workers} workers"
    known = session.study.fact(name)
    if known is None:
        chunks = session.search.corpus.chunks(session.search.chunks[:2])
        started = time.monotonic()
        list(
            session.engines[0].score(
                (), chunks, reference=session.reference_store(session.search), label="timing the base"
            )
        )
        known = max((time.monotonic() - started) / len(chunks) / len(session.engines), 1e-9)
        session.study.set_fact(name, known)
    return float(known)


def _rounds(
    runner: TrialRunner, rules: RaceRules, trials: Mapping[str, Trial], base: Scores, budget: int | None
) -> tuple[RaceState, bool]:
    """Measure round by round until the race is over (False) or the budget is spent (True). Trials that fail are out of the race: it is
    that of the others."""
    while True:
        lost = {failure.label for failure in runner.failed(list(trials.values()))}
        trials = {label: trial for label, trial in trials.items() if label not in lost}
        known = {label: differences(runner.known(trial, rules.order), base) for label, trial in trials.items()}
        state = race_state(rules, list(trials), known)
        step = next_step(state, budget)
        if state.done or not step.assignments:
            return state, step.exhausted
        what = (
            f"race, look {(state.round or 0) + 1} of {len(rules.schedule.looks)}, open trials: {len(step.assignments)}"
        )
        runner.measure_each([(trials[a.trial], a.chunks) for a in step.assignments], what)


def differences(trial: Scores, base: Scores) -> ChunkSums:
    """Chunk → (KL divergence sum of trial - base, scored tokens)."""
    return {chunk: ((score.kld or 0.0) - (base[chunk].kld or 0.0), score.n_tokens) for chunk, score in trial.items()}


def race_row(
    session: Session,
    options: SweepOptions,
    trial: Trial,
    standing: Standing,
    scores: Scores,
    base: Scores,
    rules: RaceRules,
) -> SweepRow:
    """A row on what the trial was given; its intervals hold under repeated looks."""
    looked = rules.order[: rules.schedule.looks[standing.look]]
    scores = {chunk: scores[chunk] for chunk in looked}
    kld, ppl = standing.interval, _ppl_interval(scores, base, standing.look, rules)
    assert kld is not None  # the budget covers the first look of every trial
    significant = standing.adjusted_p <= rules.rate
    judged = judge(kld, ppl, noise_floor=rules.noise_floor, margin=rules.margin, significant=significant)
    difference = Contrast(ppl, kld, judged)
    effect = effect_of(session, trial, difference)
    same = summarize({chunk: base[chunk] for chunk in looked})
    word = effect.classify(options.thresholds)
    return SweepRow(effect, summarize(scores), same, difference, word, standing.adjusted_p)


def _ppl_interval(scores: Scores, base: Scores, look: int, rules: RaceRules) -> Interval:
    """The change of mean NLL, at the look's repeated level."""
    chunks = rules.order[: rules.schedule.looks[look]]
    sums = np.array([scores[c].nll - base[c].nll for c in chunks])
    counts = np.array([scores[c].n_tokens for c in chunks], np.float64)
    values = ratio_values(sums, counts)
    if rules.goal is Goal.CHOICE and look == len(rules.schedule.looks) - 1:
        return mean_interval(values, 1.0 - rules.alpha)
    return repeated_interval(values, look, rules.schedule, rules.alpha)
