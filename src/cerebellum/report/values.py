"""Values of a ``report.json``, checked one by one: what isn't what it should be raises `TypeError`, which `reading` tells as damage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cerebellum.report.views import Mean

Data = dict[str, Any]
#: No figure of a report is as large: with those that are, sums, products and axes would leave all numbers.
LARGEST = 1e100


def number(value: Any) -> float:
    """A finite number, within `LARGEST`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise TypeError(f"{value!r} is no number")
    return float(value)


def whole(value: Any) -> int:
    """A count."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise TypeError(f"{value!r} is no count")
    return value


def maybe(value: Any) -> float | None:
    """A number, or nothing."""
    return None if value is None else number(value)


def words(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def lines(values: Any) -> tuple[str, ...]:
    """Several texts."""
    return tuple(map(words, values))


def mean(value: Data, scale: Callable[[float], float] = float) -> Mean:
    """An estimate with its limits."""
    low, high = (None if value[k] is None else scale(number(value[k])) for k in ("low", "high"))
    return Mean(scale(number(value["estimate"])), low, high)


def flat_mean(value: Data, name: str, scale: Callable[[float], float] = float) -> Mean:
    """The same where it is ``name``, ``name_low`` and ``name_high``."""
    return mean({"estimate": value[name], "low": value[f"{name}_low"], "high": value[f"{name}_high"]}, scale)


def percent(log_ratio: float) -> float:
    """Of a change of mean NLL that of perplexity, percent; a limit beyond all numbers is refused as damage."""
    return number(100.0 * math.expm1(log_ratio))
