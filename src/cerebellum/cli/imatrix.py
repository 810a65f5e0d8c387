"""`imatrix`: the importance matrix of a model on a text."""

from __future__ import annotations

from pathlib import Path

import click

from cerebellum.cli.common import (
    chunks_option,
    gpu_option,
    guarded,
    json_option,
    model_argument,
    print_json,
    quiet_option,
    threads_option,
    whole,
)
from cerebellum.cli.console import ConsoleProgress
from cerebellum.llamacpp.protocol import CHUNK_TOKENS
from cerebellum.quoting import shell_file

FilePath = click.Path(path_type=Path)


@click.command()
@model_argument
@click.option("-f", "--text", type=FilePath, help="UTF-8 text to collect on; keep it apart from texts that measure.")
@click.option(
    "-c",
    "--ctx",
    "n_ctx",
    type=whole("ctx"),
    default=CHUNK_TOKENS,
    show_default=True,
    help="Tokens in a chunk.",
)
@chunks_option
@click.option(
    "--chat",
    is_flag=True,
    help="The text is conversations (JSON lines), put into the model's own chat template and decoded one by one.",
)
@click.option(
    "--add",
    type=FilePath,
    multiple=True,
    help="Importance matrix (GGUF or .dat) to go on from; may be repeated. Without --text they are joined.",
)
@click.option(
    "--process-output", is_flag=True, help="Collect for the output matrix too, as llama-imatrix's option does."
)
@threads_option
@gpu_option
@click.option("-o", "--out", type=FilePath, required=True, help="File to write: .gguf, or .dat for the older form.")
@click.option("--force", is_flag=True, help="Replace OUT if it is of something else.")
@json_option
@quiet_option
@guarded
def imatrix(
    model: Path,
    text: Path | None,
    n_ctx: int,
    n_chunks: int | None,
    chat: bool,
    add: tuple[Path, ...],
    process_output: bool,
    n_threads: int | None,
    n_gpu_layers: int,
    out: Path,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the importance matrix of MODEL on a text, the same as llama-imatrix makes.

    The file appears under its name only when it is whole. Stop it with Ctrl-C; the same command goes on.

    Example: cerebellum imatrix model-F16.gguf --text calibration.txt --out model.imatrix.gguf
    """
    from cerebellum import api

    made = api.imatrix(
        model, text, out=out, add=add, ctx=n_ctx, chunks=n_chunks, threads=n_threads, gpu_layers=n_gpu_layers, chat=chat,
        process_output=process_output, force=force, progress=ConsoleProgress(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(made.as_json())
        return
    print(made.summary())
    print(
        f"Next: cerebellum run {shell_file(str(model))} --imatrix {shell_file(str(out))} --text FILE --out FOLDER, with another text."
    )
