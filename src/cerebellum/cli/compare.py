"""`compare`: files beside each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cerebellum.cli.common import (
    chat_option,
    chunks_option,
    engine_options,
    exact_option,
    guarded,
    json_option,
    print_json,
    quiet_option,
    wide_option,
)
from cerebellum.cli.console import ConsoleProgress, print_folded, print_grid, print_narrow
from cerebellum.cli.measure import FilePath, models_argument, pairs_option

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
@models_argument
@click.option("-r", "--reference", type=FilePath, required=True, help="GGUF that KL divergence is taken to.")
@click.option("-f", "--text", type=FilePath, required=True, help="UTF-8 text file.")
@chat_option
@exact_option
@engine_options
@chunks_option
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
    models: tuple[Path, ...], reference: Path, text: Path, chat: bool, exact_reference: bool, n_ctx: int, n_ubatch: int | None,
    n_threads: int | None, n_gpu_layers: int, n_chunks: int | None, out: Path | None, speed: bool, prompt_tokens: int | None,
    generate_tokens: int | None, repetitions: int | None, pairs: bool, wide: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Any GGUF files of one model, yours or others', beside each other: size, distance to a reference, speed, and which are worth having.

    A file is worth having where every smaller one is worse, beyond the interval of the pair. Files that cut the text into other tokens are
    refused.

    Example: cerebellum compare ours.gguf Q4_K_M.gguf IQ4_XS.gguf --reference BF16.gguf --text wiki.test.raw --ctx 512 --out compared
    """
    from cerebellum import api
    from cerebellum.report.comparison import comparison_json

    use = speed_use(speed, prompt_tokens, generate_tokens, repetitions)
    found = api.compare(
        models, reference=reference, text=text, ctx=n_ctx, ubatch_size=n_ubatch, chunks=n_chunks, threads=n_threads,
        gpu_layers=n_gpu_layers, out=out, chat=chat, exact_reference=exact_reference, speed=use or False,
        command=("cerebellum", *sys.argv[1:]), progress=ConsoleProgress(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(comparison_json(found, ("cerebellum", *sys.argv[1:])))
        return
    show_comparison(found, pairs=pairs, wide=wide)
    if out is not None:
        print_folded(f"report: {out / 'report.html'}, {out / 'report.md'}")


def show_comparison(found: FileComparison, *, pairs: bool, wide: bool) -> None:
    """Tables within 80 columns, or ``wide`` with every figure."""
    from cerebellum.report import comparison as tables
    from cerebellum.report.divergence import pairs_grid
    from cerebellum.report.short_names import short_names

    grids = [tables.whole_grid(found)] if wide else [tables.short_grid(found), tables.tail_grid(found)]
    grids += [tables.speed_grid(found, short=not wide)] if found.facts else []
    names = [file.measured.name for file in found.files]
    grids += [pairs_grid(found.measurement, names if wide else short_names(names))] if pairs and len(names) > 1 else []
    grids += [tables.types_grid(found)] if wide else []
    for grid in grids:
        (print_grid if wide else print_narrow)(grid)
