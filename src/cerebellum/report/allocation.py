"""An allocation for people and programs: verdict, tables, page, JSON; from a finished result only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum.bench.plain import bench_json
from cerebellum.files import write_text
from cerebellum.quoting import strict_json
from cerebellum.report.bench import bench_grid
from cerebellum.report.grids import Grid, comparison_grid, measured_on, perplexity_cell, with_limits
from cerebellum.report.markdown import grid_markdown, on_what
from cerebellum.report.noise import noise_line
from cerebellum.report.plain import noise_json
from cerebellum.report.refinement import refinement_grid, refinement_json, refinement_lines
from cerebellum.scoring.summary import as_json
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation


def write_allocation(result: Allocation, out: Path) -> dict[str, Any]:
    """``report.md`` and ``report.json`` into ``out``. Returns what ``report.json`` holds. Raises `OutputError`."""
    summary = allocation_json(result)
    write_text(out / "report.md", allocation_report(result))
    write_text(out / "report.json", strict_json(summary) + "\n")
    return summary


# -- sentences ---------------------------------------------------------------------------------------------------------


def megabytes(n: float) -> str:
    """A size of a file."""
    return f"{n / 1e6:,.2f} MB"


def share(x: Any) -> str:
    """A ratio with its interval."""
    return with_limits(x, 1.0, 3, sign=False)


def verdict_lines(result: Allocation) -> list[str]:
    """Size, what it is worth, how it compares: the lines that a reader in a hurry needs, the most telling first."""
    controls, written, base = result.controls, result.written, result.base
    return [
        equivalent_line(result),
        f"At {written.file_bytes:,} bytes KL divergence is {share(controls.ratio)} of the stock {base.ftype} file's "
        f"({base.model.file_bytes:,} bytes): {ratio_word(controls.ratio)}.",
        weight_error_line(result),
        shuffled_line(result),
        *refinement_lines(result),
        *size_lines(result),
    ]


def equivalent_line(result: Allocation) -> str:
    """The stock file that is as good."""
    found, written = result.controls.equivalent, result.written
    if found.n_bytes is None:
        best = min(result.controls.ladder, key=lambda rung: rung.kld)
        return (
            f"{megabytes(written.file_bytes)}; no stock file is as near to the reference (the best tried, {best.ftype}, is "
            f"{megabytes(best.file_bytes)})."
        )
    limits = [megabytes(x) if x is not None else "?" for x in (found.low, found.high)]
    more = 100.0 * (found.n_bytes / written.file_bytes - 1.0)
    return (
        f"{megabytes(written.file_bytes)}, as good as a stock file of {megabytes(found.n_bytes)} [{limits[0]}, {limits[1]}]: "
        f"{more:+.0f} %."
    )


def ratio_word(ratio: Any) -> str:
    """What a share of the stock file's KL divergence is called."""
    if ratio.high < 1.0:
        return "improves"
    return "damages" if ratio.low > 1.0 else "no difference shown"


def weight_error_line(result: Allocation) -> str:
    """What measuring added to weight error alone."""
    ratio = result.controls.from_weight_error
    if result.kept.candidate.name == "weight error alone" or ratio.std_error == 0.0:
        return "Weight error alone chooses the same: measuring added nothing here."
    return f"KL divergence is {share(ratio)} of what the choice by weight error alone has at these bytes: {ratio_word(ratio)}."


def shuffled_line(result: Allocation) -> str:
    """What the shuffled compositions say."""
    found = result.controls.shuffled
    if not found.others:
        return "No shuffled controls: no role has two tensors of different types."
    low, high = min(found.others), max(found.others)
    p = (1 + len(found.others) - found.n_worse) / (1 + len(found.others))
    return (
        f"The same types shuffled within their roles: {found.n_worse} of {len(found.others)} are worse than the recipe (p = {p:.2g}), at "
        f"{low:.2f} to {high:.2f} of the stock file's KL divergence where the recipe has {found.recipe:.2f} ({found.n_chunks} chunks)."
    )


def size_lines(result: Allocation) -> list[str]:
    """Why a file is clearly smaller than it might be."""
    left = result.limit - result.written.file_bytes
    if left <= 0.01 * result.limit:
        return []
    return [
        f"{left:,} of {result.limit:,} bytes are left: no larger type that the tensors can take has less damage, or the next one is "
        "too large."
    ]


# -- tables ------------------------------------------------------------------------------------------------------------


def types_grid(result: Allocation) -> Grid:
    """Role by role: tensors, types of the base and of the recipe, slopes."""
    table, recipe = result.table, result.recipe.types(result.base.model.types)
    rows = []
    for role in sorted(set(table.roles.values())):
        names = [n for n in table.names if table.roles[n] == role]
        sizes = [sum(table.n_bytes(n, types[n]) for n in names) for types in (table.base_types, recipe)]
        rows.append(
            (
                role,
                str(len(names)),
                _counted(table.base_types[n] for n in names),
                _counted(recipe[n] for n in names),
                f"{sizes[0] / 1e6:.3f}",
                f"{sizes[1] / 1e6:.3f}",
            )
        )
    columns = ("role", "tensors", "types of the stock file", "types of the recipe", "MB, stock", "MB, recipe")
    return Grid("Types by role", columns, tuple(rows))


def _counted(kinds: Any) -> str:
    return ", ".join(f"{kind} ×{n}" for kind, n in Counter(kinds).most_common())


