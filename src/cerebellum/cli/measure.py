"""`measure` and `validity`: how far a file is from its reference, and whether perplexity can rank files."""

from __future__ import annotations

from pathlib import Path

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
    whole,
    wide_option,
)
from cerebellum.cli.console import ConsoleProgress, print_table

FilePath = click.Path(path_type=Path)
models_argument = click.argument("models", nargs=-1, required=True, metavar="MODEL...", type=FilePath)
pairs_option = click.option("--pairs", is_flag=True, help="The difference of each two files too, with its interval.")


@click.command()
@models_argument
@click.option("-r", "--reference", type=FilePath, required=True, help="GGUF that KL divergence is taken to.")
@click.option("-f", "--text", type=FilePath, required=True, help="UTF-8 text file.")
@chat_option
@exact_option
@engine_options
@chunks_option
@click.option(
    "-o", "--out", type=FilePath, help="Folder to keep the measurements in; the same command then goes on there."
)
@wide_option
@pairs_option
@json_option
@quiet_option
@guarded
def measure(
    models: tuple[Path, ...],
    reference: Path,
    text: Path,
    chat: bool,
    exact_reference: bool,
    n_ctx: int,
    n_ubatch: int | None,
    n_threads: int | None,
    n_gpu_layers: int,
    n_chunks: int | None,
    out: Path | None,
    pairs: bool,
    as_json: bool,
    quiet: bool,
    wide: bool,
) -> None:
    """How far each MODEL is from a reference on a text: KL divergence with its tail, perplexity, agreement, all with intervals.

    With several MODELs each is also compared with the first, paired by chunk, ranked, and marked where another one is smaller and better.
    `compare` puts the same figures on a page.

    Example: cerebellum measure model-Q4_K_M.gguf model-Q3_K_M.gguf --reference model-BF16.gguf --text wiki.test.raw --ctx 512
    """
    from cerebellum import api
    from cerebellum.report.divergence import measurement_grid, measurement_json, pairs_grid

    found = api.measure(
        models, reference=reference, text=text, ctx=n_ctx, ubatch_size=n_ubatch, chunks=n_chunks,
        threads=n_threads, gpu_layers=n_gpu_layers,
        out=out, chat=chat, exact_reference=exact_reference, progress=ConsoleProgress(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(measurement_json(found))
        return
    print_table(measurement_grid(found), wide=wide)
    if pairs and found.pairs:
        print_table(pairs_grid(found), wide=wide)


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
    "--chunks", "n_chunks", type=whole("chunks", 2), default=32, show_default=True, help="At most this many chunks."
)
@click.option(
    "-o", "--out", type=FilePath, help="Folder to keep the measurements in; the same command then goes on there."
)
@wide_option
@json_option
@quiet_option
@guarded
def validity(
    models: tuple[Path, ...],
    ladder: Path | None,
    reference: Path | None,
    text: Path | None,
    chat: bool,
    exact_reference: bool,
    n_ctx: int,
    n_ubatch: int | None,
    n_threads: int | None,
    n_gpu_layers: int,
    n_chunks: int,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    wide: bool,
) -> None:
    """May perplexity rank quantizations of a model on a text? Says valid, doubtful or invalid, and why.

    One unquantized MODEL: its stock quantizations are measured in memory. Several: the first is the reference (or give
    --reference), the others are the rungs. `run` asks this by itself before it lets perplexity choose.

    Example: cerebellum validity model-BF16.gguf --text wiki.test.raw --ctx 512
    """
    from cerebellum import api
    from cerebellum.report.ladder import ladder_grid, ladder_json

    found = api.validity(
        models, ladder=ladder, reference=reference, text=text, ctx=n_ctx, ubatch_size=n_ubatch, chunks=n_chunks, threads=n_threads,
        gpu_layers=n_gpu_layers, out=out, chat=chat, exact_reference=exact_reference, progress=ConsoleProgress(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(ladder_json(found))
    else:
        print_table(ladder_grid(found), wide=wide)
