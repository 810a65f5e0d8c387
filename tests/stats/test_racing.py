"""Racing: a replay that depends on nothing but the measurements, and keeps its promises on planted truth."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.allocation.effects import SingleEffect
from cerebellum.allocation.policies import Rules, choose_greedy
from cerebellum.stats.intervals import Interval, mean_interval
from cerebellum.stats.racing import RaceRules, chunk_order, for_choice, next_step, plan_race, race_state
from cerebellum.stats.verdicts import Verdict

N = 64
ORDER, SCHEDULE = plan_race(range(N), seed=3)
TRUTH = np.array([0.0] * 8 + [3, -3, 2, -2, 1.5, 1, 0.6, -0.6])
NAMES = [f"t{i:02d}" for i in range(len(TRUTH))]


def world(seed: Any, truth: Any = TRUTH) -> Any:
    """Per-chunk differences [trial, chunk]: shared skewed difficulty, heavy-tailed noise."""
    rng = np.random.default_rng(seed)
    hard = rng.gamma(4, 0.25, N)
    noise = 0.5 * rng.standard_t(5, N) + 0.8 * rng.standard_t(5, (len(truth), N))
    return truth[:, None] * (hard + rng.gamma(4, 0.25, (len(truth), N))) / 2 + 0.7 * noise


def rows(x: Any, trial: Any, chunks: Any) -> Any:
    return {c: (float(x[NAMES.index(trial), c]) * 256, 256) for c in chunks}


def run(rules: Any, x: Any, budget: Any = None, shuffle: Any = None, measured: Any = None) -> Any:
    """Race to the end; ``shuffle`` permutes each step's work and stops it half-way, as workers and interrupts do."""
    measured = {} if measured is None else measured
    while True:
        step = next_step(race_state(rules, NAMES, measured), budget)
        if not step.assignments:
            return race_state(rules, NAMES, measured), measured
        work = [(a.trial, c) for a in step.assignments for c in a.chunks]
        if shuffle is not None and budget is None:
            shuffle.shuffle(work)
            work = work[: max(1, len(work) // 2)]
        for trial, chunk in work:
            measured.setdefault(trial, {}).update(rows(x, trial, [chunk]))


VERDICT = RaceRules(ORDER, SCHEDULE, margin=0.4)
ONES = dict.fromkeys(NAMES, 1)
CHOICE = for_choice(VERDICT, ONES, dict(zip(NAMES, NAMES, strict=True)), allowed=2.0)


@pytest.mark.parametrize("rules", [VERDICT, CHOICE])
def test_order_of_arrival_and_interruptions_change_nothing(rules: Any) -> None:
    """Work done in random order and cut off half-way, again and again, ends in the same state with the same chunks."""
    x = world(1)
    straight, measured = run(rules, x)
    broken, again = run(rules, x, shuffle=random.Random(0))
    assert straight == broken and measured == again and straight.done


def test_names_in_another_order_change_nothing() -> None:
    """The state doesn't depend on the order in which trials are listed."""
    _, measured = run(VERDICT, world(2))
    assert race_state(VERDICT, NAMES, measured) == race_state(VERDICT, NAMES[::-1], dict(reversed(measured.items())))


@pytest.mark.parametrize("rules", [VERDICT, CHOICE])
def test_surplus_chunks_change_no_standing(rules: Any) -> None:
    """A study that already holds every chunk replays to the standings of the race that measured only its own."""
    x = world(3)
    raced, _ = run(rules, x)
    full = race_state(rules, NAMES, {t: rows(x, t, range(N)) for t in NAMES})
    assert full.standings == raced.standings


def test_a_race_starts_with_the_first_look_of_every_trial() -> None:
    """Nothing measured: every trial lacks the first chunks of the seeded order, and no more."""
    state = race_state(VERDICT, NAMES, {})
    assert [a.trial for a in state.lacking] == NAMES
    assert all(a.chunks == ORDER[: SCHEDULE.looks[0]] for a in state.lacking)
    assert state.round == 0 and all(s.verdict is Verdict.UNDECIDED for s in state.standings)


def test_most_uncertain_trials_come_first() -> None:
    """After a round the open trials are asked for in order of their distance from zero in standard errors."""
    x = world(4)
    measured = {t: rows(x, t, ORDER[: SCHEDULE.looks[0]]) for t in NAMES}
    state = race_state(VERDICT, NAMES, measured)
    standings = {s.trial: s.interval for s in state.standings if s.interval}
    t = [abs(standings[a.trial].estimate) / standings[a.trial].std_error for a in state.lacking]
    assert t == sorted(t) and 0 < len(t) < len(NAMES)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, len(NAMES) * N))
def test_a_budget_is_never_passed(budget: Any) -> None:
    """Chunks measured stay within the budget, and a spent budget is said to be."""
    x = world(5)
    state, measured = run(VERDICT, x, budget)
    assert sum(len(v) for v in measured.values()) <= budget
    assert state.done or next_step(state, budget).exhausted


def test_a_bigger_budget_continues_the_smaller_one() -> None:
    """A race with budget, then without, ends as one without from the start."""
    x = world(6)
    _, measured = run(VERDICT, x, budget=200)
    assert run(VERDICT, x, measured=measured)[0].standings == run(VERDICT, x)[0].standings


