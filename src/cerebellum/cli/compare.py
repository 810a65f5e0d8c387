"""`compare`: files beside each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cerebellum.cli.common import guarded, json_option, keywords_of, print_json, quiet_option, wide_option
from cerebellum.cli.console import ConsoleProgress, print_folded, print_grid, print_narrow
from cerebellum.cli.measure import FilePath, measured_options, pairs_option

if TYPE_CHECKING:
    from cerebellum.llamacpp.protocol import SpeedUse
    from cerebellum.results.files import FileComparison


def speed_options(command: click.decorators.FC) -> click.decorators.FC:
    """What is timed and how often."""
    at_least_one = click.IntRange(min=1)
    for name, help_text in (
        ("--repetitions", "With --speed: how often each is timed. [default: 5]"),
        ("--generate-tokens", "With --speed: tokens written one by one. [default: 128]"),
        ("--prompt-tokens", "With --speed: tokens read together. [default: 512]"),
    ):
        command = click.option(name, type=at_least_one, help=help_text)(command)
    return click.option("--speed", is_flag=True, help="Time each file on this device, as llama-bench does.")(command)


def speed_use(
    speed: bool, prompt_tokens: int | None, generate_tokens: int | None, repetitions: int | None
) -> SpeedUse | None:
    """What the options say. Raises `InputError` where they say how to time what isn't to be timed."""
    from cerebellum.errors import InputError
    from cerebellum.llamacpp.protocol import SpeedUse

    if not speed and (prompt_tokens, generate_tokens, repetitions) != (None, None, None):
        raise InputError("--prompt-tokens, --generate-tokens and --repetitions are of --speed: give it with them")
    usual = SpeedUse()
    use = SpeedUse(
        prompt_tokens or usual.n_prompt, generate_tokens or usual.n_generate, repetitions or usual.repetitions
    )
    return use if speed else None


@click.command()
@measured_options
@click.option(
    "-o",
    "--out",
    type=FilePath,
    help="Folder for report.html, report.md, report.json and compare.svg; it keeps the measurements, and the same command goes on there.",
)
@speed_options
@pairs_option
@wide_option
@json_option
@quiet_option
@guarded
def compare(
    models: tuple[Path, ...], out: Path | None, speed: bool, prompt_tokens: int | None, generate_tokens: int | None,
    repetitions: int | None, pairs: bool, wide: bool, as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Any GGUF files of one model, yours or others', beside each other: size, distance to a reference, speed, and which are worth having.

    A file is worth having where every smaller one is worse, beyond the interval of the pair. Files that cut the text into other tokens are
    refused.

    Example: cerebellum compare ours.gguf Q4_K_M.gguf IQ4_XS.gguf --reference BF16.gguf --text wiki.test.raw --ctx 512 --out compared
    """
    from cerebellum import api
    from cerebellum.report.comparison import comparison_json

    use = speed_use(speed, prompt_tokens, generate_tokens, repetitions)
    command, progress = ("cerebellum", *sys.argv[1:]), ConsoleProgress(quiet=quiet)
    comparison = api.compare(
        models, out=out, speed=use or False, command=command, progress=progress, **keywords_of(options)
    )
    if as_json:
        print_json(comparison_json(comparison, command))
        return
    show_comparison(comparison, pairs=pairs, wide=wide)
    if out is not None:
        print_folded(f"report: {out / 'report.html'}, {out / 'report.md'}")


def show_comparison(comparison: FileComparison, *, pairs: bool, wide: bool) -> None:
    """Tables within 80 columns, or ``wide`` with every figure."""
    from cerebellum.report import comparison as tables
    from cerebellum.report.divergence import pairs_grid
    from cerebellum.report.short_names import short_names

    grids = [tables.whole_grid(comparison)] if wide else [tables.short_grid(comparison), tables.tail_grid(comparison)]
    grids += [tables.speed_grid(comparison, short=not wide)] if comparison.facts else []
    names = [file.measured.name for file in comparison.files]
    grids += (
        [pairs_grid(comparison.measurement, names if wide else short_names(names))] if pairs and len(names) > 1 else []
    )
    grids += [tables.types_grid(comparison)] if wide else []
    for grid in grids:
        (print_grid if wide else print_narrow)(grid)
