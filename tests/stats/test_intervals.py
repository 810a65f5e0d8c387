"""Paired differences, their intervals, and the figures stock tools print."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from cerebellum.stats import intervals

values_lists = st.lists(st.floats(-100, 100, allow_nan=False), min_size=2, max_size=40)


def coverage(draw: Any, n: Any, replicates: Any = 40_000, method: Any = "skew", seed: Any = 5) -> Any:
    """Share of 95 % intervals that hold the true mean 0."""
    sample = draw(np.random.default_rng(seed), (replicates, n))
    quantile = scipy_stats.t.ppf(0.975, n - 1)
    _, _, low, high = intervals.mean_limits(sample, quantile, method)
    return float(np.mean((low <= 0) & (high >= 0)))


def test_method_t_is_scipys_student_interval() -> None:
    """Method "t" gives scipy's confidence interval of a one-sample t test."""
    x = np.random.default_rng(0).gamma(2, 1, 17)
    ours = intervals.mean_interval(x, 0.9, "t")
    theirs = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.std_error == pytest.approx(scipy_stats.sem(x))


def test_halls_limits_solve_his_equation() -> None:
    """Both limits of method "hall" are roots of g(T) = ± quantile, found here by bisection."""
    x = np.random.default_rng(1).lognormal(0, 0.7, 12)
    interval, quantile = intervals.mean_interval(x, 0.95, "hall"), scipy_stats.t.ppf(0.975, 11)
    a = scipy_stats.skew(x) / math.sqrt(12)

    def g(mu: Any) -> Any:
        t = (x.mean() - mu) / scipy_stats.sem(x)
        return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6

    low, high = (optimize.brentq(lambda m, s=s: g(m) - s * quantile, -1e3, 1e3, xtol=1e-12) for s in (1, -1))
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-8)


POPULATIONS = {
    "normal": lambda rng, s: rng.standard_normal(s),
    "heavy tails": lambda rng, s: rng.standard_t(3, s),
    "skewed": lambda rng, s: rng.gamma(2, 1, s) - 2,
    "log-normal": lambda rng, s: rng.lognormal(0, 0.5, s) - math.exp(0.125),
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("n", [6, 12, 24])
def test_interval_covers_few_skewed_heavy_tailed_chunks(name: Any, n: Any) -> None:
    """The shipped interval covers between 93 % and 98 % at nominal 95 %, from 6 chunks, on every population."""
    assert 0.93 <= coverage(POPULATIONS[name], n) <= 0.98


def test_neither_student_nor_hall_alone_would_do() -> None:
    """Student undercovers skewed chunks and Hall heavy-tailed ones: why the shipped interval takes the wider limit."""
    assert coverage(POPULATIONS["skewed"], 6, method="t") < 0.925
    assert coverage(POPULATIONS["heavy tails"], 48, method="hall") < 0.935


def test_pairing_goes_by_chunk_id_not_position() -> None:
    """The same chunks in another order give the same interval."""
    trial = {3: (10.0, 5), 1: (30.0, 5), 2: (20.5, 5)}
    base = {1: (29.0, 5), 2: (20.0, 5), 3: (9.0, 5)}
    again = dict(reversed(trial.items()))
    assert intervals.paired_interval(trial, base) == intervals.paired_interval(again, base)
    assert list(intervals.paired_values(trial, base)) == pytest.approx([0.2, 0.1, 0.2])


def test_missing_chunks_are_refused() -> None:
    """A chunk on one side only is an error that names it."""
    trial, base = {0: (1.0, 2), 1: (2.0, 2), 2: (3.0, 2)}, {0: (1.0, 2), 1: (1.0, 2)}
    with pytest.raises(ValueError, match="chunk 2"):
        intervals.paired_interval(trial, base)
    with pytest.raises(ValueError, match="no chunk"):
        intervals.paired_values({}, {})
    with pytest.raises(ValueError, match="scored tokens"):
        intervals.paired_values({0: (1.0, 1)}, {0: (1.0, 2)})


def test_unequal_chunks_give_the_token_weighted_mean_and_jackknifed_error() -> None:
    """With unequal chunks the estimate is sum/sum and the error agrees with the delete-one jackknife."""
    rng = np.random.default_rng(2)
    counts = rng.integers(100, 300, 60).astype(float)
    sums = rng.normal(0.01, 0.05, 60) * counts
    x = intervals.ratio_values(sums, counts)
    left_out = [(sums.sum() - s) / (counts.sum() - c) for s, c in zip(sums, counts, strict=True)]
    jackknife = math.sqrt(59 / 60 * np.sum((left_out - np.mean(left_out)) ** 2))
    assert x.mean() == pytest.approx(sums.sum() / counts.sum())
    assert intervals.mean_interval(x).std_error == pytest.approx(jackknife, rel=0.02)


@settings(deadline=None)
@given(values_lists)
def test_identical_measurements_differ_by_exactly_zero(sums: Any) -> None:
    """A measurement against itself: estimate, limits and error are exactly 0."""
    rows = {i: (s, 7) for i, s in enumerate(sums)}
    interval = intervals.paired_interval(rows, rows)
    assert (interval.estimate, interval.low, interval.high, interval.std_error) == (0, 0, 0, 0)


@settings(deadline=None)
@given(values_lists, st.sampled_from(["skew", "hall", "t"]))
def test_swapping_the_sides_mirrors_the_interval(values: Any, method: Any) -> None:
    """interval(-x) is -interval(x)."""
    x = np.array(values)
    a, b = intervals.mean_interval(x, 0.95, method), intervals.mean_interval(-x, 0.95, method)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low), rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(values_lists, st.floats(0.5, 0.99), st.floats(0.001, 0.009))
