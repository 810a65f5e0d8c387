"""Two files' answers to the same questions, paired by item: items lost and gained, the difference of scores, its test.

Only items that one of the two files got right change the difference of two scores; all other items cancel.

The interval is Tango's score interval (T. Tango 1998, Statistics in Medicine 17, 891-908). It holds for few items, and for none lost or
gained. It depends on n and the two counts alone. The test is McNemar's exact one (two-sided binomial, one half).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from cerebellum.figures import fixed, significant
from cerebellum.stats.intervals import Floats, Interval

Word = Literal["pass", "fail", "too few items to tell"]

ALPHA, POWER = 0.05, 0.8
"""What `Flips.smallest_detectable` is for: the two-sided level of McNemar's test, and how often it finds the difference."""


@dataclass(frozen=True, slots=True)
class PairedAnswers:
    """Counts of ``n`` items: right in both, in neither, ``gained`` (only the new file is right), ``lost`` (only the old one is).

    ``difference``: share right, new - old, in 0 … 1, with Tango's limits. ``p_value``: McNemar's exact test. ``smallest_detectable``: see
    `smallest_detectable_change`; inf where this many items could show no difference at all.
    """

    n: int
    both: int
    neither: int
    gained: int
    lost: int
    difference: Interval
    p_value: float
    smallest_detectable: float


@dataclass(frozen=True, slots=True)
class Gate:
    """The word, and one sentence with the numbers it stands on."""

    word: Word
    reason: str


def compare(new: Mapping[str, bool], old: Mapping[str, bool], *, level: float = 0.95) -> PairedAnswers:
    """The flips between two files' answers (item id → right), with an interval at ``level``.

    Raises ValueError for no items, or where the item ids differ.
    """
    if new.keys() != old.keys():
        odd = sorted(new.keys() ^ old.keys())
        raise ValueError(f"{len(odd)} items were answered on one side only, for example {odd[0]}")
    both = sum(new[item] and old[item] for item in new)
    gained = sum(new[item] and not old[item] for item in new)
    lost = sum(old[item] and not new[item] for item in new)
    n = len(new)
    return PairedAnswers(
        n=n,
        both=both,
        neither=n - both - gained - lost,
        gained=gained,
        lost=lost,
        difference=paired_share_interval(gained, lost, n, level),
        p_value=mcnemar(gained, lost),
        smallest_detectable=smallest_detectable_change(n, gained + lost),
    )


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p-value; 1 without a flip."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_share_interval(gained: int, lost: int, n: int, level: float = 0.95) -> Interval:
    """Tango's interval for (gained - lost)/n over ``n`` pairs; ``std_error`` is its half width in units of the normal quantile.

    Its limits are the differences at which the score statistic reaches the quantile. Without a flip they are ± z²/(n + z²).
    Raises ValueError for no pairs, more flips than pairs, or a level outside (0, 1).
    """
    _check_counts(gained + lost, n, level)
    z = _normal_quantile(level)
    estimate = (gained - lost) / n
    low = -_upper_limit(lost, gained, n, z)
    high = _upper_limit(gained, lost, n, z)
    return Interval(estimate, low, high, (high - low) / (2.0 * z), n, level)


def _upper_limit(gained: int, lost: int, n: int, z: float) -> float:
    if gained == n:
        return 1.0
    return _root(lambda delta: -tango_score(gained, lost, n, delta) - z, (gained - lost) / n, 1.0)


def tango_score(gained: int, lost: int, n: int, delta: float) -> float:
    """The score statistic of the hypothesis that the shares differ by ``delta`` (-1 < delta < 1): standard normal where it is true.

    The share of losses is at its maximum likelihood under the hypothesis, the larger root of a quadratic.
    """
    linear = (2 * n - gained + lost) * delta - gained - lost
    root = math.sqrt(max(linear * linear + 8.0 * n * lost * delta * (1.0 - delta), 0.0))
    q = max((root - linear) / (4.0 * n), 0.0, -delta)
    excess, variance = gained - lost - n * delta, n * (2.0 * q + delta * (1.0 - delta))
    if excess == 0.0:
        return 0.0
    return excess / math.sqrt(variance) if variance > 0.0 else math.copysign(math.inf, excess)


def smallest_detectable_change(n: int, discordant: int) -> float:
    """The difference (share) that McNemar's exact test at 5 %, two-sided, finds in 80 % of samples of ``n`` items.

    The power is exact and unconditional: the number of discordant items is binomial with the observed share, and of these the losses are
    (the setting of R. J. Connor 1987, Biometrics 43, 207-211, without his normal approximation). A difference can't be larger than the
    share of discordant items, so where even all of those going one way would be found too seldom, more of them are supposed: just as
    many as the difference itself. That is the answer without a discordant item too, about 7.9/n. Under 6 items it is inf: even if
    all flipped the same way, p would exceed 5 %.
    """
    share = discordant / n
    if power(n, 1.0, 1.0) < POWER:
        return math.inf
    return _root(lambda d: power(n, max(share, d), d) - POWER, 0.0, 1.0)


