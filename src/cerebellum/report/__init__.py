"""Reports for people and for programs, made from a finished result. Nothing here measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum.files import companions, write_text
from cerebellum.keys import stem_of
from cerebellum.quoting import strict_json
from cerebellum.report.card import model_card
from cerebellum.report.markdown import full_report, sweep_report
from cerebellum.report.plain import summary_of, sweep_summary
from cerebellum.report.rows import sweep_csv

if TYPE_CHECKING:
    from cerebellum.results import RunResult, SweepResult


def write_sweep(result: SweepResult, out: Path) -> dict[str, Any]:
    """``sweep.html``, ``sweep.md``, ``sweep.json``, ``sweep.csv`` and ``sweep.svg`` into ``out``, beside the report of a `run` that may be
    there.

    Returns what ``sweep.json`` holds. Raises `OutputError`.
    """
    from cerebellum.report.chart import sweep_chart
    from cerebellum.report.page import SWEEP, write_page

    write_text(out / "sweep.svg", sweep_chart(result.sweep, result.facts, ()))
    write_text(out / "sweep.csv", sweep_csv(result.sweep))
    write_text(out / "sweep.md", sweep_report(result))
    summary = sweep_summary(result)
    write_text(out / "sweep.json", strict_json(summary) + "\n")
    write_page(summary, out, SWEEP)
    return summary


def write_report(result: RunResult, out: Path) -> dict[str, Any]:
    """``report.html``, ``report.md``, ``report.json``, ``sweep.csv``, ``sweep.svg`` and, for a written file, its model card, into ``out``.

    Returns what ``report.json`` holds. Raises `OutputError`.
    """
    from cerebellum.report.card_picture import write_picture
    from cerebellum.report.chart import sweep_chart
    from cerebellum.report.page import write_page

    write_text(out / "sweep.svg", sweep_chart(result.sweep, result.facts, result.choice.tensor_types))
    write_text(out / "sweep.csv", sweep_csv(result.sweep))
    write_text(out / "report.md", full_report(result))
    summary = summary_of(result)
    write_text(out / "report.json", strict_json(summary) + "\n")
    write_page(summary, out)
    if result.written is not None:
        card = companions(result.written.path)[1]
        write_text(card, model_card(result, write_picture(summary, card.parent, stem_of(result.written.path))))
    return summary
