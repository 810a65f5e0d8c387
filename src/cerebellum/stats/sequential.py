"""Intervals that hold however often one looks: group-sequential repeated confidence intervals.

* Looks are planned as information fractions t_1 < … < t_K = 1 (chunks so far / chunks of the full text).
* A spending function gives the part of the error level alpha that may be used up by each fraction (K. K. G. Lan & D. L. DeMets 1983,
  Biometrika 70, 659-663).
* The boundaries follow by numerical recursion over the density of the sums that have not crossed a boundary yet (P. Armitage,
  C. K. McPherson & B. C. Rowe 1969, J. R. Statist. Soc. A 132, 235-244).
* The interval at look k is the mean ± boundary · standard error. All K intervals hold the truth together with probability 1 - alpha,
  whatever the reason to stop is: the boundary, a budget, a race or a person (C. Jennison & B. W. Turnbull 1989, J. R. Statist. Soc. B 51,
  305-361).
* For few chunks the boundary's two-sided tail probability is turned into a Student quantile (the significance-level approach for unknown
  variance: Jennison & Turnbull 2000, Group Sequential Methods, section 4.4), and widened for skewness as in `stats.intervals`.

Chunks come in a seeded random order, so the first n are a random sample of the text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.stats.intervals import Interval, interval_from_quantile, quantile_to_reach

Floats = npt.NDArray[np.float64]

_SMALLEST_SPEND = 1e-14
_NO_STOP = 8.5
"""A boundary in standard errors that no look is meant to cross: its tail, 1e-17, is under the smallest spend."""


Spending = Callable[[float, float], float]
"""(alpha, information fraction 0 … 1) → two-sided error level that may be used up by then; rises to alpha."""

FRONT_SHARE = 0.4
"""Share of the error level that `front_spending` spends at the first look."""


def front_spending(alpha: float, fraction: float) -> float:
    """0.4·alpha at once, then 0.6·alpha·t².

    In a sweep most effects are large, so most trials stop at the first looks: a level spent late is wasted on them, while
    near-null trials need theirs at the end. In `benchmarks/planted_truth.py --compare` it agrees with the full text more
    often than Pocock-like spending for as few tokens, and its coverage is the nearest to nominal.
    """
    return alpha * (FRONT_SHARE + (1.0 - FRONT_SHARE) * fraction * fraction)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Planned looks: ``looks`` are cumulative numbers of chunks, rising, the last one the full text.

    The plan must not depend on what was measured. Looks beyond the plan need a new plan on chunks not looked at yet.
    """

    looks: tuple[int, ...]
    spending: Spending = front_spending

    def __post_init__(self) -> None:
        if not self.looks or self.looks[0] < 2 or any(a >= b for a, b in zip(self.looks, self.looks[1:], strict=False)):
            raise ValueError(f"looks must rise and start at 2 chunks or more, not {self.looks}")

    @property
    def fractions(self) -> tuple[float, ...]:
        return tuple(n / self.looks[-1] for n in self.looks)


def planned_looks(n_chunks: int, first: int = 6, growth: float = 1.6) -> tuple[int, ...]:
    """Cumulative looks growing by ``growth`` from ``first`` up to ``n_chunks``, the last step never under half a step.

    Raises ValueError for fewer than 2 chunks, a first look under 2, or growth of 1 or less.
    """
    if n_chunks < 2 or first < 2 or growth <= 1.0:
        raise ValueError(f"looks over {n_chunks} chunks from {first} by a factor {growth} can't be planned")
    looks: list[int] = []
    n = float(first)
    while n * math.sqrt(growth) < n_chunks:
        if (not looks or round(n) > looks[-1]) and round(n) < n_chunks:
            looks.append(round(n))
        n *= growth
    return (*looks, n_chunks)