def test_more_confidence_is_never_narrower(values: Any, level: Any, more: Any) -> None:
    """A higher level contains the interval of a lower one, and the estimate lies in the shipped interval."""
    a, b = intervals.mean_interval(values, level), intervals.mean_interval(values, level + more)
    slack = 1e-9 * (1 + abs(a.estimate))
    assert b.low <= a.low + slack and a.high <= b.high + slack
    assert a.low - slack <= a.estimate <= a.high + slack


@settings(deadline=None)
@given(values_lists.filter(lambda v: np.std(v) > 1e-3))
def test_quantile_to_reach_puts_the_limit_on_the_value(values: Any) -> None:
    """quantile_to_reach inverts the interval: at that quantile zero is a limit."""
    x = np.array(values)
    quantile = intervals.quantile_to_reach(x)
    if 0 < quantile < 1e3:
        interval = intervals.interval_from_quantile(x, quantile, 0.95)
        assert min(abs(interval.low), abs(interval.high)) <= 1e-6 * interval.std_error * (1 + quantile)


def test_one_chunk_knows_no_spread() -> None:
    """One chunk gives an unbounded interval, not a number that looks sure."""
    assert intervals.mean_interval([0.5]).low == -math.inf and not intervals.mean_interval([0.5]).excludes()


@pytest.mark.parametrize("bad", [[], [math.nan, 1.0], [math.inf, 1.0]])
def test_bad_values_are_refused(bad: Any) -> None:
    """No chunks, or a chunk that isn't a number, is an error."""
    with pytest.raises(ValueError):
        intervals.mean_interval(bad)


def test_percent_change_transforms_the_limits() -> None:
    """A log ratio of ln 1.1 is +10 %, and so are its limits."""
    out = intervals.percent_change(intervals.Interval(math.log(1.1), math.log(0.9), math.log(1.2), 0.05, 9, 0.95))
    assert (out.estimate, out.low, out.high) == pytest.approx((10, -10, 20))
    assert out.std_error == pytest.approx(5.5)


def test_perplexity_error_is_the_stock_formula() -> None:
    """exp(mean) · sqrt((mean of squares - mean²)/(n - 1)), from sums."""
    nll = np.random.default_rng(3).exponential(3, 500)
    value, error = intervals.perplexity(nll.sum(), (nll**2).sum(), 500)
    assert value == pytest.approx(math.exp(nll.mean()))
    assert error == pytest.approx(value * scipy_stats.sem(nll))


