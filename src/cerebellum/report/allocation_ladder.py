"""A ladder of allocations for people and programs: one table, one picture, JSON."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum import __version__
from cerebellum.allocation.sensitivity import map_json
from cerebellum.figures import fixed
from cerebellum.files import write_text
from cerebellum.quoting import code_span, markdown, shell_file, strict_json
from cerebellum.report.allocation import FORMAT
from cerebellum.report.allocation_card import ladder_card
from cerebellum.report.allocation_lines import five_lines
from cerebellum.report.allocation_pictures import ladder_picture
from cerebellum.report.allocation_tables import in_percent, megabytes, own_mean, stock_word
from cerebellum.report.card_picture import write_picture
from cerebellum.report.grids import Grid, measured_on, with_limits
from cerebellum.report.markdown import grid_markdown, on_what
from cerebellum.report.page import write_page
from cerebellum.report.plain import noise_json
from cerebellum.report.tensors import commands_json, tensors_json
from cerebellum.scoring.summary import as_json
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.allocation.sensitivity import SensitivityMap
    from cerebellum.results.allocation import Allocation, AllocationLadder
    from cerebellum.stats.intervals import Interval


def write_allocation_ladder(ladder: AllocationLadder, out: Path) -> None:
    """``report.html``, ``report.md``, ``report.json``, ``sensitivity.json``, ``ladder.svg`` and the model card (``README.md``) of all
    sizes, into ``out``. Raises `OutputError`."""
    write_text(out / "ladder.svg", ladder_picture(ladder))
    write_text(out / "report.md", ladder_report(ladder))
    summary = ladder_json(ladder)
    write_text(out / "report.json", strict_json(summary) + "\n")
    write_page(summary, out)
    write_text(out / "README.md", ladder_card(ladder, write_picture(summary, out, "ladder")))
    write_text(out / "sensitivity.json", strict_json(map_json(shared_map(ladder))) + "\n")


def shared_map(ladder: AllocationLadder) -> SensitivityMap:
    """The map of the size that measured the anchors, with the checks of all."""
    maps = [result.sensitivity for result in ladder.results]
    measured = next((m for m, r in zip(maps, ladder.results, strict=True) if r.anchors.n_trials), maps[0])
    return replace(measured, checks=tuple(check for one in maps for check in one.checks))


def percent(ratio: Interval) -> str:
    """A share of the stock file's KL divergence, with its interval; "none" where that has none."""
    if not math.isfinite(ratio.estimate):
        return "none"
    return f"{in_percent(ratio.estimate)} % [{in_percent(ratio.low)}, {in_percent(ratio.high)}]"


def recipes_grid(ladder: AllocationLadder) -> Grid:
    """A row for each size: how large, how far from the reference, against the stock file, as good as which."""
    rows = tuple(
        (
            label,
            megabytes(r.written.file_bytes),
            mean_cell(r),
            percent(r.controls.ratio),
            equal_cell(r),
            stock_word(r),
        )
        for label, r in zip(ladder.labels, ladder.results, strict=True)
    )
    columns = ("label", "size", "KLD", "÷ stock", "good as stock", "verdict")
    notes = (
        measured_on(ladder.results[0].facts, "report").partition("; ")[2],
        "KLD: mean KL divergence to the reference, thousandths of a nat a token. Brackets: 95 % intervals.",
    )
    return Grid("Recipes", columns, rows, notes)


def mean_cell(result: Allocation) -> str:
    """The recipe's KL divergence on the report text."""
    mean = own_mean(result)
    return with_limits(mean, MILLI, 2, sign=False) if mean else "?"


def equal_cell(result: Allocation) -> str:
    """The bytes of a stock file as good."""
    n_bytes = result.controls.equivalent.n_bytes
    return (
        "none"
        if n_bytes is None
        else f"{megabytes(n_bytes)} {fixed(100 * (n_bytes / result.written.file_bytes - 1), 0, sign=True)} %"
    )


def missed_lines(ladder: AllocationLadder) -> list[str]:
    """The sizes without a file, and why."""
    return [f"No file for {label}, {why}." for label, why in ladder.missed.items()]


def ladder_next(ladder: AllocationLadder) -> str:
    """What to do now."""
    largest = ladder.results[-1].written.path.name
    return (
        f"Next: take the largest file that your memory holds (cerebellum fit {shell_file(largest)} --vram 8GB), llama-cli -m with it; each "
        "size has a report of its own in the folder of its label."
    )


def stock_grid(ladder: AllocationLadder) -> Grid:
    """The stock files on the same text."""
    rows = tuple(
        (
            r.ftype,
            megabytes(r.file_bytes),
            with_limits(r.mean, MILLI, 3, sign=False) if r.mean else f"{r.kld * MILLI:.3f}",
        )
        for r in ladder.stock
    )
    return Grid("Stock files", ("file", "size", "KLD"), rows, ("The same text, the same reference.",))


def ladder_report(ladder: AllocationLadder) -> str:
    """The page."""
    first = ladder.results[0]
    files = [
        f"* {label}: {code_span(r.written.path.name)}, report in {code_span(label + '/')}"
        for label, r in zip(ladder.labels, ladder.results, strict=True)
    ]
    parts = [
        f"# {markdown(first.model)}: a ladder of {len(ladder.labels)} sizes",
        "",
        grid_markdown(recipes_grid(ladder)),
        "![KL divergence against bytes](ladder.svg)",
        "",
        grid_markdown(stock_grid(ladder)),
        "## Files",
        "",
        *files,
        *(f"* {markdown(line)}" for line in [*missed_lines(ladder), ladder_next(ladder)]),
        "",
        "## On what",
        "",
        *on_what(first),
    ]
    return "\n".join(parts) + "\n"


def ladder_json(ladder: AllocationLadder) -> dict[str, Any]:
    """The ladder as plain data; each size's own report is in its folder."""
    return {
        "format": FORMAT,
        "kind": "ladder",
        "version": __version__,
        "facts": ladder.results[0].facts,
        "noise": noise_json(ladder.results[0].noise),
        "commands": commands_json(ladder.results[0].facts, None),
        "recipes": [
            {
                "label": label,
                "file": r.written.path.name,
                "file_bytes": r.written.file_bytes,
                "limit_bytes": r.limit,
                "kld": as_json(own_mean(r)),
                "ratio": as_json(r.controls.ratio),
                "equivalent": as_json(r.controls.equivalent),
                "verdict": five_lines(r),
                "tensors": tensors_json(r),
                "other_bytes": r.table.fixed_bytes(),
            }
            for label, r in zip(ladder.labels, ladder.results, strict=True)
        ],
        "stock": [as_json(rung) for rung in ladder.stock],
        "missed": dict(ladder.missed),
    }
