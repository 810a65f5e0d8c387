"""The model card of what a sweep chose: what it is, what it was measured on, how to run and to reproduce it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cerebellum.quoting import markdown
from cerebellum.report.allocation_lines import CARD_NEXT
from cerebellum.report.bench import bench_grid
from cerebellum.report.card_sections import (
    details_section,
    files_section,
    hardware_section,
    head_section,
    memory_section,
    not_tested_section,
    reproduce_section,
    types_section,
    use_section,
)
from cerebellum.report.chosen_lines import chosen_lines
from cerebellum.report.file_facts import details_of, memory_of, written_model
from cerebellum.report.grids import comparison_grid, controls_lines, perplexity_cell
from cerebellum.report.markdown import grid_markdown

if TYPE_CHECKING:
    from cerebellum.results import RunResult


def model_card(result: RunResult, picture: Sequence[str] = ()) -> str:
    """Markdown with the front matter that model hubs read. A written file is required. ``picture``: the lines that show one."""
    written, combination = result.written, result.combination
    assert written is not None and combination is not None
    model, judged = written_model(result.base, combination), written.from_base.judgement
    facts, details = result.facts, details_of(model)
    parts = [
        *head_section(result),
        f"{markdown(result.model)} quantized to {markdown(result.base.ftype)}, "
        f"{len(combination.recipe.tensor_types)} tensors stored in another type, "
        f"chosen by the policy {markdown(result.choice.policy)} after measuring each of {len(result.sweep.rows)} changes alone. "
        f"{written.file_bytes / 1e6:,.2f} MB; the base is {written.base_bytes / 1e6:,.2f} MB.",
        "",
        *(f"* {markdown(line)}" for line in [*chosen_lines(result)[:4], CARD_NEXT]),
        "",
        f"**{judged.verdict}**: {markdown(judged.reason)}",
        "",
        *(f"* {markdown(line)}" for line in controls_lines(result)),
        "",
        f"Perplexity {perplexity_cell(written.summary)} on that text. {markdown(tasks_line(result))}",
        "",
        *use_section(written.path.name, details),
        *picture,
        grid_markdown(comparison_grid(combination.report, facts)),
        *([grid_markdown(bench_grid(result.bench))] if result.bench else []),
        *not_tested_section(result, result.bench),
        *memory_section(memory_of(model)),
        *types_section(model, [t.name for t in model.tensors if len(t.shape) > 1]),
        *reproduce_section(written),
        *files_section([written]),
        *details_section(result, details, written),
        *hardware_section(result),
    ]
    return "\n".join(parts) + "\n"


def tasks_line(result: RunResult) -> str:
    """What tasks say of the file, in one sentence."""
    bench = result.bench
    if bench is None:
        return "It was not tested on tasks: run the benchmarks that matter to you."
    words = "; ".join(f"{task.name} {task.word or 'not judged'}" for task in bench.tasks)
    return f"On tasks, question by question against that base: {words} (below)."
