"""Paired answers: the flips, their interval, their test, what they could have shown; against scipy, enumeration and brute force."""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, multinomial

from cerebellum.stats import paired as flips_module
from cerebellum.stats.paired import (
    compare,
    judge_gate,
    paired_share_interval,
    pass_at_k,
    share_interval,
    smallest_detectable_change,
)


def answers(both: int, gained: int, lost: int, neither: int) -> tuple[dict[str, bool], dict[str, bool]]:
    """(new, old) with these counts."""
    pairs = [(True, True)] * both + [(True, False)] * gained + [(False, True)] * lost + [(False, False)] * neither
    return {str(i): new for i, (new, _) in enumerate(pairs)}, {str(i): old for i, (_, old) in enumerate(pairs)}


counts = st.tuples(*[st.integers(0, 40)] * 4).filter(lambda c: sum(c) > 0)


@given(counts)
def test_counts_and_mcnemars_exact_test(c: tuple[int, int, int, int]) -> None:
    """The p-value is twice the chance that as few of the discordant items go the rarer way, were both ways as likely: in whole numbers."""
    flips = compare(*answers(*c))
    both, gained, lost, neither = c
    assert (flips.n, flips.both, flips.gained, flips.lost, flips.neither) == (sum(c), both, gained, lost, neither)
    m, rarer = gained + lost, min(gained, lost)
    wanted = min(1.0, 2 * sum(math.comb(m, k) for k in range(rarer + 1)) / 2**m)
    assert flips.p_value == pytest.approx(wanted)
    assert flips.difference.estimate == pytest.approx((gained - lost) / sum(c))


def score(gained: int, lost: int, n: int, delta: float) -> float:
    """Tango's score statistic, the restricted estimate found by a plain search instead of the closed form."""

    def slope(q: float) -> float:  # derivative of the log-likelihood in the share q of lost items, gained = q + delta
        rest = n - gained - lost
        return (
            (gained / (q + delta) if gained else 0.0)
            + (lost / q if lost else 0.0)
            - (2 * rest / (1 - 2 * q - delta) if rest else 0.0)
        )

    low, high = max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12
    if slope(low) <= 0:
        q = low
    elif slope(high) >= 0:
        q = high
    else:
        q = brentq(slope, low, high, xtol=1e-14)
    return (gained - lost - n * delta) / math.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(3, 9, 60), (0, 0, 50), (0, 5, 40), (12, 2, 300), (1, 1, 20), (5, 0, 10)]
)
def test_tangos_limits_solve_the_score_equation(gained: int, lost: int, n: int) -> None:
    """At each limit the score statistic is ±1.96, by a numeric restricted estimate."""
    interval = paired_share_interval(gained, lost, n)
    assert interval.low <= (gained - lost) / n <= interval.high
    assert score(gained, lost, n, interval.low) == pytest.approx(1.959964, abs=1e-3)
    assert score(gained, lost, n, interval.high) == pytest.approx(-1.959964, abs=1e-3)


def test_tangos_interval_is_the_published_programs() -> None:
    """R's PropCIs::scoreci.mp(25, 28, 618) at 90 %, to the four digits printed."""
    interval = paired_share_interval(28, 25, 618, 0.9)
    assert [round(interval.low, 4), round(interval.high, 4)] == [-0.0148, 0.0247]


@given(counts)
def test_the_files_exchanged_mirror_the_interval(c: tuple[int, int, int, int]) -> None:
    """And it holds the estimate, within what is possible; without a flip it is never a point."""
    both, gained, lost, neither = c
    one, other = (
        compare(*answers(both, gained, lost, neither)).difference,
        compare(*answers(both, lost, gained, neither)).difference,
    )
    assert one.low == pytest.approx(-other.high, abs=1e-9) and one.high == pytest.approx(-other.low, abs=1e-9)
    assert -1 <= one.low <= one.estimate <= one.high <= 1
    assert one.high - one.low > 0


@pytest.mark.parametrize(("p_gain", "p_loss"), [(0.1, 0.1), (0.05, 0.2), (0.02, 0.02)])
def test_the_interval_covers_its_level_about_right(p_gain: float, p_loss: float) -> None:
    """By enumeration of every outcome of 40 items, not by luck."""
    n, covered = 40, 0.0
    for gained, lost in itertools.product(range(n + 1), repeat=2):
        if gained + lost <= n:
            interval = paired_share_interval(gained, lost, n)
            if interval.low <= p_gain - p_loss <= interval.high:
                covered += multinomial.pmf([gained, lost, n - gained - lost], n, [p_gain, p_loss, 1 - p_gain - p_loss])
    assert 0.93 <= covered <= (0.995 if p_gain + p_loss < 0.1 else 0.99)  # few flips: on the safe side


def power(n: int, share: float, difference: float) -> float:
    """How often McNemar's exact test finds a loss, by summing over all outcomes."""
    loss = (share + difference) / (2 * share)
    found = 0.0
    for m in range(n + 1):
        hits = sum(
            binom.pmf(lost, m, loss) for lost in range(m + 1) if 2 * lost > m and binomtest(lost, m).pvalue <= 0.05
        )
        found += binom.pmf(m, n, share) * hits
    return found


