"""The report as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cerebellum import __version__
from cerebellum.report.grids import (
    Grid,
    choice_lines,
    chunks_of,
    comparison_grid,
    controls_lines,
    prediction_grid,
    sweep_grid,
    written_lines,
)

if TYPE_CHECKING:
    from cerebellum.verbs.pipeline import RunResult


def grid_markdown(grid: Grid, level: int = 2) -> str:
    """A heading, a table and its notes."""
    head = "| " + " | ".join(grid.columns) + " |"
    rule = "|" + "---|" * len(grid.columns)
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid.rows]
    notes = [f"* {note}" for note in grid.notes]
    return "\n".join([f"{'#' * level} {grid.title}", "", head, rule, *rows, "", *notes, ""])


def full_report(result: RunResult) -> str:
    """Everything: what was measured on what, the sweep, the choice, the controls, the proven file."""
    facts = result.facts
    parts = [f"# {result.model}: what its quantization deserves", "", *header(result), ""]
    parts += [
        "## Result",
        "",
        *(f"* {line}" for line in [*choice_lines(result), *controls_lines(result), *written_lines(result)]),
        "",
    ]
    if result.combination is not None:
        parts += [grid_markdown(prediction_grid(result.combination))]
        parts += [
            grid_markdown(comparison_grid(c, facts)) for c in (result.combination.report, result.combination.search)
        ]
    parts += [grid_markdown(sweep_grid(result.sweep, facts)), "![the sweep](sweep.svg)", ""]
    if result.written is not None:
        lines = "\n".join(f"{o}" + (f"    ({o.why})" if o.why else "") for o in result.written.overrides)
        parts += ["## Overrides", "", "```", lines, "```", ""]
    parts += ["## On what", "", *on_what(result)]
    return "\n".join(parts) + "\n"


def header(result: RunResult) -> list[str]:
    """One paragraph that a reader in a hurry needs."""
    twice = (
        " The source was quantized already, so what the recipe changes is quantized twice." if result.base.twice else ""
    )
    return [
        f"Base {result.base.ftype}, {result.base.model.file_bytes / 1e6:,.2f} MB. One tensor at a time was stored in another type, in "
        f"memory, and measured against the reference.{twice} Lower KL divergence (KLD) is nearer to the reference."
    ]


def on_what(result: RunResult) -> list[str]:
    """Hashes, versions, settings and the command."""
    facts = result.facts
    lines = [
        f"* model: {facts['model']['file']} ({facts['model']['architecture']}), sha256 {facts['model']['sha256']}",
        f"* reference: {facts['reference'].get('file', '')}, sha256 {facts['reference']['sha256']}, "
        + (
            "complete rows (exact)"
            if facts["reference"]["k"] is None
            else f"the {facts['reference']['k']} largest logits a row"
        ),
        f"* importance matrix: {facts['imatrix'] or 'none'}",
    ]
    for name, split in facts["splits"].items():
        lines.append(f"* {name} text: {chunks_of(split)}, sha256 {split['text_sha256']}")
    lines += [f"* settings: {facts['settings']}", f"* build: {facts['build']}, cerebellum {__version__}"]
    if facts.get("command"):
        lines.append(f"* command: `{' '.join(facts['command'])}`")
    return lines
