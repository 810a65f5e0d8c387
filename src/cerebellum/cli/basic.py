"""`inspect`, `quantize`, `perplexity`: one file, one answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cerebellum.cli.common import (
    chat_option,
    chunks_option,
    engine_options,
    guarded,
    json_option,
    model_argument,
    print_json,
    quiet_option,
    split_options,
)
from cerebellum.cli.console import ConsoleProgress, print_drawn, stdout_console
from cerebellum.figures import counted
from cerebellum.quoting import printable


@click.command()
@model_argument
@json_option
@guarded
def inspect(model: Path, as_json: bool) -> None:
    """Architecture, blocks, tensors by role and type, sizes, bits per weight. Of a model on a hub (hf:org/name:Q4_K_M) only the header is
    fetched.

    Example: cerebellum inspect model-F16.gguf
    """
    from cerebellum.gguf import model_file
    from cerebellum.hub.names import is_hub_name
    from cerebellum.verbs.inspect import describe, tables

    remote = None
    if is_hub_name(model):
        from cerebellum.hub.remote import inspect_remote

        remote = inspect_remote(str(model))
    header = model_file.read_model(model) if remote is None else remote.model
    if as_json:
        fetched = {} if remote is None else {"fetched_bytes": remote.n_fetched, "requests": remote.n_requests}
        print_json({**describe(header), **fetched})
        return
    for table in tables(header):
        print_drawn(stdout_console(), table)
    if remote is not None:
        print(remote.summary())


@click.command()
@model_argument
@click.argument("type", metavar="TYPE")
@click.option("--overrides", type=click.Path(path_type=Path), help="File of pattern=type lines, as for llama-quantize.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="Importance matrix (GGUF or .dat).")
@click.option(
    "--exclude", metavar="PATTERN", multiple=True, help="Leave tensors with this in their names as MODEL has them."
)
@click.option("--pure", is_flag=True, help="Every tensor at TYPE's own type, without llama.cpp's mix.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The GGUF to write.")
@split_options[0]
@split_options[1]
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
@quiet_option
@guarded
def quantize(
    model: Path,
    type: str,
    overrides: Path | None,
    imatrix: Path | None,
    exclude: tuple[str, ...],
    pure: bool,
    out: Path,
    split_max_size: str | None,
    split_max_tensors: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write MODEL as the file type TYPE (Q3_K_M, …), some tensors as the overrides say.

    The file appears under its name only when it is whole. Fallbacks of rows that a type can't hold are listed. A tensor whose values the
    type can't hold, or that has no entry in the importance matrix where one is needed, stays as it is and is named.

    Example: cerebellum quantize model-F16.gguf Q3_K_M --overrides overrides.txt --out model-Q3_K_M.gguf
    """
    from cerebellum.gguf.mix import MixOptions
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.verbs.quantize import quantize_model
    from cerebellum.verbs.splitting import split_limit

    progress, mix = ConsoleProgress(quiet=quiet), MixOptions(exclude, None, pure)
    limit = split_limit(split_max_size, split_max_tensors)
    result = quantize_model(LlamaBackend(), model, type, out, overrides, imatrix, force, progress, mix, limit)
    if as_json:
        print_json(result.as_json())
        return
    print(result.summary())


@click.command()
@model_argument
@split_options[0]
@split_options[1]
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="NAME.gguf of NAME-00001-of-….gguf.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@json_option
@guarded
def split(
    model: Path, split_max_size: str | None, split_max_tensors: int | None, out: Path, force: bool, as_json: bool
) -> None:
    """Write MODEL as several files, which llama.cpp opens by the first one. They are those of llama-gguf-split, byte for byte.

    Example: cerebellum split model-Q8_0.gguf --split-max-size 48G --out split/model-Q8_0.gguf
    """
    from cerebellum.errors import InputError
    from cerebellum.verbs.splitting import split_limit, split_model

    if (limit := split_limit(split_max_size, split_max_tensors)) is None:
        raise InputError("say how large a file may be: --split-max-size 48G for example, or --split-max-tensors")
    result = split_model(model, out, limit, force)
    if as_json:
        print_json(result.as_json())
        return
    print(result.summary(limit))


@click.command()
@model_argument
@click.option("-f", "--text", type=click.Path(path_type=Path), required=True, help="UTF-8 text file.")
@chat_option
@engine_options
@chunks_option
@json_option
@quiet_option
@guarded
def perplexity(
    model: Path,
    text: Path,
    chat: bool,
    n_ctx: int,
    n_ubatch: int | None,
    n_threads: int | None,
    n_gpu_layers: int,
    n_chunks: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Perplexity of MODEL on a text, chunk for chunk as llama-perplexity computes it.

    Example: cerebellum perplexity model-Q3_K_M.gguf --text wiki.test.raw --ctx 512
    """
    from cerebellum import api

    result = api.perplexity(
        model, text, ctx=n_ctx, ubatch_size=n_ubatch, chunks=n_chunks, threads=n_threads, gpu_layers=n_gpu_layers, chat=chat,
        progress=ConsoleProgress(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(
            {
                **asdict(result),
                "model": str(model),
                "text": str(text),
                "ctx": n_ctx,
                "ubatch_size": n_ubatch,
                "chat": chat,
            }
        )
        return
    chunks = counted(result.chunks, "conversation" if chat else "chunk")
    most = "at most " if chat else ""
    batches = "" if n_ubatch is None else f", decoded {n_ubatch} tokens at a time"
    line = (
        f"perplexity {result.perplexity:.4f} ± {result.std_error:.4f} (one standard error over tokens) "
        f"of {model.name} on {text.name}: {chunks} of {most}{n_ctx} tokens, {result.tokens} scored{batches}"
    )
    print(printable(line))