@pytest.mark.parametrize(("n", "discordant"), [(60, 6), (60, 0), (80, 8)])
def test_the_smallest_detectable_difference_is_found_four_times_in_five(n: int, discordant: int) -> None:
    """Its power by brute force is 80 %; without a flip it is not zero."""
    least = smallest_detectable_change(n, discordant)
    share = max(discordant / n, least)
    assert 0 < least <= 1
    assert power(n, share, least) == pytest.approx(0.8, abs=0.02)


def test_power_of_many_items_leaves_nothing_out() -> None:
    """Summed over the likely numbers of flips it is what the sum over all is."""
    for n, share, difference in ((4000, 0.05, 0.01), (4000, 0.002, 0.002), (4000, 0.9, 0.04)):
        m = np.arange(1, n + 1)
        most = binom.ppf(0.025, m, 0.5)
        most -= binom.cdf(most, m, 0.5) > 0.025
        whole = np.sum(binom.pmf(m, n, share) * binom.cdf(most, m, (1 - difference / share) / 2))
        assert flips_module.power(n, share, difference) == pytest.approx(whole, abs=1e-9)


def test_more_items_can_show_less() -> None:
    """And too few can show nothing."""
    values = [smallest_detectable_change(n, n // 10) for n in (50, 100, 300, 1000)]
    assert values == sorted(values, reverse=True)
    assert smallest_detectable_change(3, 0) == math.inf


@pytest.mark.parametrize(
    ("c", "word"),
    [
        ((200, 0, 0, 100), "pass"),
        ((250, 1, 1, 748), "pass"),
        ((180, 2, 30, 88), "fail"),
        ((20, 0, 0, 5), "too few items to tell"),
        ((200, 10, 14, 76), "too few items to tell"),
    ],
)
def test_the_gates_words(c: tuple[int, int, int, int], word: str) -> None:
    """Against a margin of two points; the reason has the numbers."""
    gate = judge_gate(compare(*answers(*c)), 0.02)
    assert gate.word == word and "2 points" in gate.reason and " %" not in gate.reason.replace("95 % interval", "")


def test_no_flip_is_not_called_no_loss() -> None:
    """What so many items could have shown is said instead, with an interval that is no point."""
    gate = judge_gate(compare(*answers(20, 0, 0, 5)), 0.02)
    assert "none of 25 items flipped" in gate.reason and "0 lost" not in gate.reason
    assert f"{100 * smallest_detectable_change(25, 0):.2g} points or more" in gate.reason


def test_items_that_could_show_nothing_pass_no_gate() -> None:
    """However wide the margin; one item has no interval either."""
    few, enough = (judge_gate(compare(*answers(n, 0, 0, 0)), 0.6) for n in (5, 6))
    assert enough.word == "pass" and few.word == "too few items to tell"
    assert "under 6 items" in few.reason and "likely show: none" in few.reason
    one = judge_gate(compare(*answers(1, 0, 0, 0)), 0.9)
    assert one.word == "too few items to tell" and "one item has no interval" in one.reason and "[" not in one.reason


@pytest.mark.parametrize("n", [300, 20_000])
def test_many_items_are_summed_where_their_flips_fall(n: int) -> None:
    """The power at the answer by scipy's binomials over all counts of flips."""
    least = smallest_detectable_change(n, n // 10)
    m = np.arange(n + 1)
    most = binom.ppf(0.025, m, 0.5)
    most -= binom.cdf(most, m, 0.5) > 0.025
    found = float(np.sum(binom.pmf(m, n, 0.1) * binom.cdf(most, m, (0.1 - least) / 0.2)))
    assert found == pytest.approx(0.8, abs=1e-6)


def test_a_loss_that_is_surely_within_the_margin_passes() -> None:
    """It is real, and as small as was allowed."""
    assert judge_gate(compare(*answers(20_000, 10, 60, 10_000)), 0.02).word == "pass"


@given(counts, st.floats(0.001, 0.3))
def test_a_gate_never_passes_what_may_be_lost(c: tuple[int, int, int, int], margin: float) -> None:
    """Pass means that the whole interval is above −margin and something could be seen, fail that it is below zero."""
    flips = compare(*answers(*c))
    word = judge_gate(flips, margin).word
    assert (word == "pass") == (flips.difference.low > -margin and flips.n >= 6)
    assert word != "fail" or (flips.difference.high < 0 and flips.p_value < 0.05)


@given(st.integers(1, 60), st.data())
@settings(max_examples=60)
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int, data: st.DataObject) -> None:
    """1 − C(n − c, k)/C(n, k), by whole numbers."""
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_wilsons_interval() -> None:
    """Its limits are the shares at which the score test of what was seen just reaches 5 %: (p̂ - p)² = z²p(1 - p)/n."""
    z = 1.959963984540054
    for right, n in ((0, 10), (5, 10), (298, 300), (10, 10)):
        found = share_interval(right, n)
        assert 0.0 <= found.low <= right / n <= found.high <= 1.0 and found.low < found.high
        for p in (found.low, found.high):
            assert (right / n - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / n, abs=1e-12)


def test_other_items_are_refused() -> None:
    """Pairs are by item, never by place."""
    with pytest.raises(ValueError, match="answered on one side only"):
        compare({"a": True}, {"b": True})
    with pytest.raises(ValueError, match="no "):
        compare({}, {})
