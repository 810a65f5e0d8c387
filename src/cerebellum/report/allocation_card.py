"""The model cards of an allocated file and of a ladder: five lines, tables, how to run and reproduce it, what was not tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cerebellum.keys import stem_of
from cerebellum.quoting import code_span, markdown, shell_file
from cerebellum.report.allocation_lines import CARD_NEXT, five_lines, rival_lines, warning_lines, weight_error_line
from cerebellum.report.allocation_tables import controls_grid, ladder_grid, megabytes, own_mean, stock_word, types_grid
from cerebellum.report.bench import bench_grid
from cerebellum.report.card_sections import (
    details_section,
    files_section,
    hardware_section,
    head_section,
    hub_words,
    memory_section,
    not_tested_section,
    reproduce_section,
    results_of,
    table_of,
    types_section,
    use_section,
)
from cerebellum.report.file_facts import as_written, details_of, memory_of
from cerebellum.report.front_matter import UNKNOWN_REPO, front_matter
from cerebellum.report.grids import measured_on, with_limits
from cerebellum.report.markdown import grid_markdown
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.domain import Model
    from cerebellum.results.allocation import Allocation, AllocationLadder

#: The context that a ladder's memory column is for, or what the model was trained for.
_CONTEXT = 4096


def allocation_card(result: Allocation, picture: Sequence[str] = ()) -> str:
    """Markdown with the front matter of a model hub. ``picture``: the lines that show one."""
    written, model = result.written, written_model(result)
    details = details_of(model)
    parts = [
        *head_section(result),
        f"{markdown(result.model)}, quantized so that each of {len(result.table.names)} tensors has the type that serves the whole best "
        f"within {markdown(str(result.target))}. The types were chosen by measurement.",
        "",
        *(f"* {markdown(line)}" for line in [*five_lines(result)[:4], CARD_NEXT]),
        *(f"* {markdown(line)}" for line in rival_lines(result.controls.rival)),
        f"* {markdown(weight_error_line(result))}",
        *(f"* {markdown(line)}" for line in warning_lines(result)),
        "",
        *use_section(written.path.name, details),
        *picture,
        grid_markdown(controls_grid(result)),
        grid_markdown(ladder_grid(result)),
        *([grid_markdown(bench_grid(result.bench))] if result.bench else []),
        *not_tested_section(result, result.bench),
        *memory_section(memory_of(model)),
        grid_markdown(types_grid(result)),
        *types_section(model, result.table.names),
        *reproduce_section(written),
        *files_section([written]),
        *details_section(result, details, written),
        *hardware_section(result),
    ]
    return "\n".join(parts) + "\n"


def written_model(result: Allocation) -> Model:
    """The written file's header."""
    return as_written(result.base.model, result.recipe.types(result.base.model.types))


# -- a ladder ----------------------------------------------------------------------------------------------------------


def ladder_card(ladder: AllocationLadder, picture: Sequence[str] = ()) -> str:
    """One card for all files of a ladder: which to take, each with its own figures, commands and overrides. ``picture``: the lines that
    show one."""
    first = ladder.results[0]
    models = [written_model(result) for result in ladder.results]
    metadata, facts = first.base.model.metadata, first.facts
    entries = [
        {
            **entry,
            "dataset": {**entry["dataset"], "args": {**entry["dataset"]["args"], "file": result.written.path.name}},
        }
        for result in ladder.results
        for entry in results_of(result.written.summary, result.facts, result.bench)
    ]
    parts = [
        *front_matter(metadata, stem_of(Path(first.model)), entries, has_imatrix=facts["imatrix"] is not None),
        "",
        f"# {markdown(first.model)}: {len(ladder.labels)} sizes",
        "",
        "Each file gives every tensor the type that serves the whole best within its bytes. The types were chosen by measurement, for each "
        f"size anew, from one study of {len(first.table.names)} tensors.",
        "",
        which_to_take(ladder, models),
        *picture,
        table_of(
            "Stock files on the same text",
            ("file", "size", "KLD"),
            stock_rows(ladder),
            ("The same text and reference.",),
        ),
        "## Run it",
        "",
        f"Replace {code_span(UNKNOWN_REPO)} by this repository's name; the label picks the file.",
        "",
        "```sh",
        *(" ".join(["llama-server", *hub_words(r.written.path.name)]) for r in ladder.results),
        "```",
        "",
        "```sh",
        *(f"ollama run hf.co/{UNKNOWN_REPO}:{shell_file(r.written.path.name)}" for r in ladder.results),
        "```",
        "",
        *not_tested_section(first, first.bench),
        *files_section([result.written for result in ladder.results]),
    ]
    for label, result, model in zip(ladder.labels, ladder.results, models, strict=True):
        parts += [
            f"# {markdown(label)}",
            "",
            *(f"* {markdown(line)}" for line in [*five_lines(result)[:4], CARD_NEXT]),
            "",
        ]
        parts += [grid_markdown(controls_grid(result))]
        parts += [grid_markdown(bench_grid(result.bench))] if result.bench else []
        parts += [*memory_section(memory_of(model)), *types_section(model, result.table.names)]
        parts += reproduce_section(result.written)
    parts += [f"# {markdown(first.model)}", "", *details_section(first, details_of(models[0]), first.written)]
    parts += hardware_section(first)
    return "\n".join(parts) + "\n"


def which_to_take(ladder: AllocationLadder, models: list[Model]) -> str:
    """A row a file with a note."""
    rows = []
    for label, result, model in zip(ladder.labels, ladder.results, models, strict=True):
        mean = own_mean(result)
        rows.append(
            (
                label,
                result.written.path.name,
                megabytes(result.written.file_bytes),
                f"{model.bits_per_weight:.2f}",
                with_limits(mean, MILLI, 3, sign=False) if mean else "?",
                _memory(model),
                note_on(result),
            )
        )
    columns = ("label", "file", "size", "bits a weight", "KLD", "memory, MB", "note")
    notes = (
        measured_on(ladder.results[0].facts, "report").partition("; ")[2],
        "KLD: mean KL divergence to the reference, thousandths of a nat a token; less is nearer. Brackets: 95 % intervals.",
        f"memory: of a GPU that holds all layers, with a context of {_context(models[0]):,} tokens (cache F16). Take the largest file "
        "that your memory holds.",
    )
    return table_of("Which file to take", columns, rows, notes)


def _context(model: Model) -> int:
    return min(model.context_length or _CONTEXT, _CONTEXT)


def _memory(model: Model) -> str:
    at = next((row for row in memory_of(model) if row["ctx"] == _context(model) and row["cache_type"] == "F16"), None)
    return f"{at['total'] / 1e6:,.0f}" if at else "?"


def note_on(result: Allocation) -> str:
    """Whether the file is worth taking, by its verdict against the stock file of its bytes."""
    base = result.base.ftype
    return {
        "improves": f"better than the stock {base} file",
        "damages": f"worse than the stock {base} file: take that one",
    }.get(stock_word(result), f"not told from the stock {base} file: that one serves as well")


def stock_rows(ladder: AllocationLadder) -> list[tuple[str, ...]]:
    """The stock files with their intervals."""
    return [
        (
            r.ftype,
            megabytes(r.file_bytes),
            with_limits(r.mean, MILLI, 3, sign=False) if r.mean else f"{r.kld * MILLI:.3f}",
        )
        for r in ladder.stock
    ]