def tried_grid(result: Allocation) -> Grid:
    """The candidate recipes on the search text."""
    rows = tuple(
        (
            t.candidate.name,
            f"{t.file_bytes:,}",
            f"{t.predicted * MILLI:.3f}",
            f"{t.measured * MILLI:.3f}",
            share(t.ratio),
            "kept" if t.kept else "",
        )
        for t in result.tried
    )
    columns = ("recipe by", "bytes", "KLD predicted", "KLD measured", "share of the stock file's KLD", "")
    notes = (
        measured_on(result.facts, "search"),
        "KLD: mean KL divergence, thousandths of a nat a token. Predictions add up single effects.",
    )
    return Grid("Candidate recipes, measured together", columns, rows, notes)


def ladder_grid(result: Allocation) -> Grid:
    """The stock ladder on the report text, with the recipe among it."""
    controls = result.controls
    row = controls.comparison.rows[1].summary.divergence
    rows = [(r.file_bytes, f"stock {r.ftype}", r.kld) for r in controls.ladder]
    if row is not None:
        rows.append((result.written.file_bytes, "recipe", row.mean.estimate))
    cells = tuple((name, f"{n:,}", f"{kld * MILLI:.3f}") for n, name, kld in sorted(rows))
    return Grid(
        "Stock files beside the recipe, report text",
        ("file", "bytes", "KLD"),
        cells,
        (measured_on(result.facts, "report"),),
    )


def slopes_grid(result: Allocation) -> Grid:
    """Tensor by tensor: type, damage expected at the stock type and at the recipe's."""
    table, model = result.table, result.anchors.model
    recipe = result.recipe.types(result.base.model.types)
    rows = []
    for name in table.names:
        slope, base = model.slopes[name], table.base_types[name]
        damage = [slope.mean * table.errors[name][k] * MILLI for k in (base, recipe[name])]
        rows.append(
            (
                name.removesuffix(".weight"),
                base,
                recipe[name],
                f"{damage[0]:.4f}",
                f"{damage[1]:.4f}",
                f"{slope.low / slope.mean:.2f} to {slope.high / slope.mean:.2f}",
                str(slope.n_anchors),
            )
        )
    columns = (
        "tensor",
        "stock type",
        "recipe's type",
        "damage at stock type",
        "damage at recipe's",
        "90 % interval of the slope, share",
        "anchors",
    )
    return Grid(
        "Damage model",
        columns,
        tuple(rows),
        ("Damage: expected KL divergence of this tensor alone, thousandths of a nat a token.",),
    )


# -- page and data -----------------------------------------------------------------------------------------------------


def allocation_report(result: Allocation) -> str:
    """The page."""
    comparison, facts = result.controls.comparison, result.facts
    parts = [
        f"# {result.model} within {result.limit:,} bytes",
        "",
        *(f"* {line}" for line in [*verdict_lines(result), *file_lines(result)]),
        "",
    ]
    parts += [line for warning in facts["warnings"] for line in (f"**Warning.** {warning}", "")]
    grids = [types_grid(result), comparison_grid(comparison, facts), ladder_grid(result), tried_grid(result)]
    grids += [refinement_grid(result)] if result.refined else []
    grids += [bench_grid(result.bench)] if result.bench else []
    parts += [grid_markdown(grid) for grid in [*grids, slopes_grid(result)]]
    lines = "\n".join(map(str, result.written.overrides))
    parts += [
        "## Overrides",
        "",
        "```",
        lines,
        "```",
        "",
        "## On what",
        "",
        *on_what(result),
        f"* {noise_line(result.noise)}",
        "",
    ]
    return "\n".join(parts) + "\n"


def file_lines(result: Allocation) -> list[str]:
    """The proven file."""
    written, tasks = result.written, result.facts.get("unfinished")
    return [
        f"{written.path.name}: {written.file_bytes:,} bytes, sha256 {written.sha256}",
        f"proof: opened again, {written.equal_chunks} of {written.equal_chunks} chunks of the report text give the very sums "
        "that were measured in memory; every tensor has the planned type",
        f"perplexity {perplexity_cell(written.summary)} on the report text, {written.from_base.judgement.reason}",
        f"overrides: {written.overrides_path.name} (lines: {len(written.overrides)}, each hits one tensor)",
        f"reproduce: {written.reproduce}",
        *([f"benchmarks not finished: {', '.join(tasks)}; the same command goes on with them"] if tasks else []),
    ]


def allocation_json(result: Allocation) -> dict[str, Any]:
    """The result as plain data."""
    controls = result.controls
    recipe = result.recipe.types(result.base.model.types)
    return {
        "facts": result.facts,
        "noise": noise_json(result.noise),
        "target": {"asked": str(result.target), "limit_bytes": result.limit},
        "verdict": verdict_lines(result),
        "recipe": {name: recipe[name] for name in result.table.names},
        "anchors": {
            "trials": result.anchors.n_trials,
            "chunks": result.anchors.n_chunks,
            "misfit": result.anchors.model.misfit,
        },
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
            "stock_ladder": as_json(controls.ladder),
            "equivalent": as_json(controls.equivalent),
            "report": as_json(controls.comparison),
        },
        "written": as_json(result.written),
        "bench": None if result.bench is None else bench_json(result.bench),
    }
