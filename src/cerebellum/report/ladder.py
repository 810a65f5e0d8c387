"""A ladder as a table and as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cerebellum.figures import fixed
from cerebellum.report.grids import Grid, chunks_of
from cerebellum.scoring.summary import as_json
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results import LadderResult
    from cerebellum.stats.ladder import Rung


def ladder_grid(ladder: LadderResult) -> Grid:
    """The rungs from the nearest to the reference to the farthest with their sizes, and the verdict beneath."""
    rungs = sorted(ladder.rungs, key=lambda r: (r.kld, r.name))
    reference_ppl = ladder.report.reference_ppl
    has_sizes = any(rung.file_bytes is not None for rung in rungs)
    rows: list[tuple[str, ...]] = [
        ("reference", "", f"{reference_ppl:.4f}", "", "0.000"),
        *(_row(rung, reference_ppl) for rung in rungs),
    ]
    columns: tuple[str, ...] = ("", "MB", "PPL", "from the reference's, %", "KLD, thousandths of a nat")
    if not has_sizes:
        rows, columns = [(row[0], *row[2:]) for row in rows], (columns[0], *columns[2:])
    notes = [f"Perplexity as a judge: {ladder.report.verdict}. {ladder.report.reason}", *_on_what(ladder.facts)]
    return Grid("Ladder", columns, tuple(rows), tuple(notes))


def _row(rung: Rung, reference_ppl: float) -> tuple[str, ...]:
    def percent(ppl: float) -> str:
        return fixed(100 * (ppl / reference_ppl - 1), sign=True)

    change = percent(rung.ppl)
    if rung.ppl_low is not None and rung.ppl_high is not None:
        change += f" [{percent(rung.ppl_low)}, {percent(rung.ppl_high)}]"
    kld = f"{rung.kld * MILLI:.3f}"
    if rung.kld_low is not None and rung.kld_high is not None:
        low, high = (fixed(limit * MILLI, 3, sign=False) for limit in (rung.kld_low, rung.kld_high))
        kld += f" [{low}, {high}]"
    size = "" if rung.file_bytes is None else f"{rung.file_bytes / 1e6:,.2f}"
    return rung.name, size, f"{rung.ppl:.4f}", change, kld


def _on_what(facts: dict[str, Any]) -> list[str]:
    if "ladder" in facts:
        return [f"From {facts['ladder']}, as published: intervals are not known."]
    failed = [f"Failed, so left out: {label}. {reason}." for label, reason in facts.get("failed", {}).items()]
    warnings = [f"Warning: {warning}" for warning in facts.get("warnings", ())]
    brackets = "Brackets: 95 % intervals, paired by chunk; ?: more chunks are needed to tell."
    return [f"Text {chunks_of(facts['text'])}. {brackets}", *failed, *warnings]


def ladder_json(ladder: LadderResult) -> dict[str, Any]:
    """The verdict, what it rests on, the rungs."""
    report: dict[str, Any] = as_json(ladder.report)
    return {**report, "rungs": as_json(ladder.rungs), "facts": ladder.facts}
