"""Arithmetic of the comparisons: medians with their range, ratios of alternating runs, slopes on a log-log scale."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and largest of some figures."""

    median: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 2) -> str:
        """``2.10 (1.98–2.31)``"""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Sure:
    """A figure with its 95 % interval."""

    estimate: float
    low: float
    high: float

    def __mul__(self, other: Sure) -> Sure:
        """The product of two positive figures, its interval wide enough for whatever they have to do with each other."""
        return Sure(self.estimate * other.estimate, self.low * other.low, self.high * other.high)


def median_interval(values: Sequence[float]) -> Sure:
    """The median of independent figures, and the order statistics that hold it; of fewer than six nothing is known: -inf and inf. Raises
    ValueError where there are none."""
    if not values:
        raise ValueError("no figures to take a median of")
    found = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = (-math.inf, math.inf) if math.isnan(found.low + found.high) else (float(found.low), float(found.high))
    return Sure(statistics.median(values), low, high)


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError where there are none."""
    if not values:
        raise ValueError("no figures to take a median of")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The ratio of each pair of neighbouring runs: what slows the machine for minutes slows both and cancels."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent b of cost ∝ size^b: the least-squares line through log cost over log size. Raises ValueError below two sizes."""
    if len(set(sizes)) < 2:
        raise ValueError("an exponent needs two sizes at least")
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def slopes(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> Spread:
    """The exponent of each round (costs in the order of ``sizes``)."""
    return spread([slope(sizes, costs) for costs in rounds])


def marginal(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """(fixed, each): the least-squares line cost = fixed + each × size."""
    fitted = statistics.linear_regression(sizes, costs)
    return fitted.intercept, fitted.slope
