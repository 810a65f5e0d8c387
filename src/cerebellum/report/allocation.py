"""An allocation for people and programs: five lines, tables, page, pictures, JSON; from a finished result only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum import __version__
from cerebellum.allocation.sensitivity import map_json
from cerebellum.evals.plain import bench_json
from cerebellum.files import companions, write_text
from cerebellum.keys import stem_of
from cerebellum.quoting import code_block, markdown, printable, strict_json
from cerebellum.report.accuracy import accuracy_grid, accuracy_json, left_out
from cerebellum.report.allocation_card import allocation_card, written_model
from cerebellum.report.allocation_lines import (
    failed_lines,
    file_lines,
    five_lines,
    rival_lines,
    shuffled_line,
    size_lines,
    verdict_lines,
    warning_lines,
    weight_error_line,
)
from cerebellum.report.allocation_pictures import allocation_picture, prediction_picture
from cerebellum.report.allocation_tables import (
    controls_grid,
    ladder_grid,
    set_bytes,
    shuffled_limits,
    slopes_grid,
    tried_grid,
    types_grid,
)
from cerebellum.report.bench import bench_grid
from cerebellum.report.card_picture import write_picture
from cerebellum.report.carried import probes_grid, roles_grid, transfer_json, transfer_lines
from cerebellum.report.file_facts import file_json
from cerebellum.report.grids import comparison_grid
from cerebellum.report.markdown import folded, folded_grid, grid_markdown, on_what
from cerebellum.report.noise import noise_line
from cerebellum.report.page import write_page
from cerebellum.report.plain import noise_json
from cerebellum.report.refinement import refinement_grid, refinement_json, refinement_lines
from cerebellum.report.rows import tensors_csv
from cerebellum.report.tensors import commands_json, effects_json, tensors_json
from cerebellum.scoring.summary import as_json

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation

#: The version of ``report.json``: it changes where a reader of the older one would misunderstand.
FORMAT = 1


def write_allocation(result: Allocation, out: Path) -> dict[str, Any]:
    """``report.html``, ``report.md``, ``report.json``, ``sensitivity.json``, ``tensors.csv`` and the pictures into ``out``, the model card
    beside the file.

    Returns what ``report.json`` holds. Raises `OutputError`.
    """
    summary = allocation_json(result)
    write_text(out / "allocation.svg", allocation_picture(result))
    write_text(out / "prediction.svg", prediction_picture(result))
    write_text(out / "report.md", allocation_report(result))
    write_text(out / "report.json", strict_json(summary) + "\n")
    write_page(summary, out)
    write_text(out / "tensors.csv", tensors_csv(result))
    write_text(out / "sensitivity.json", strict_json(map_json(result.sensitivity)) + "\n")
    card = companions(result.written.path)[1]
    write_text(card, allocation_card(result, write_picture(summary, card.parent, stem_of(result.written.path))))
    return summary


# -- page and data -----------------------------------------------------------------------------------------------------


def allocation_report(result: Allocation) -> str:
    """The page: five lines, tables, pictures, and what everything was measured on."""
    comparison, facts = result.controls.comparison, result.facts
    more = [
        *transfer_lines(result),
        *rival_lines(result.controls.rival),
        weight_error_line(result),
        shuffled_line(result),
        *refinement_lines(result),
        *size_lines(result),
        *failed_lines(result),
        *file_lines(result),
    ]
    parts = [
        f"# {markdown(result.model)} within {result.limit:,} bytes",
        "",
        *(f"1. {markdown(line)}" for line in five_lines(result)),
        "",
    ]
    parts += [line for warning in warning_lines(result) for line in (f"**{markdown(warning)}**", "")]
    parts += [*(f"* {markdown(line)}" for line in more), ""]
    parts += ["![types by role and block](allocation.svg)", ""]
    grids = [controls_grid(result), ladder_grid(result), types_grid(result)]
    parts += [grid_markdown(grid) for grid in grids]
    parts += [folded_grid(g(result)) for g in (roles_grid, probes_grid)] if result.transferred else []
    parts += [folded_grid(tried_grid(result))]
    parts += [grid_markdown(refinement_grid(result))] if result.refined else []
    parts += ["![predicted and measured](prediction.svg)", ""]
    parts += [grid_markdown(accuracy_grid(left_out(result)))]
    parts += [grid_markdown(bench_grid(result.bench))] if result.bench else []
    parts += [grid_markdown(comparison_grid(comparison, facts)), folded_grid(slopes_grid(result))]
    lines = [printable(str(line)) for line in result.written.overrides]
    parts += ["All tensors with all figures: `tensors.csv`.", ""]
    parts += ["## Overrides", "", folded("Overrides", code_block("\n".join(lines)) + "\n", len(lines)), ""]
    parts += ["## On what", "", *on_what(result)]
    parts += [f"* {markdown(noise_line(result.noise))}", ""]
    return "\n".join(parts) + "\n"


def allocation_json(result: Allocation) -> dict[str, Any]:
    """The result as plain data."""
    controls = result.controls
    recipe, accuracy = result.recipe.types(result.base.model.types), left_out(result)
    return {
        "format": FORMAT,
        "kind": "allocation",
        "version": __version__,
        "facts": result.facts,
        "noise": noise_json(result.noise),
        "target": {"asked": str(result.target), "limit_bytes": result.limit},
        "verdict": verdict_lines(result),
        "commands": commands_json(result.facts, result.written),
        "recipe": {name: recipe[name] for name in result.table.names},
        "anchors": {
            "trials": result.anchors.n_trials,
            "chunks": result.anchors.n_chunks,
            "floor": {"blocks": list(result.anchors.floor.blocks), "values": list(result.anchors.floor.values)},
            "misfit": result.anchors.model.misfit,
            "failed": [list(cell) for cell in result.anchors.failed],
            "left_out": accuracy_json(accuracy),
            "effects": effects_json(accuracy.pairs),
        },
        "transfer": transfer_json(result),
        "tensors": tensors_json(result),
        "other_bytes": result.table.fixed_bytes(),
        "tried": [
            {
                "name": t.candidate.name,
                "file_bytes": t.file_bytes,
                "predicted": t.predicted,
                "measured": t.measured,
                "ratio": as_json(t.ratio),
                "kept": t.kept,
            }
            for t in result.tried
        ],
        "refinement": refinement_json(result),
        "controls": {
            "ratio": as_json(controls.ratio),
            "from_weight_error": as_json(controls.from_weight_error),
            "shuffled": as_json(controls.shuffled),
            "shuffled_limits": shuffled_limits(result),
            "stock_ladder": as_json(controls.ladder),
            "equivalent": as_json(controls.equivalent),
            "rival": as_json(controls.rival),
            "failed": as_json(controls.failed),
            "report": comparison_json(result),
        },
        "written": as_json(result.written),
        "file": file_json(written_model(result)),
        "bench": None if result.bench is None else bench_json(result.bench),
    }


def comparison_json(result: Allocation) -> dict[str, Any]:
    """Recipe and controls on the report text, with the bytes of their files."""
    comparison = result.controls.comparison
    rows = [{**as_json(row), "file_bytes": set_bytes(result, row)} for row in comparison.rows]
    return {**as_json(comparison), "rows": rows}
