"""Repeated confidence intervals: boundaries as published, coverage under repeated looks as promised."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from benchmarks.planted_truth import SPENDINGS, obrien_fleming, pocock
from cerebellum.stats.sequential import (
    Schedule,
    boundaries,
    crossing,
    front_spending,
    look_p,
    planned_looks,
    repeated_interval,
    running_interval,
    sequential_p,
)

FIFTHS = tuple(k / 5 for k in range(1, 6))

# Lan-DeMets, two-sided 0.05, five equal looks: Reboussin, DeMets, Kim & Lan 2000 (Control. Clin. Trials 21, 190-207)
PUBLISHED = {
    obrien_fleming: (4.877, 3.357, 2.680, 2.290, 2.031),
    pocock: (2.438, 2.427, 2.410, 2.397, 2.386),
}


@pytest.mark.parametrize("spending", PUBLISHED)
def test_boundaries_equal_the_published_table(spending: Any) -> None:
    """Five equal looks at two-sided 5 %: the published boundaries to their printed precision."""
    assert boundaries(FIFTHS, 0.05, spending) == pytest.approx(PUBLISHED[spending], abs=6e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413), (10, 2.555)])
def test_classical_pocock_constants_spend_five_percent(looks: Any, constant: Any) -> None:
    """Pocock's constants (Jennison & Turnbull 2000, table 2.1) cross with probability 0.05 under no effect."""
    t = tuple(k / looks for k in range(1, looks + 1))
    assert sum(crossing(t, [constant] * looks)) == pytest.approx(0.05, abs=2e-4)


@pytest.mark.parametrize(("looks", "constant"), [(2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)])
def test_classical_obrien_fleming_constants_spend_five_percent(looks: Any, constant: Any) -> None:
    """O'Brien and Fleming's constants (Jennison & Turnbull 2000, table 2.3) cross with probability 0.05."""
    t = tuple(k / looks for k in range(1, looks + 1))
    assert sum(crossing(t, [constant / f**0.5 for f in t])) == pytest.approx(0.05, abs=2e-4)


def test_one_look_is_the_ordinary_test() -> None:
    """A single look at the full text has the normal quantile as boundary."""
    for spending in SPENDINGS.values():
        assert boundaries((1.0,), 0.05, spending)[0] == pytest.approx(scipy_stats.norm.ppf(0.975), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=7),
    st.sampled_from(list(SPENDINGS.values())),
    st.sampled_from([0.2, 0.05, 0.01, 1e-4]),
)
def test_crossings_add_up_to_what_was_spent(steps: Any, spending: Any, alpha: Any) -> None:
    """For any plan, the probability of crossing by each look equals the spending function there."""
    looks = np.cumsum(steps)
    t = tuple(float(n / looks[-1]) for n in looks)
    used = np.cumsum(crossing(t, boundaries(t, alpha, spending)))
    assert used == pytest.approx([spending(alpha, f) for f in t], rel=1e-5, abs=1e-13)


def test_recursion_agrees_with_simulation() -> None:
    """Two million simulated looks cross the default boundaries as often as computed."""
    t = (0.06, 0.1, 0.3, 1.0)
    limits = boundaries(t, 0.05, front_spending)
    steps = np.random.default_rng(0).standard_normal((500_000, 4)) * np.sqrt(np.diff((0, *t)))
    z = np.cumsum(steps, axis=1) / np.sqrt(t)
    assert np.mean((np.abs(z) > limits).any(axis=1)) == pytest.approx(0.05, abs=0.0012)


@pytest.mark.parametrize("spending", SPENDINGS.values())
def test_all_looks_together_hold_the_truth(spending: Any) -> None:
    """Normal chunks, every look taken: the intervals hold the mean together in about 95 % of 3,000 texts."""
    schedule = Schedule((6, 12, 24, 48), spending)
    data = np.random.default_rng(1).normal(0.7, 1, (3000, 48))
    alpha, hold = 0.05, 0
    for x in data:
        hold += all(
            not repeated_interval(x[:n], k, schedule, alpha).excludes(0.7) for k, n in enumerate(schedule.looks)
        )
    assert 0.935 <= hold / len(data) <= 0.98


