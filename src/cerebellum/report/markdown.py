"""The report as Markdown."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cerebellum import __version__
from cerebellum.figures import counted
from cerebellum.quoting import code_block, code_span, markdown, markdown_cell, printable, shell_line
from cerebellum.report.bench import bench_grid
from cerebellum.report.chosen_lines import chosen_lines
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
from cerebellum.report.ladder import ladder_grid

if TYPE_CHECKING:
    from cerebellum.results import RunResult, SweepResult


def grid_markdown(grid: Grid, level: int = 2) -> str:
    """A heading, a table and its notes."""
    head, *rows = ("| " + " | ".join(map(markdown_cell, row)) + " |" for row in (grid.columns, *grid.rows))
    rule = "|" + "---|" * len(grid.columns)
    notes = [f"* {markdown(note)}" for note in grid.notes]
    return "\n".join([f"{'#' * level} {markdown(grid.title)}", "", head, rule, *rows, "", *notes, ""])


CSV_LINE = "All trials with all columns: `sweep.csv`."
#: Rows of a table, or lines of a list, that are shown at once; more are folded.
SHOWN_AT_ONCE = 20


def folded(title: str, text: str, n_rows: int) -> str:
    """``text`` behind its title, where it has more than `SHOWN_AT_ONCE` rows: a click shows it."""
    if n_rows <= SHOWN_AT_ONCE:
        return text
    return f"<details><summary>{escape(printable(title))}: {n_rows:,} rows</summary>\n\n{text}\n</details>\n"


def folded_grid(grid: Grid) -> str:
    """A table, folded where it is long."""
    return folded(grid.title, grid_markdown(grid), len(grid.rows))


def full_report(result: RunResult) -> str:
    """Everything: what was measured on what, the sweep, the choice, the controls, the proven file."""
    facts = result.facts
    parts = [f"# {markdown(result.model)}: what its quantization deserves", "", *header(result), ""]
    parts += [line for warning in facts["warnings"] for line in (f"**Warning.** {markdown(warning)}", "")]
    parts += [*(f"1. {markdown(line)}" for line in chosen_lines(result)), ""]
    parts += ["![the sweep](sweep.svg)", "", CSV_LINE, ""]
    parts += [
        "## Result",
        "",
        *(f"* {markdown(line)}" for line in [*choice_lines(result), *controls_lines(result), *written_lines(result)]),
        "",
    ]
    if result.combination is not None:
        parts += [grid_markdown(prediction_grid(result.combination))]
        parts += [
            grid_markdown(comparison_grid(c, facts)) for c in (result.combination.report, result.combination.search)
        ]
    if result.bench is not None:
        parts += [grid_markdown(bench_grid(result.bench))]
    if result.validity is not None:
        parts += [grid_markdown(ladder_grid(result.validity))]
    parts += [folded_grid(sweep_grid(result.sweep, facts, result.noise))]
    for file, unwritten in facts.get("unwritten_overrides", {}).items():
        block = code_block("\n".join(map(printable, unwritten)))
        parts += [f"## Overrides of the recipe, of which no file was written ({markdown(file)})", "", block, ""]
    if result.written is not None:
        lines = [printable(f"{o}" + (f"    ({o.why})" if o.why else "")) for o in result.written.overrides]
        parts += ["## Overrides", "", folded("Overrides", code_block("\n".join(lines)) + "\n", len(lines)), ""]
    parts += ["## On what", "", *on_what(result)]
    return "\n".join(parts) + "\n"


def sweep_report(result: SweepResult) -> str:
    """A sweep without a choice: how many trials came to which verdict, the picture, the table, on what."""
    facts, words = result.facts, Counter(str(row.contrast.judgement.verdict) for row in result.sweep.rows)
    counts = ", ".join(f"{n} {word}" for word, n in words.most_common())
    parts = [f"# {markdown(result.model)}: each tensor alone at another type", "", *header(result), ""]
    parts += [
        f"{counted(len(result.sweep.rows), 'trial')}: {markdown(counts) or 'none was measured'}. Nothing was chosen: `run` does.",
        "",
    ]
    parts += [line for warning in facts["warnings"] for line in (f"**Warning.** {markdown(warning)}", "")]
    parts += ["![the sweep](sweep.svg)", "", CSV_LINE, "", folded_grid(sweep_grid(result.sweep, facts, result.noise))]
    parts += ["## On what", "", *on_what(result)]
    return "\n".join(parts) + "\n"


def header(result: RunResult | SweepResult) -> list[str]:
    """One paragraph that a reader in a hurry needs."""
    twice = (
        " The source was quantized already, so what the recipe changes is quantized twice." if result.base.twice else ""
    )
    return [
        f"Base {markdown(result.base.ftype)}, {result.base.model.file_bytes / 1e6:,.2f} MB. One tensor at a time was stored in "
        "another type, in "
        f"memory, and measured against the reference.{twice} Lower KL divergence (KLD) is nearer to the reference."
    ]


class Found(Protocol):
    """Any result that says on what its figures were measured."""

    @property
    def facts(self) -> dict[str, Any]: ...


def on_what(result: Found, *, public: bool = False) -> list[str]:
    """Hashes, versions, settings and the command, as a list; ``public`` leaves out the folders on this machine."""
    facts = result.facts
    listed = [f"* {markdown(line)}" for line in fact_lines(facts)]
    if facts.get("command"):
        words = (Path(word).name if public and "/" in word else word for word in facts["command"])
        listed.append(f"* command: {code_span(shell_line(words))}")
    return listed


def fact_lines(facts: dict[str, Any], version: str = __version__) -> list[str]:
    """On what the figures rest: hashes, versions, settings. ``version``: the Cerebellum that measured."""
    lines = [
        f"model: {facts['model']['file']} ({facts['model']['architecture']}), sha256 {facts['model']['sha256']}",
        f"reference: {facts['reference'].get('file', '')}, sha256 {facts['reference']['sha256']}, "
        + (
            "complete rows (exact)"
            if facts["reference"]["k"] is None
            else f"the {facts['reference']['k']} largest logits a row"
        ),
        "importance matrix: "
        + (f"{facts['imatrix']['file']}, sha256 {facts['imatrix']['sha256']}" if facts["imatrix"] else "none"),
    ]
    if facts["imatrix"] and (effect := facts["imatrix"].get("effect")):
        lines.append(f"importance matrix, with it and without: {effect['sentence']}")
    if facts["imatrix"] and (left_out := facts["imatrix"].get("left_out")):
        lines.append(f"importance matrix, by tensor: {left_out['sentence']}")
    for name, split in facts["splits"].items():
        lines.append(f"{name} text: {chunks_of(split)}, sha256 {split['text_sha256']}")
    settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items() if value is not None)
    return [*lines, f"settings: {settings}", f"build: {facts['build']}, cerebellum {version}"]


def comparison_facts(facts: dict[str, Any], version: str = __version__) -> list[str]:
    """The same for files that were compared."""
    settings = ", ".join(f"{name} {value}" for name, value in facts["settings"].items() if value is not None)
    return [
        f"reference: {facts['reference']['file']}, sha256 {facts['reference']['sha256']}",
        f"text: {chunks_of(facts['text'])}, sha256 {facts['text']['text_sha256']}",
        f"settings: {settings}",
        f"build: {facts['build']}, cerebellum {version}",
    ]
