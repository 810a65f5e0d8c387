"""`merge`: parts of a job, measured on several machines, become one study."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cerebellum.cli.common import guarded, json_option, print_json, quiet_option
from cerebellum.cli.console import ConsoleProgress, print_folded

FolderPath = click.Path(path_type=Path)


@click.command()
@click.argument("study", type=FolderPath)
@click.argument("parts", type=FolderPath, nargs=-1, required=True)
@click.option(
    "--same-build-only",
    is_flag=True,
    help="Refuse a part of another build, processor or device even where its figures agree bit for bit.",
)
@json_option
@quiet_option
@guarded
def merge(study: Path, parts: tuple[Path, ...], same_build_only: bool, as_json: bool, quiet: bool) -> None:
    """Take the measurements of PARTS into the folder STUDY, made if new: all of them, or none.

    PARTS are folders that --shard measured into, on any machine. A part of another model, importance matrix, text or settings is refused
    by name; so is one that has other sums for the same trial and chunk. A part of another build or processor is compared first: where bytes
    and sums agree bit for bit it is one with the others; else its trials are compared with its own base.

    Example: cerebellum merge study part1 part2 part3
    """
    from cerebellum import api
    from cerebellum.report.part import merged_json, merged_lines

    progress = ConsoleProgress(quiet=quiet)
    command = ("cerebellum", *sys.argv[1:])
    merged = api.merge(study, parts, same_build_only=same_build_only, command=command, progress=progress)
    if as_json:
        print_json(merged_json(merged))
        return
    for line in merged_lines(merged):
        print_folded(line)