def test_verdicts_are_right_and_cost_less_than_the_text() -> None:
    """Planted effects and nulls: hardly a wrong verdict in 25 races, strong trials settled on under half the text."""
    wrong = said = 0
    strong_share = []
    for seed in range(25):
        state, _ = run(VERDICT, world(100 + seed))
        for s, truth in zip(state.standings, TRUTH, strict=True):
            if s.verdict in (Verdict.IMPROVES, Verdict.DAMAGES):
                said += 1
                wrong += (truth == 0) or (s.verdict is Verdict.DAMAGES) != (truth > 0)
        strong_share += [s.n_chunks / N for s, t in zip(state.standings, TRUTH, strict=True) if abs(t) >= 2]
    assert wrong / said <= 0.05
    assert np.mean(strong_share) < 0.5


def test_intervals_at_stopping_cover_the_truth() -> None:
    """Whatever stopped a trial, its running interval holds the truth in 93 to 99 % of 400."""
    hits = total = 0
    for seed in range(25):
        state, _ = run(VERDICT, world(200 + seed))
        hits += sum(not s.interval.excludes(t) for s, t in zip(state.standings, TRUTH, strict=True))
        total += len(TRUTH)
    assert 0.93 <= hits / total <= 0.99


def test_chunk_order_depends_on_the_seed_alone() -> None:
    """A permutation of the ids, the same for any order of input, another for another seed."""
    assert chunk_order([5, 1, 9], 4) == chunk_order([9, 5, 1], 4)
    assert sorted(chunk_order(range(50), 1)) == list(range(50))
    assert chunk_order(range(50), 1) != chunk_order(range(50), 2)


def test_impossible_races_are_refused() -> None:
    """Too few chunks for the plan, trials named twice or not at all."""
    with pytest.raises(ValueError):
        RaceRules(ORDER[:10], SCHEDULE)
    with pytest.raises(ValueError):
        race_state(VERDICT, ["a", "a"], {})
    with pytest.raises(ValueError):
        race_state(VERDICT, ["a"], {"b": {}})


def greedy(intervals: dict[str, Interval], allowed: float) -> set[str]:
    """What the policy takes where every trial saves one byte."""
    effects = [
        SingleEffect(t, None, "", "", "Q2_K", -1, 0.0, kld=x.estimate, kld_low=x.low, kld_high=x.high)
        for t, x in intervals.items()
    ]
    return {e.tensor for e in choose_greedy(effects, Rules(allowed_damage=allowed)).effects}


@pytest.mark.parametrize("worlds", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_a_race_for_a_choice_ends_in_the_choice_of_the_full_text(worlds: int) -> None:
    """Nearly always: an allowance that takes about half of the trials."""
    same, share = 0, 0.0
    for seed in range(worlds):
        x = world(seed)
        state, _ = run(CHOICE, x)
        raced = greedy({s.trial: s.interval for s in state.standings if s.interval}, 2.0)
        full = greedy({name: mean_interval(row) for name, row in zip(NAMES, x, strict=True)}, 2.0)
        assert 3 <= len(full) < len(NAMES)
        same += raced == full
        share += state.n_measured / (len(NAMES) * N) / worlds
    assert same >= 0.9 * worlds and share < 0.9


def test_what_is_taken_before_a_trial_counts_against_it() -> None:
    """Four trials without noise; 1.0 may be spent: c would fit alone, but a and b are surely before it; d saves so much that it's first."""
    cost = {"t00": 0.3, "t01": 0.4, "t02": 0.5, "t03": 0.6}
    saved = {"t00": 10, "t01": 10, "t02": 10, "t03": 1000}
    rules = for_choice(VERDICT, saved, {name: name for name in cost}, allowed=1.0)
    measured = {name: dict.fromkeys(ORDER, (256 * value, 256)) for name, value in cost.items()}
    told = {s.trial: s.settled for s in race_state(rules, list(cost), measured).standings}
    assert told == {"t00": "full text", "t01": "full text", "t02": "out", "t03": "full text"}
    same_tensor = for_choice(VERDICT, saved, {"t00": "x", "t01": "x", "t02": "y", "t03": "z"}, allowed=1.0)
    assert {s.trial: s.settled for s in race_state(same_tensor, list(cost), measured).standings}["t02"] == "full text"


def test_larger_types_must_improve() -> None:
    rules = for_choice(VERDICT, {"t00": -10, "t01": -10}, {"t00": "x", "t01": "y"}, allowed=1.0)
    measured = {name: dict.fromkeys(ORDER, (256 * value, 256)) for name, value in (("t00", 0.1), ("t01", -1.0))}
    assert [s.settled for s in race_state(rules, ["t00", "t01"], measured).standings] == ["out", "in"]


def test_what_a_race_lets_go_greedy_does_not_choose() -> None:
    """Several types a tensor, without noise: two hundred small worlds, and greedy on all of them never takes a trial that was let go."""
    out = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        names = [f"t{i:02d}" for i in range(9)]
        cost = {name: float(rng.uniform(0.05, 1.0)) for name in names}
        saved = {name: int(rng.integers(1, 60)) for name in names}
        tensors = {name: f"blk.{i // 3}.ffn_gate.weight" for i, name in enumerate(names)}
        allowed = float(rng.uniform(0.1, 1.5))
        rules = for_choice(VERDICT, saved, tensors, allowed=allowed)
        measured = {name: dict.fromkeys(ORDER, (256 * value, 256)) for name, value in cost.items()}
        gone = {s.trial for s in race_state(rules, names, measured).standings if s.settled == "out"}
        effects = [SingleEffect(tensors[n], 0, "ffn_gate", "Q8_0", n, -saved[n], 0.0, kld=cost[n]) for n in names]
        chosen = {e.to_type for e in choose_greedy(effects, Rules(allowed_damage=allowed)).effects}
        assert not gone & chosen
        out += sum(cost[name] <= allowed for name in gone)
    assert out > 20  # some for what is taken before them, not for their own cost alone
