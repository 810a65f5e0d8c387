"""`plan`: another size from a sensitivity map, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cerebellum.cli.common import guarded, json_option, print_json
from cerebellum.cli.console import print_folded, print_narrow
from cerebellum.cli.run import ALLOCATION_OPTIONS, with_options

FilePath = click.Path(path_type=Path)
#: Options of an allocation that a plan has too: sizes and rules, in front of those about measuring.
PLAN_OPTIONS = ALLOCATION_OPTIONS[:8]


@click.command()
@click.argument("map", type=FilePath)
@with_options(*PLAN_OPTIONS)
@click.option("-o", "--out", type=FilePath, help="The override file to write, for llama-quantize. [default: none]")
@click.option("--force", is_flag=True, help="Replace the file at --out.")
@json_option
@guarded
def plan(as_json: bool, **options: Any) -> None:
    """Solve for another size from MAP, the sensitivity.json that an allocation left: in about a second, without the model.

    Prints the expected damage with its uncertainty and the types by role; --out writes the override file. Nothing is measured: `run` with
    --map measures and proves the file.

    Example: cerebellum plan study/sensitivity.json --size 3.0GB --out overrides.txt
    """
    from cerebellum import api
    from cerebellum.report import plan as report

    result = api.plan(**options)
    if as_json:
        print_json(report.plan_json(result))
        return
    for line in report.plan_lines(result):
        print_folded(line)
    print()
    print_narrow(report.plan_grid(result))
