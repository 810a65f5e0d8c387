"""The model card of a written file: what it is, what it was measured on, how to run and to reproduce it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cerebellum import __version__
from cerebellum.keys import stem_of
from cerebellum.quoting import code_block, code_span, markdown, printable, shell_file
from cerebellum.report.bench import bench_grid
from cerebellum.report.grids import comparison_grid, controls_lines, perplexity_cell
from cerebellum.report.markdown import grid_markdown, on_what

if TYPE_CHECKING:
    from cerebellum.results import RunResult


def model_card(result: RunResult) -> str:
    """Markdown with the front matter that model hubs read. A written file is required."""
    written, combination = result.written, result.combination
    assert written is not None and combination is not None
    lines = "\n".join(printable(str(line)) for line in written.overrides)
    judged = written.from_base.judgement
    parts = [
        "---",
        "tags: [gguf, quantized, cerebellum]",
        f"# base_model: the hub's OWNER/NAME of the model that {markdown(result.model)} was made from",
        "---",
        "",
        f"# {markdown(stem_of(written.path))}",
        "",
        f"{markdown(result.model)} quantized to {markdown(result.base.ftype)}, "
        f"{len(combination.recipe.tensor_types)} tensors stored in another type, "
        "chosen by measuring each "
        f"of {len(result.sweep.rows)} changes alone. {written.file_bytes / 1e6:,.2f} MB; the base is {written.base_bytes / 1e6:,.2f} MB.",
        "",
        f"Against that base, on text that had no part in the choice: **{judged.verdict}**. {markdown(judged.reason)}",
        "",
        *(f"* {markdown(line)}" for line in controls_lines(result)),
        "",
        f"Perplexity {perplexity_cell(written.summary)} on that text. {markdown(tasks_line(result))}",
        "",
        "## Run it",
        "",
        code_block(f"llama-cli -m {shell_file(written.path.name)}", "sh"),
        "",
        f"For Ollama, a `Modelfile` with one line, {code_span(f'FROM ./{written.path.name}')}, then `ollama create NAME -f Modelfile`.",
        "",
        "## Reproduce it",
        "",
        f"Save as {code_span(written.overrides_path.name)}:",
        "",
        code_block(lines),
        "",
        code_block(written.reproduce, "sh"),
        "",
        grid_markdown(comparison_grid(combination.report, result.facts)),
        *([grid_markdown(bench_grid(result.bench))] if result.bench else []),
        "## On what",
        "",
        *on_what(result, public=True),
        "",
        f"Made with cerebellum {__version__}.",
    ]
    return "\n".join(parts) + "\n"


def tasks_line(result: RunResult) -> str:
    """What tasks say of the file, in one sentence."""
    bench = result.bench
    if bench is None:
        return "It was not tested on tasks: run the benchmarks that matter to you."
    words = "; ".join(f"{task.name} {task.word or 'not judged'}" for task in bench.tasks)
    return f"On tasks, question by question against that base: {words} (below)."
