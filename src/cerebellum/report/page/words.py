"""Numbers as the page says them: thousandths of a nat, sizes, intervals."""

from __future__ import annotations

from cerebellum.gguf.types import STORED
from cerebellum.report.views import Mean
from cerebellum.stats.verdicts import MILLI


def milli(value: float | None, otherwise: float) -> float:
    """Thousandths of a nat, of ``otherwise`` where the value isn't known."""
    return (otherwise if value is None else value) * MILLI


def figure(value: float, digits: int = 4) -> str:
    """A number with so many digits that count, never with an exponent where it needs none."""
    if value == 0.0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in text and abs(value) < 1e9 and abs(value) >= 1.0 else text


def short(value: float | None) -> str:
    """Nats as thousandths."""
    return "?" if value is None else figure(value * MILLI)


def span(mean: Mean, scale: float, *, digits: int | None = None, sign: bool = False) -> str:
    """``estimate [low, high]``; a question mark stands for a limit that isn't known."""

    def one(value: float | None) -> str:
        if value is None:
            return "?"
        text = figure(value * scale) if digits is None else f"{value * scale:.{digits}f}"
        return f"+{text}" if sign and value > 0.0 else text

    return f"{one(mean.estimate)} [{one(mean.low)}, {one(mean.high)}]"


def with_range(mean: Mean) -> str:
    """A KL divergence in thousandths with its interval, where there is one."""
    return short(mean.estimate) if mean.low is None and mean.high is None else span(mean, MILLI)


def bits(kind: str) -> str:
    """A type with its bits a weight."""
    return f"{kind} · {STORED[kind].bits_per_weight:.4g}"