def power(n: int, share: float, difference: float) -> float:
    """How often McNemar's exact test at `ALPHA` finds a loss of ``difference`` as one, where a ``share`` ≥ it of n items is discordant."""
    from scipy.special import betainc, gammaln, xlog1py, xlogy

    mean, spread = n * share, 12.0 * math.sqrt(n * share * (1.0 - share))
    least = max(_least_discordant(), math.floor(mean - spread))
    m = np.arange(least, min(n, math.ceil(mean + spread) + 60) + 1, dtype=np.float64)  # outside: less than 1e-20 in sum
    if not m.size or share <= 0.0:
        return 0.0
    log_choose = gammaln(n + 1.0) - gammaln(m + 1.0) - gammaln(n - m + 1.0)
    weight = np.exp(log_choose + xlogy(m, share) + xlog1py(n - m, -share))
    most = _most_against(n)[least : least + m.size]
    toward = min((share + difference) / (2.0 * share), 1.0)
    against = betainc(m - most, most + 1.0, toward)  # at most `most` of m flips go against the difference
    return float(np.sum(weight * against))


@lru_cache(maxsize=8)
def _most_against(n: int) -> Floats:
    """[n + 1] by the number of flips: how many of them may go the other way where the test finds a difference; below 0 under 6 flips."""
    from scipy.special import bdtrik

    flips = np.arange(n + 1, dtype=np.float64)
    most = np.full(n + 1, -1.0)
    most[_least_discordant() :] = np.floor(bdtrik(ALPHA / 2.0, flips[_least_discordant() :], 0.5))
    return most


def _least_discordant() -> int:
    """The fewest flips, all one way, that the test finds: 6."""
    return math.ceil(math.log2(2.0 / ALPHA))


def judge_gate(flips: PairedAnswers, margin: float) -> Gate:
    """May a file that is at most ``margin`` (share of items, 0.02 say) worse be called as good?

    *pass*: the whole interval of the difference lies above -margin. A loss that is significant but surely smaller than the margin passes,
    and the sentence says so. *fail*: the loss is significant (McNemar's p below 1 - level) and the whole interval lies below zero, while
    it is not shown to be smaller than the margin. All else is *too few items to tell*; so are fewer items than could show anything.

    Raises ValueError for a margin outside 0 … 1.
    """
    if not 0.0 <= margin < 1.0:
        raise ValueError(f"a margin of {margin} is not a share of the items")
    x = flips.difference
    loss = flips.p_value < 1.0 - x.level and x.high < 0.0
    as_large = f"a loss as large as the margin of {100 * margin:.3g} points"
    if math.isinf(flips.smallest_detectable):
        why = f"under {_least_discordant()} items McNemar's test can find no loss, whatever the margin: ask more items"
        return Gate("too few items to tell", _sentence(flips, why))
    if x.low > -margin:
        return Gate("pass", _sentence(flips, f"{as_large} is excluded{', though there is one' if loss else ''}"))
    if loss:
        why = f"a loss, and not shown to be smaller than the margin of {100 * margin:.3g} points"
        return Gate("fail", _sentence(flips, why))
    why = f"{as_large} isn't excluded"
    if x.high < 0.0:
        why = "the interval lies below zero, but so few flips could be luck by McNemar's test: ask more items"
    return Gate("too few items to tell", _sentence(flips, why))


def _sentence(flips: PairedAnswers, why: str) -> str:
    x = flips.difference
    items = f"{flips.n} {'item' if flips.n == 1 else 'items'}"
    limits = (
        f"{fixed(100 * x.low, sign=True)} to {fixed(100 * x.high, sign=True)} points, {100 * x.level:.4g} % interval"
    )
    if flips.n == 1:
        limits = "one item has no interval"
    seen = f"{flips.lost} lost and {flips.gained} gained of {items}: {fixed(100 * x.estimate, sign=True)} points"
    if flips.gained + flips.lost == 0:
        seen = f"none of {items} flipped, which is not to say that none would"
    least = flips.smallest_detectable
    could = "none" if math.isinf(least) else f"{significant(100 * least, 2)} points or more"
    return f"{seen} ({limits}; McNemar p = {flips.p_value:.2g}): {why}. Differences these items would likely show: {could}."


def share_interval(n_right: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's interval for a share (E. B. Wilson 1927, J. Am. Stat. Ass. 22, 209-212); ``std_error`` is its half width in quantiles.

    Raises ValueError for no items, more right than there are, or a level outside (0, 1).
    """
    _check_counts(n_right, n, level)
    from scipy.stats import binomtest

    limits = binomtest(n_right, n).proportion_ci(level, method="wilson")
    low, high = float(limits.low), float(limits.high)
    return Interval(n_right / n, low, high, (high - low) / (2.0 * _normal_quantile(level)), n, level)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of ``k`` answers is right, from ``c`` right of ``n`` drawn (M. Chen et al. 2021, arXiv:2107.03374).

    1 - C(n - c, k)/C(n, k) in whole numbers, divided once. Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} can't be had from {c} right of {n} answers")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def _check_counts(count: int, n: int, level: float) -> None:
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"{count} of {n} items is no count")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} must lie between 0 and 1")


def _normal_quantile(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1.0 + level) / 2.0))


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where ``rising`` crosses zero between ``low`` and ``high``, by bisection; the upper side of the last step."""
    while True:
        middle = (low + high) / 2.0
        if not low < middle < high:
            return high
        if rising(middle) >= 0.0:
            high = middle
        else:
            low = middle