def test_smallest_detectable_effect_is_found_with_the_power_it_states() -> None:
    """At the stated effect a t test at 5 % finds it in 80 % of samples (to 2 points, simulated)."""
    n, effect = 12, intervals.smallest_detectable(1 / math.sqrt(12), 12)
    x = np.random.default_rng(4).normal(effect, 1, (20000, n))
    found = np.mean(scipy_stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(values_lists)
def test_percentiles_lie_between_the_extremes_in_order(values: Any) -> None:
    """Percentiles rise and stay within the values."""
    low, middle, high = intervals.percentiles(values, [0, 50, 100])
    assert low == min(values) and high == max(values) and low <= middle <= high


def miss_rates(x: Any, truth: float, transform: Any) -> tuple[float, float]:
    """Shares of the samples, rows of ``x``, whose 95 % interval misses the truth: as it is, and transformed."""
    found = [intervals.mean_interval(row) for row in x]
    changed = [transform(interval) for interval in found]
    return tuple(float(np.mean([i.excludes(truth) for i in each])) for each in (found, changed))  # type: ignore[return-value]


@pytest.mark.parametrize(("n", "before", "after"), [(4, 0.115, 0.068), (16, 0.075, 0.056)])
def test_limits_of_a_logarithm_cover_means_of_skewed_positive_values_better(
    n: int, before: float, after: float
) -> None:
    """Lognormal chunks, a deviation of 1: the truth is known."""
    x = np.random.default_rng(n).lognormal(0.0, 1.0, (1500, n))
    plain, transformed = miss_rates(x, math.exp(0.5), intervals.positive)
    assert plain == pytest.approx(before, abs=0.025) and transformed == pytest.approx(after, abs=0.02)
    assert transformed < plain


def test_limits_of_log_odds_cover_shares_better() -> None:
    """Four chunks of 128 tokens with a share of about 0.98: limits past 1 before, none after."""
    random = np.random.default_rng(5)
    x = random.binomial(128, random.beta(0.98 * 60, 0.02 * 60, (1500, 4))) / 128.0
    plain, transformed = miss_rates(x, 0.98, intervals.as_share)
    assert plain > 0.05 and transformed < 0.04
    assert any(intervals.mean_interval(row).high > 1.0 for row in x)
    assert all(intervals.as_share(intervals.mean_interval(row)).high <= 1.0 for row in x)


@given(st.lists(st.floats(0.0, 1e3), min_size=2, max_size=20))
def test_limits_of_a_positive_mean_are_possible_and_hold_it(values: list[float]) -> None:
    interval = intervals.positive(intervals.mean_interval(values))
    assert 0.0 <= interval.low <= interval.estimate * (1 + 1e-9) and interval.high >= interval.estimate * (1 - 1e-9)


def test_what_is_not_known_stays_unknown() -> None:
    for transform in (intervals.positive, intervals.as_share):
        one = transform(intervals.mean_interval([0.5]))
        assert (one.low, one.high) == (-math.inf, math.inf)
    wild = intervals.positive(
        intervals.Interval(0.0256, -0.004, 0.128, 0.0098, 6, 0.95)
    )  # 56 times the estimate: no figure
    assert wild.high == math.inf and 0.0 < wild.low < wild.estimate
    calm = intervals.positive(intervals.Interval(0.0256, 0.013, 0.064, 0.0098, 6, 0.95))
    assert calm.high == pytest.approx(0.0256 * math.exp(1.5))
    zero = intervals.positive(intervals.Interval(0.0, -1.0, 1.0, 0.5, 4, 0.95))
    assert (zero.low, zero.high) == (0.0, 1.0)
    sure = intervals.as_share(intervals.Interval(1.0, 0.9, 1.1, 0.05, 4, 0.95))
    assert (sure.low, sure.high) == (0.9, 1.0)
