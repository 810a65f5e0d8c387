"""An estimate for people and programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cerebellum.scoring.summary import as_json

if TYPE_CHECKING:
    from cerebellum.results.estimate import Estimate


def duration(minutes: float) -> str:
    """A time that is about right."""
    if not math.isfinite(minutes):
        return "a time that isn't known"
    if minutes < 1.5:
        return "about a minute"
    if minutes < 59.5:
        return f"about {minutes:.0f} minutes"
    hours, rest = divmod(round(minutes / 5.0) * 5, 60)
    return f"about {hours:,} h {rest:02} min"


def estimate_lines(estimate: Estimate) -> list[str]:
    """What it takes and what it can show."""
    e = estimate
    return [
        f"{e.model}: at most {e.limit:,} bytes, compared with stock {e.base}",
        f"{e.n_trials} trials of {e.n_tensors} tensors; with recipes and controls {e.trial_chunks:,} trial-chunks "
        f"({e.search_chunks} chunks choose, {e.report_chunks} report)",
        f"{duration(e.minutes)} ({e.seconds:.2g} s a chunk, timed); weight errors and benchmarks come on top",
        f"disk: about {megabytes(e.disk_bytes)}; memory: at most about {megabytes(e.memory_bytes)}",
        f"smallest difference that {min(e.search_chunks, e.report_chunks)} chunks show: about {100 * e.detectable:.0f} % of the stock "
        f"file's KL divergence; 5 % need {e.chunks_for_a_twentieth} chunks (where chunks differ by {100 * e.spread:.0f} %)",
        *(f"note: {note}" for note in e.notes),
    ]


def megabytes(n: int) -> str:
    """A size, roughly."""
    return f"{n / 1e6:,.0f} MB" if n < 10_000_000_000 else f"{n / 1e9:,.1f} GB"


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """As plain data."""
    found: dict[str, Any] = {"format": 1, "kind": "estimate", **as_json(estimate), "minutes": as_json(estimate.minutes)}
    return found
