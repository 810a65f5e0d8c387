"""`bench`: question sets asked of files, paired item by item."""

from __future__ import annotations

from pathlib import Path

import click

from cerebellum.cli.common import (
    decimal,
    gpu_option,
    guarded,
    json_option,
    model_argument,
    print_json,
    quiet_option,
    threads_option,
    whole,
    wide_option,
)
from cerebellum.cli.console import ConsoleProgress, print_table

FilePath = click.Path(path_type=Path)
unsafe_option = click.option(
    "--unsafe-execution", is_flag=True, help="Run what the model wrote even where no sandbox can be had."
)


@click.command()
@model_argument
@click.option("--tasks", required=True, help="Task names with commas between; see above.")
@click.option(
    "--against", type=FilePath, help="GGUF that MODEL must not fall behind: its base. Its comparison is judged."
)
@click.option("-r", "--reference", type=FilePath, help="GGUF of the unquantized model, for comparison.")
@click.option("--data", type=FilePath, help="Folder with the questions as files, instead of the hub.")
@click.option("--limit", type=whole("limit"), help="Ask only so many questions of each task. [default: all]")
@click.option("--margin", type=decimal("margin"), help="Points that may be lost. [default: 2, on code 5]")
@click.option(
    "--samples", type=whole("samples"), default=1, show_default=True, help="Replies to each function; 1 is greedy."
)
@click.option(
    "--shots", type=whole("shots"), help="Examples before each question. [default: the task's; mmlu_redux: 5]"
)
@click.option("--chat", is_flag=True, help="Ask in the model's own chat template.")
@click.option("-c", "--ctx", "n_ctx", type=whole("ctx"), default=2048, show_default=True, help="Tokens of context.")
@threads_option
@gpu_option
@unsafe_option
@click.option("--fail-on-loss", is_flag=True, help="End with exit code 7 where a task's gate fails.")
@click.option("-o", "--out", type=FilePath, help="Folder for the answers; the same command then goes on there.")
@wide_option
@json_option
@quiet_option
@guarded
def bench(
    model: Path,
    tasks: str,
    against: Path | None,
    reference: Path | None,
    data: Path | None,
    limit: int | None,
    margin: float | None,
    samples: int,
    shots: int | None,
    chat: bool,
    n_ctx: int,
    n_threads: int | None,
    n_gpu_layers: int,
    unsafe_execution: bool,
    fail_on_loss: bool,
    out: Path | None,
    wide: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask MODEL the questions of benchmarks, pair its answers with the base's and the reference's, and judge.

    Tasks: world (or world_facts, world_endings, world_functions: about the bundled small world, nothing else needed), humaneval,
    arc_challenge, hellaswag, mmlu_redux, or any task that lm-evaluation-harness knows.

    Example: cerebellum bench recipe.gguf --against base-Q3_K_M.gguf --reference model-BF16.gguf --tasks arc_challenge,humaneval --out bench
    """
    from cerebellum import api
    from cerebellum.errors import InputError
    from cerebellum.evals.plain import bench_json
    from cerebellum.report.bench import bench_grid

    if against is None and fail_on_loss:
        raise InputError("--fail-on-loss is of the comparison with a base: give --against BASE.gguf with it")
    result = api.bench(
        model, tasks, against=against, reference=reference, data=data, limit=limit, margin=margin, samples=samples, shots=shots, ctx=n_ctx,
        threads=n_threads, gpu_layers=n_gpu_layers, chat=chat, unsafe_execution=unsafe_execution, out=out,
        progress=ConsoleProgress(quiet=quiet),
    )  # fmt: skip
    if as_json:
        print_json(bench_json(result))
    else:
        print_table(bench_grid(result), wide=wide)
    if fail_on_loss:
        result.refuse_loss()
