"""What `run` and `demo` do and print for an allocation: the estimate before, five lines and short tables after."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum.cli.common import print_json
from cerebellum.cli.console import print_folded, print_grid, print_narrow
from cerebellum.files import STUDY_FILE

if TYPE_CHECKING:
    from cerebellum.cli.console import ConsoleProgress
    from cerebellum.report.grids import Grid
    from cerebellum.results.allocation import Allocation, AllocationLadder
    from cerebellum.results.estimate import Estimate


def run_allocation(
    model: Path,
    out: Path,
    options: dict[str, Any],
    progress: ConsoleProgress,
    *,
    as_json: bool,
    wide: bool,
    dry_run: bool,
    source: Path | None = None,
) -> None:
    """The estimate, and unless that was all, the allocation or the ladder, begun with what ``source`` taught where it is given. What a
    folder holds already needs no estimate."""
    from cerebellum import api

    sizes = options.pop("ladder", None)
    if dry_run or not (progress.is_quiet or (out / STUDY_FILE).exists()):
        estimate = api.estimate(model, out=out, source=source, progress=progress, ladder=sizes, **options)
        if dry_run:
            show_estimate(estimate, as_json)
            return
        tell_estimate(estimate, progress)
    if sizes:
        ladder = api.ladder(model, sizes, out=out, source=source, progress=progress, **options)
        show_ladder(ladder, out, as_json=as_json, wide=wide)
        return
    if source is not None:
        result = api.transfer(source, model, out=out, progress=progress, **options)
    else:
        result = api.allocate(model, out=out, progress=progress, **options)
    show_allocation(result, out, as_json=as_json, wide=wide)


def show_estimate(estimate: Estimate, as_json: bool) -> None:
    """On standard output."""
    from cerebellum.report.estimate import estimate_json, estimate_lines

    if as_json:
        print_json(estimate_json(estimate))
        return
    for line in estimate_lines(estimate):
        print_folded(line)


def tell_estimate(estimate: Estimate, progress: ConsoleProgress) -> None:
    """On standard error, before the work."""
    from cerebellum.report.estimate import estimate_lines

    for line in estimate_lines(estimate):
        progress.note(line)


def show_allocation(result: Allocation, out: Path, *, as_json: bool = False, wide: bool = False) -> None:
    """Five lines, then tables; all of them with all columns where ``wide``."""
    from cerebellum.report import allocation_lines as sentences
    from cerebellum.report import allocation_tables as tables
    from cerebellum.report.accuracy import accuracy_grid, left_out
    from cerebellum.report.allocation import allocation_json
    from cerebellum.report.bench import bench_grid, short_bench_grid
    from cerebellum.report.carried import probes_grid, roles_grid, transfer_lines
    from cerebellum.report.grids import comparison_grid

    if as_json:
        print_json(allocation_json(result))
        return
    lines = [*sentences.five_lines(result), *sentences.rival_lines(result.controls.rival)]
    lines += [*sentences.warning_lines(result), *sentences.failed_lines(result)]
    for line in [*lines, *transfer_lines(result)]:
        print_folded(line)
    print()
    if result.transferred is not None:
        show([roles_grid(result), *([probes_grid(result)] if wide else [])], wide=wide)
    if wide:
        comparison = comparison_grid(result.controls.comparison, result.facts)
        grids = [tables.types_grid(result), tables.tried_grid(result), comparison, tables.ladder_grid(result)]
        grids += [accuracy_grid(left_out(result)), *([bench_grid(result.bench)] if result.bench else [])]
        show(grids, wide=True)
    else:
        grids = [tables.controls_grid(result), tables.ladder_grid(result), tables.short_types_grid(result)]
        show([*grids, *([short_bench_grid(result.bench)] if result.bench else [])])
    print("File")
    for line in sentences.file_lines(result):
        print_folded(f"  {line}", indent="    ")
    print_folded(f"  report: {out / 'report.html'}, {out / 'report.md'}", indent="    ")


def show_ladder(ladder: AllocationLadder, out: Path, *, as_json: bool = False, wide: bool = False) -> None:
    """The table of all sizes and the stock files beside them."""
    from cerebellum.report import allocation_ladder as report

    if as_json:
        print_json(report.ladder_json(ladder))
        return
    show([report.recipes_grid(ladder), report.stock_grid(ladder)], wide=wide)
    for result in ladder.results:
        print_folded(result.written.path.name)
    for line in [*report.missed_lines(ladder), report.ladder_next(ladder)]:
        print_folded(line)
    print_folded(f"picture: {out / 'ladder.svg'}")
    print_folded(f"report: {out / 'report.html'}, {out / 'report.md'}")


def show(grids: list[Grid], *, wide: bool = False) -> None:
    """Tables, one below the other."""
    for grid in grids:
        (print_grid if wide else print_narrow)(grid)
    sys.stdout.flush()