@functools.lru_cache(maxsize=4096)
def boundaries(fractions: tuple[float, ...], alpha: float, spending: Spending) -> tuple[float, ...]:
    """Two-sided normal boundaries (standard errors) at each of ``fractions``, spending ``alpha`` by ``spending``.

    Raises ValueError unless 0 < alpha < 1 and the fractions rise within (0, 1].
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha {alpha} must lie between 0 and 1")
    used = [spending(alpha, t) for t in fractions]
    return _solve(fractions, tuple(b - a for a, b in zip([0.0, *used], used, strict=False)))


def _solve(fractions: tuple[float, ...], increments: tuple[float, ...]) -> tuple[float, ...]:
    from scipy.special import ndtri

    if not fractions or any(a >= b for a, b in zip((0.0, *fractions), fractions, strict=False)) or fractions[-1] > 1.0:
        raise ValueError(f"information fractions must rise within (0, 1], not {fractions}")
    limits: list[float] = []
    walk: _Walk | None = None
    for t, spend in zip(fractions, increments, strict=True):
        if walk is None:
            limit = _NO_STOP if spend < _SMALLEST_SPEND else float(-ndtri(spend / 2.0))
            walk = _Walk.start(t, limit)
        else:
            limit = walk.limit_for(t, spend)
            walk = walk.advance(t, limit)
        limits.append(limit)
    return tuple(limits)


def crossing(fractions: tuple[float, ...], limits: Sequence[float]) -> tuple[float, ...]:
    """Probability under no effect of crossing ±``limits`` first at each of ``fractions``: the recursion forwards."""
    from scipy.special import ndtr

    walk = _Walk.start(fractions[0], limits[0])
    out = [float(2.0 * ndtr(-limits[0]))]
    for t, limit in zip(fractions[1:], limits[1:], strict=True):
        out.append(walk.exit(t, limit))
        walk = walk.advance(t, limit)
    return tuple(out)


@dataclass(frozen=True, eq=False)
class _Walk:
    """Gauss-Legendre grid over the sums still inside at fraction ``t``: ``mass`` [m] = density · weight at ``at``
    [m].
    """

    t: float
    at: Floats
    mass: Floats

    @staticmethod
    def start(t: float, limit: float) -> _Walk:
        at, weight = _grid(limit * math.sqrt(t), math.sqrt(t))
        return _Walk(t, at, weight * _density(at, math.sqrt(t)))

    def advance(self, t: float, limit: float) -> _Walk:
        step = math.sqrt(t - self.t)
        at, weight = _grid(limit * math.sqrt(t), step)
        return _Walk(t, at, weight * (_density(at[:, None] - self.at[None, :], step) @ self.mass))

    def exit(self, t: float, limit: float) -> float:
        """Probability of lying outside ± ``limit`` standard errors at ``t`` (both sides, by symmetry)."""
        from scipy.special import ndtr

        return float(2.0 * ndtr((self.at - limit * math.sqrt(t)) / math.sqrt(t - self.t)) @ self.mass)

    def limit_for(self, t: float, spend: float) -> float:
        from scipy.optimize import brentq

        if spend < _SMALLEST_SPEND or self.exit(t, _NO_STOP) >= spend:
            return _NO_STOP
        if self.exit(t, 0.0) <= spend:
            return 0.0

        def excess(b: float) -> float:
            return math.log(max(self.exit(t, b), 1e-300) / spend)

        return float(brentq(excess, 0.0, _NO_STOP, xtol=1e-9))


def _density(x: Floats, sd: float) -> Floats:
    return np.asarray(np.exp(-0.5 * (x / sd) ** 2) / (sd * math.sqrt(2.0 * math.pi)), dtype=np.float64)


def _grid(reach: float, step: float) -> tuple[Floats, Floats]:
    """Gauss-Legendre points and weights on ± reach, fine enough for a normal kernel of standard deviation ``step``."""
    x, weight = _legendre(min(max(48, 8 * math.ceil(reach / step)), 1024))
    return x * reach, weight * reach


@functools.lru_cache(maxsize=256)
def _legendre(n: int) -> tuple[Floats, Floats]:
    from scipy.special import roots_legendre

    x, weight = roots_legendre(n)
    return np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64)


def repeated_interval(
    diffs_so_far: Floats | Sequence[float], look: int, schedule: Schedule, alpha: float = 0.05
) -> Interval:
    """The repeated confidence interval at ``look`` (0-based) for the mean of per-chunk ``diffs_so_far`` [looks[look]].

    All looks' intervals hold the truth together with probability 1 - alpha. Raises ValueError when the number of
    differences isn't the planned one, or the look isn't in the plan.
    """
    x = np.asarray(diffs_so_far, dtype=np.float64)
    if not 0 <= look < len(schedule.looks):
        raise ValueError(f"look {look} isn't one of the {len(schedule.looks)} planned")
    if len(x) != schedule.looks[look]:
        raise ValueError(f"look {look} is planned at {schedule.looks[look]} chunks, but {len(x)} were given")
    limit = boundaries(schedule.fractions, alpha, schedule.spending)[look]
    return interval_from_quantile(x, student_quantile(limit, len(x)), 1.0 - alpha)


def student_quantile(limit: float, n_chunks: int) -> float:
    """The Student quantile (n - 1 degrees of freedom) of the tail that lies beyond the normal boundary ``limit``."""
    from scipy.special import ndtr, stdtrit

    return -float(stdtrit(n_chunks - 1, float(ndtr(-limit))))


def running_interval(intervals: Sequence[Interval]) -> Interval:
    """What all repeated intervals up to now say together: their intersection, with the last one's estimate and error.

    It holds the truth with probability 1 - alpha because they do so together (Jennison & Turnbull 1989, section 2).
    Where they contradict each other (which they may with probability alpha) the last one consistent with the earlier is
    kept. Raises ValueError when there is none.
    """
    if not intervals:
        raise ValueError("no look was taken yet")
    low, high = intervals[0].low, intervals[0].high
    for interval in intervals[1:]:
        if max(low, interval.low) <= min(high, interval.high):
            low, high = max(low, interval.low), min(high, interval.high)
    last = intervals[-1]
    return Interval(last.estimate, low, high, last.std_error, last.n_chunks, last.level)


def sequential_p(diffs: Floats | Sequence[float], schedule: Schedule) -> float:
    """Sequential p-value: the smallest alpha at which an interval of any look so far excludes zero; 1 before the first.

    ``diffs`` are per-chunk differences in the order measured; looks whose chunks aren't all there are left out. Valid
    at any stopping time, and it never rises with more looks. Found to about 1 % on a grid of alphas (`_tail_table`).
    """
    x = np.asarray(diffs, dtype=np.float64)
    reached = [k for k, n in enumerate(schedule.looks) if n <= len(x)]
    return min((look_p(x[: schedule.looks[k]], k, schedule) for k in reached), default=1.0)


def look_p(x: Floats, look: int, schedule: Schedule) -> float:
    """The alpha at which the interval of ``look`` alone has zero as its limit. A constant sample gives 0, or 1 if all
    zero.
    """
    tail = zero_tail(x)
    alphas, tails = _tail_table(schedule.fractions, schedule.spending)
    if tail <= 0.0:
        return 0.0
    logs = np.log(tails[:, look])
    return float(np.exp(np.interp(math.log(tail), logs, np.log(alphas), left=math.log(alphas[0]), right=0.0)))


def zero_tail(x: Floats) -> float:
    """One-sided Student tail of the quantile whose skew-widened interval has zero as a limit, for ``x`` [n >= 2]."""
    from scipy.special import stdtr

    return float(stdtr(len(x) - 1, -quantile_to_reach(x)))


@functools.lru_cache(maxsize=64)
def _tail_table(fractions: tuple[float, ...], spending: Spending) -> tuple[Floats, Floats]:
    """(alphas [m] rising, one-sided tail of the boundary at each look [m, looks], made strictly rising down each
    column).
    """
    from scipy.special import ndtr

    alphas = np.exp(np.linspace(math.log(1e-10), math.log(0.9), 60))
    limits = np.array([boundaries(fractions, float(a), spending) for a in alphas])
    tails = np.asarray(ndtr(-limits), dtype=np.float64)
    return alphas, np.maximum.accumulate(tails, axis=0) * (1.0 + 1e-12 * np.arange(len(alphas)))[:, None]