def test_peeking_without_a_plan_would_fail() -> None:
    """The same looks with ordinary 95 % intervals miss far more than 5 %: why the plan is needed."""
    data = np.random.default_rng(2).normal(0, 1, (4000, 48))
    missed = np.zeros(len(data), dtype=bool)
    for n in (6, 12, 24, 48):
        missed |= scipy_stats.ttest_1samp(data[:, :n], 0, axis=1).pvalue < 0.05
    assert missed.mean() > 0.09


SCHEDULE = Schedule(planned_looks(60, 6))


def draw_text(seed: Any, effect: Any) -> Any:
    rng = np.random.default_rng(seed)
    return rng.normal(effect, 1, 60) * np.sqrt(rng.gamma(4, 0.25, 60))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1, 1))
def test_p_value_is_where_an_interval_first_excludes_zero(seed: Any, effect: Any) -> None:
    """At 5 % more than the p-value some interval excludes zero, at 5 % less none does."""
    x = draw_text(seed, effect)
    p = sequential_p(x, SCHEDULE)
    if 1e-9 < p < 0.8:
        for factor, expected in ((1.05, True), (0.95, False)):
            looks = [repeated_interval(x[:n], k, SCHEDULE, p * factor) for k, n in enumerate(SCHEDULE.looks)]
            assert any(i.excludes(0.0) for i in looks) is expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1, 1))
def test_p_value_never_rises_with_more_looks(seed: Any, effect: Any) -> None:
    """More chunks can only lower the sequential p-value, so a rejection stays."""
    x = draw_text(seed, effect)
    p = [sequential_p(x[: int(n)], SCHEDULE) for n in SCHEDULE.looks]
    assert all(a >= b for a, b in itertools.pairwise(p))
    assert sequential_p(x[:3], SCHEDULE) == 1.0


def test_p_values_are_valid_under_no_effect() -> None:
    """Under no effect p <= a happens at most about a of the time, at several a."""
    p = np.array([sequential_p(draw_text(seed, 0.0), SCHEDULE) for seed in range(2000)])
    for a in (0.2, 0.05, 0.01):
        assert np.mean(p <= a) <= a + 3 * np.sqrt(a / 2000)


def test_constant_samples_have_certain_p_values() -> None:
    """The same difference on every chunk is certain; no difference on every chunk is none."""
    assert look_p(np.full(6, 0.1), 0, SCHEDULE) == 0.0
    assert look_p(np.zeros(6), 0, SCHEDULE) == 1.0


def test_running_interval_is_the_intersection() -> None:
    """Each look can only narrow the running interval, and it lies inside every consistent look's."""
    x = draw_text(7, 0.3)
    looks = [repeated_interval(x[:n], k, SCHEDULE) for k, n in enumerate(SCHEDULE.looks)]
    running = [running_interval(looks[: k + 1]) for k in range(len(looks))]
    widths = [x.high - x.low for x in running]
    assert all(a >= b for a, b in itertools.pairwise(widths))
    assert running_interval(looks).estimate == looks[-1].estimate


@settings(deadline=None)
@given(st.integers(2, 3000), st.integers(2, 20), st.floats(1.1, 4))
def test_planned_looks_rise_to_the_full_text(n_chunks: Any, first: Any, growth: Any) -> None:
    """A plan rises strictly, starts at the first look or the whole short text, and ends with the full text."""
    looks = planned_looks(n_chunks, first, growth)
    assert looks[-1] == n_chunks and list(looks) == sorted(set(looks)) and looks[0] in (first, n_chunks)


def test_a_look_off_the_plan_is_refused() -> None:
    """The number of chunks at a look is part of the plan; another is an error, as is a plan that doesn't rise."""
    with pytest.raises(ValueError, match="planned at 6"):
        repeated_interval(np.zeros(7), 0, SCHEDULE)
    with pytest.raises(ValueError):
        repeated_interval(np.zeros(7), 99, SCHEDULE)
    with pytest.raises(ValueError):
        Schedule((6, 6, 12))
    with pytest.raises(ValueError):
        boundaries((0.5, 1.5), 0.05, pocock)
