"""An estimate for people and programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cerebellum.figures import counted, significant
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
    benches = "" if e.job == "sweep" else "; benchmarks come on top"
    engines = f" on {e.n_engines} engines" if e.n_engines > 1 else ""
    return [
        f"{e.model}: {what_for(e)}",
        f"{counted(e.n_trials, 'trial')} of {counted(e.n_tensors, 'tensor')}; {work_of(e)}",
        f"time: {duration(e.minutes)} in all{engines} ({significant(e.seconds, 2)} s a chunk, timed now){benches}",
        *making_lines(e),
        f"disk: about {megabytes(e.disk_bytes)}; memory: at most about {megabytes(e.memory_bytes)}",
        *shown_lines(e),
        *(f"note: {note}" for note in e.notes),
    ]


def making_lines(e: Estimate) -> list[str]:
    """How much of the time doesn't depend on the text, where that is worth a line."""
    minutes = e.quantizing / (60.0 * e.n_engines)
    return [f"of that time, making tensors in other types: {duration(minutes)}"] if minutes >= 1.5 else []


def what_for(e: Estimate) -> str:
    """What the job makes."""
    about = "" if e.is_exact else "about "
    if e.sizes:
        files = ", ".join(f"{n_bytes:,} (beside stock {mix})" for mix, n_bytes in e.sizes)
        each = "each " if len(e.sizes) > 1 else ""
        return f"{counted(len(e.sizes), 'file')}, {each}the best of at most {about}so many bytes: {files}"
    if e.limit is not None:
        return f"the best file of at most {about}{e.limit:,} bytes, compared with the stock {e.base} file"
    then = ", and a choice among what was measured" if e.job == "choice" else ""
    return f"each tensor alone at another type than in the base {e.base}{then}"


def work_of(e: Estimate) -> str:
    """How much is measured on which text."""
    with_others = "with recipes and controls " if e.report_chunks else ""
    report = f" choose, {e.report_chunks} report" if e.report_chunks else " of text"
    return f"{with_others}{e.trial_chunks:,} trial-chunks ({counted(e.search_chunks, 'chunk')}{report})"


def shown_lines(e: Estimate) -> list[str]:
    """The smallest difference that the text shows, and what a useful one takes."""
    stock = "a stock file's" if e.sizes else f"the stock {e.base} file's"
    of = f"{stock} KL divergence" if e.limit is not None else "the base's KL divergence"
    change = "difference" if e.limit is not None else "change by one tensor"
    shown = f"about {significant(100 * e.detectable, 2)} % of {of}" if math.isfinite(e.detectable) else "none"
    return [
        f"smallest {change} that {counted(e.shown_by, 'chunk')} can show: {shown}; one of {significant(100 * e.useful, 2)} % takes "
        f"{counted(e.chunks_for_useful, 'chunk')} (if chunks differ by {100 * e.spread:.0f} %)"
    ]


def megabytes(n: int) -> str:
    """A size, roughly."""
    if n < 1_000_000:
        return "1 MB"
    return f"{n / 1e6:,.0f} MB" if n < 10_000_000_000 else f"{n / 1e9:,.1f} GB"


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    """As plain data."""
    entry: dict[str, Any] = {"format": 1, "kind": "estimate", **as_json(estimate), "minutes": as_json(estimate.minutes)}
    return entry
