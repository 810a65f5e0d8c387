"""`measure` and `validity`: how far a file is from its reference, and whether perplexity can rank files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cerebellum.cli.common import (
    LEAST_CHUNKS,
    PairsOfChunks,
    chat_option,
    chunks_option,
    engine_options,
    exact_option,
    guarded,
    json_option,
    keywords_of,
    print_json,
    quiet_option,
    wide_option,
)
from cerebellum.cli.console import ConsoleProgress, print_table

FilePath = click.Path(path_type=Path)
models_argument = click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=FilePath)
pairs_option = click.option("--pairs", is_flag=True, help="The difference of each two files too, with its interval.")


out_option = click.option(
    "-o", "--out", type=FilePath, help="Folder to keep the measurements in; the same command then goes on there."
)


def measured_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The files, the reference and the text, and how they are opened: what `measure` and `compare` have in common."""
    reference = click.option(
        "-r", "--reference", type=FilePath, required=True, help="GGUF that KL divergence is taken to."
    )
    text = click.option("-f", "--text", type=FilePath, required=True, help="UTF-8 text file.")
    for option in (chunks_option, engine_options, exact_option, chat_option, text, reference, models_argument):
        command = option(command)
    return command


@click.command()
@measured_options
@out_option
@wide_option
@pairs_option
@json_option
@quiet_option
@guarded
def measure(
    models: tuple[Path, ...], out: Path | None, pairs: bool, as_json: bool, quiet: bool, wide: bool, **options: Any
) -> None:
    """How far each MODEL is from a reference on a text: KL divergence with its tail, perplexity, agreement, all with intervals.

    With several MODELs each is also compared with the first, paired by chunk, ranked, and marked where another one is smaller and better.
    `compare` puts the same figures on a page.

    Example: cerebellum measure model-Q4_K_M.gguf model-Q3_K_M.gguf --reference model-BF16.gguf --text wiki.test.raw --ctx 512
    """
    from cerebellum import api
    from cerebellum.report.divergence import measurement_grid, measurement_json, pairs_grid

    measurement = api.measure(models, out=out, progress=ConsoleProgress(quiet=quiet), **keywords_of(options))
    if as_json:
        print_json(measurement_json(measurement))
        return
    print_table(measurement_grid(measurement), wide=wide)
    if pairs and measurement.pairs:
        print_table(pairs_grid(measurement), wide=wide)


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL...]", type=FilePath)
@click.option("--ladder", type=FilePath, help="A published ladder (JSON) instead of models.")
@click.option(
    "-r", "--reference", type=FilePath, help="GGUF that KL divergence is taken to. [default: the first MODEL]"
)
@click.option("-f", "--text", type=FilePath, help="UTF-8 text file; needed with models.")
@chat_option
@exact_option
@engine_options
@click.option(
    "--chunks",
    "n_chunks",
    type=PairsOfChunks(min=LEAST_CHUNKS),
    default=32,
    show_default=True,
    help="At most this many chunks.",
)
@out_option
@wide_option
@json_option
@quiet_option
@guarded
def validity(
    models: tuple[Path, ...], out: Path | None, as_json: bool, quiet: bool, wide: bool, **options: Any
) -> None:
    """May perplexity rank quantizations of a model on a text? Says valid, doubtful or invalid, and why.

    One unquantized MODEL: its stock quantizations are measured in memory. Several: the first is the reference (or give
    --reference), the others are the rungs. `run` asks this by itself before it lets perplexity choose.

    Example: cerebellum validity model-BF16.gguf --text wiki.test.raw --ctx 512
    """
    from cerebellum import api
    from cerebellum.report.ladder import ladder_grid, ladder_json

    result = api.validity(models, out=out, progress=ConsoleProgress(quiet=quiet), **keywords_of(options))
    if as_json:
        print_json(ladder_json(result))
    else:
        print_table(ladder_grid(result), wide=wide)
