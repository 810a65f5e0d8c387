"""How results look in a notebook: tables in HTML, and one line where there is no room for more.

`cerebellum.api` attaches both to the classes of its results. They can't have them by themselves: a result knows nothing of reports.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cerebellum.domain import Model
from cerebellum.evals.score import BenchResult
from cerebellum.figures import counted
from cerebellum.hub.publish import Published
from cerebellum.quoting import printable
from cerebellum.results import LadderResult, Measurement, RunResult, SweepResult
from cerebellum.results.allocation import Allocation, AllocationLadder
from cerebellum.results.estimate import Estimate
from cerebellum.results.files import FileComparison
from cerebellum.results.fit import Fit
from cerebellum.results.part import Merged, Part
from cerebellum.results.plan import Planned
from cerebellum.verbs.imatrix import MadeImatrix
from cerebellum.verbs.perplexity import Perplexity
from cerebellum.verbs.quantize import Quantized
from cerebellum.verbs.splitting import SplitModel

if TYPE_CHECKING:
    from cerebellum.report.grids import Grid

#: Letters of the line that stands for a result.
SHORT = 160


@dataclass(frozen=True, slots=True)
class NotebookView:
    """Of a result: sentences, the first of which says it in one, then tables."""

    lines: Sequence[str]
    grids: Sequence[Grid] = ()


def attach() -> None:
    """Give each class of results its ``_repr_html_`` and its short ``repr``."""
    for kind, view in VIEWS.items():
        for name, function in (("_repr_html_", _html_by(view)), ("__repr__", _line_by(view))):
            setattr(kind, name, function)


def _html_by(view: Callable[[Any], NotebookView]) -> Callable[[Any], str]:
    return lambda result: view_html(view(result))


def _line_by(view: Callable[[Any], NotebookView]) -> Callable[[Any], str]:
    return lambda result: f"<{type(result).__name__}: {printable(view(result).lines[0], SHORT)}>"


def view_html(view: NotebookView) -> str:
    """HTML of sentences and tables. What names in it hold is text, never markup."""
    return "".join([*(f"<p>{escaped(line)}</p>" for line in view.lines), *map(grid_html, view.grids)])


def grid_html(grid: Grid) -> str:
    """A table with its title and its notes."""
    head = _row("th", grid.columns)
    body = "".join(_row("td", row) for row in grid.rows)
    notes = "".join(f"<p><small>{escaped(note)}</small></p>" for note in grid.notes)
    return f"<table><caption>{escaped(grid.title)}</caption><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escaped(cell)}</{tag}>' for cell in cells)}</tr>"


def escaped(text: str) -> str:
    """``text`` for HTML, hidden characters made visible."""
    return html.escape(printable(text))


# -- what is shown of each ---------------------------------------------------------------------------------------------


def _allocation(result: Allocation) -> NotebookView:
    from cerebellum.report.allocation_lines import five_lines, rival_lines
    from cerebellum.report.allocation_tables import controls_grid, ladder_grid, short_types_grid

    lines = [*five_lines(result), *rival_lines(result.controls.rival)]
    return NotebookView(lines, [controls_grid(result), ladder_grid(result), short_types_grid(result)])


def _ladder(result: AllocationLadder) -> NotebookView:
    from cerebellum.report.allocation_ladder import recipes_grid, stock_grid

    return NotebookView(
        [f"{counted(len(result.results), 'size')}: {', '.join(result.labels)}"],
        [recipes_grid(result), stock_grid(result)],
    )


def _run(result: RunResult) -> NotebookView:
    from cerebellum.report.chosen_lines import chosen_lines
    from cerebellum.report.grids import choice_lines, comparison_grid, short_sweep_grid, written_lines

    grids = [short_sweep_grid(result.sweep, result.facts, result.noise)]
    if result.combination is not None:
        grids.insert(0, comparison_grid(result.combination.report, result.facts))
    return NotebookView([*chosen_lines(result), *choice_lines(result), *written_lines(result)], grids)


def _sweep(result: SweepResult) -> NotebookView:
    from cerebellum.report.grids import short_sweep_grid

    line = f"{counted(len(result.sweep.rows), 'trial')} of {result.model} at {result.base.ftype}"
    return NotebookView([line], [short_sweep_grid(result.sweep, result.facts, result.noise)])


def _measurement(result: Measurement) -> NotebookView:
    from cerebellum.report.divergence import measurement_grid

    return NotebookView(
        [f"{counted(len(result.files), 'file')}: {', '.join(file.name for file in result.files)}"],
        [measurement_grid(result)],
    )


def _validity(result: LadderResult) -> NotebookView:
    from cerebellum.report.ladder import ladder_grid

    return NotebookView(
        [f"perplexity as a judge: {result.report.verdict}. {result.report.reason}"], [ladder_grid(result)]
    )


def _comparison(result: FileComparison) -> NotebookView:
    from cerebellum.report.comparison import front_lines, short_grid, types_grid

    files = counted(len(result.files), "file")
    return NotebookView(
        [f"{files} beside each other", *front_lines(result)], [short_grid(result), types_grid(result, short=True)]
    )


def _fit(result: Fit) -> NotebookView:
    from cerebellum.report.fit import fit_grid, fit_lines

    return NotebookView(fit_lines(result), [fit_grid(result)])


def _published(result: Published) -> NotebookView:
    *files, total = result.lines()
    return NotebookView([total, *files])


def _split(result: SplitModel) -> NotebookView:
    return NotebookView(
        [f"{result.model.path.name}: {counted(len(result.sizes), 'file')}, {sum(result.sizes):,} bytes"]
    )


def _bench(result: BenchResult) -> NotebookView:
    from cerebellum.report.bench import short_bench_grid

    gate = f", gate {result.word}" if result.word else ""
    return NotebookView([f"{counted(len(result.tasks), 'task')}{gate}"], [short_bench_grid(result)])


def _estimate(result: Estimate) -> NotebookView:
    from cerebellum.report.estimate import estimate_lines

    return NotebookView(estimate_lines(result))


def _planned(result: Planned) -> NotebookView:
    from cerebellum.report.plan import plan_grid, plan_lines

    return NotebookView(plan_lines(result), [plan_grid(result)])


def _part(result: Part) -> NotebookView:
    from cerebellum.report.part import part_lines

    return NotebookView(part_lines(result))


def _merged(result: Merged) -> NotebookView:
    from cerebellum.report.part import merged_lines

    return NotebookView(merged_lines(result) or ["nothing merged"])


def _model(result: Model) -> NotebookView:
    return NotebookView([
        f"{result.path.name}: {result.architecture}, {counted(result.n_blocks, 'block')}, {counted(len(result.tensors), 'tensor')}, "
        f"{result.n_weights:,} weights, {result.file_bytes:,} bytes, {result.bits_per_weight:.2f} bits a weight"
    ])  # fmt: skip


def _perplexity(result: Perplexity) -> NotebookView:
    lines = [
        f"perplexity {result.perplexity:.4f} ± {result.std_error:.4f}, {counted(result.chunks, 'chunk')}, {result.tokens} scored"
    ]
    return NotebookView([*lines, *result.warnings])


def _summary(result: Quantized | MadeImatrix) -> NotebookView:
    return NotebookView(result.summary().splitlines())


VIEWS: dict[type, Callable[[Any], NotebookView]] = {
    Allocation: _allocation,
    AllocationLadder: _ladder,
    BenchResult: _bench,
    Estimate: _estimate,
    FileComparison: _comparison,
    Fit: _fit,
    LadderResult: _validity,
    MadeImatrix: _summary,
    Measurement: _measurement,
    Merged: _merged,
    Model: _model,
    Part: _part,
    Perplexity: _perplexity,
    Planned: _planned,
    Published: _published,
    Quantized: _summary,
    RunResult: _run,
    SplitModel: _split,
    SweepResult: _sweep,
}
