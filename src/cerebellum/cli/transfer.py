"""`transfer`: an allocation that begins with what another model's taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cerebellum.cli.common import guarded, json_option, model_argument, quiet_option, split_options, wide_option
from cerebellum.cli.console import ConsoleProgress
from cerebellum.cli.fit import FIT_OPTIONS
from cerebellum.cli.run import (
    ALLOCATION_OPTIONS,
    BENCH_OPTIONS,
    CHOICE_OPTIONS,
    SWEEP_OPTIONS,
    FilePath,
    force_option,
    named,
    out_option,
    tell_text,
    told,
    with_options,
)


def _job_options() -> list[Any]:
    """Those of `run` that `cerebellum.transfer` takes."""
    from cerebellum.keywords import TransferKeywords

    taken = {*TransferKeywords.__annotations__, "ladder", "n_threads", "n_gpu_layers", "n_ubatch", "replay_memory"}
    options = (*ALLOCATION_OPTIONS, *FIT_OPTIONS, *SWEEP_OPTIONS, *CHOICE_OPTIONS, *BENCH_OPTIONS, *split_options)
    return [option for option in options if named(option) in taken]


@click.command()
@click.argument("source", metavar="SOURCE", type=FilePath)
@model_argument
@with_options(out_option, *_job_options())
@force_option
@click.option("--dry-run", is_flag=True, help="Count trials as if all of SOURCE held, time a chunk, and end.")
@wide_option
@json_option
@quiet_option
@guarded
def transfer(
    source: Path, model: Path, out: Path, as_json: bool, quiet: bool, dry_run: bool, wide: bool, **options: Any
) -> None:
    """Find, prove and write the best file of a given size for MODEL, beginning with what SOURCE says of a sibling of it.

    SOURCE is a sensitivity.json, the folder of an allocation, a recipe, or a quantized GGUF. Its sensitivities are carried over by relative
    depth, role by role; a few trials that decide most are measured and compared with the prediction. Each role holds, holds partly, or does
    not hold; what doesn't hold is measured whole, as `run` would. Then all goes on as in `run`. Stop it with Ctrl-C; the same command
    goes on.

    Example: cerebellum transfer study-4B model-9B-F16.gguf --like Q3_K_M --text wiki.train.raw --out study-9B
    """
    from cerebellum import api
    from cerebellum.cli.allocation import run_allocation

    progress = ConsoleProgress(quiet=quiet)
    tell_text(model, options, progress)
    given = told(api.sized(model, options, progress))
    run_allocation(model, out, given, progress, as_json=as_json, wide=wide, dry_run=dry_run, source=source)
