"""`run`, `sweep`, `demo`: the job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cerebellum import bundled
from cerebellum.cli.bench import unsafe_option
from cerebellum.cli.common import (
    LEAST_CHUNKS,
    PairsOfChunks,
    batch_option,
    chat_option,
    decimal,
    exact_option,
    gpu_option,
    guarded,
    json_option,
    model_argument,
    print_json,
    quiet_option,
    split_options,
    threads_option,
    whole,
    wide_option,
)
from cerebellum.cli.console import ConsoleProgress, print_folded, print_table
from cerebellum.cli.fit import FIT_OPTIONS
from cerebellum.errors import InputError
from cerebellum.files import STUDY_FILE
from cerebellum.keyword_checks import blocks_of
from cerebellum.llamacpp.protocol import REPLAY_BYTES

if TYPE_CHECKING:
    from cerebellum.results import RunResult, SweepResult
    from cerebellum.results.estimate import Estimate
    from cerebellum.results.part import Part

FilePath = click.Path(path_type=Path)


def parse_blocks(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``0-3,7`` → (0, 1, 2, 3, 7)."""
    if value is None:
        return None
    try:
        return blocks_of(value)
    except InputError as error:
        raise click.BadParameter(str(error)) from error


def parse_workers(_context: click.Context, _option: click.Parameter, value: str) -> int | str:
    """``4`` → 4; ``auto`` stays."""
    if value == "auto":
        return value
    if not (value.isascii() and value.isdigit() and len(value) < 5 and int(value)):
        raise click.BadParameter(f"{value!r} is no number of engines; write a number from 1 on, or auto")
    return int(value)


CHUNKS_HELP = "At most this many chunks of each text. [default: as many as have 32,768 tokens, 16 at least]"
SWEEP_OPTIONS = (
    click.option(
        "--base", metavar="TYPE", help="File type of the base. [default: Q3_K_M; a quantized MODEL is its own base]"
    ),
    click.option(
        "--base-overrides", type=FilePath, help="File of pattern=type lines for the base, as for llama-quantize."
    ),
    click.option("--pure", is_flag=True, help="The base without llama.cpp's mix: every tensor at the type of --base."),
    click.option(
        "--exclude",
        metavar="PATTERN",
        multiple=True,
        help="Leave tensors with this in their names as MODEL has them, in the base and in the sweep.",
    ),
    click.option("--role", help="Roles to sweep, with commas between, or 'all'. [default: ffn_gate]"),
    click.option("--to", help="Types to sweep, with commas between; larger ones too. [default: Q2_K]"),
    click.option("--blocks", callback=parse_blocks, help="Blocks to try, as in 0-3,7. [default: all]"),
    click.option("-f", "--text", type=FilePath, help="UTF-8 text that chooses. [default: the bundled small world]"),
    click.option("--report-text", type=FilePath, help="Text that reports. [default: the second half of --text]"),
    chat_option,
    click.option("--reference", type=FilePath, help="GGUF that KL divergence is taken to. [default: MODEL]"),
    exact_option,
    click.option(
        "--imatrix",
        metavar="FILE|auto|none",
        help="Importance matrix (GGUF or .dat); auto: made here. [default: auto where a type needs it or --calibration-text is given, "
        "and MODEL is unquantized]",
    ),
    click.option(
        "--calibration-text",
        type=FilePath,
        help="Text that the importance matrix is made on, apart from those that measure. [default: a bundled one]",
    ),
    click.option("-c", "--ctx", type=whole("ctx"), default=2048, show_default=True, help="Tokens in a chunk."),
    click.option("--chunks", type=PairsOfChunks(min=LEAST_CHUNKS), help=CHUNKS_HELP),
    click.option(
        "--race",
        is_flag=True,
        help="Give each trial text only until its verdict (in run: its place in the choice) is settled.",
    ),
    click.option("--budget-tokens", type=whole("budget_tokens"), help="Race within this many decoded tokens."),
    click.option(
        "--budget-minutes", type=decimal("budget_minutes"), help="Race, or refine an allocation, within this time."
    ),
    batch_option,
    threads_option,
    gpu_option,
    click.option(
        "--replay-memory",
        metavar="MB",
        type=click.IntRange(min=0),
        default=REPLAY_BYTES >> 20,
        show_default=True,
        help="Memory to begin each trial at the block that it changes; 0 computes every trial whole (same numbers) and "
        "holds logits twice.",
    ),
    click.option("--retry-failed", is_flag=True, help="Try trials again that failed before; else they stay left out."),
    click.option(
        "--workers",
        metavar="N|auto",
        callback=parse_workers,
        default="1",
        show_default=True,
        help="Engines side by side, each with GPUs or cores of its own; auto: one for each GPU, else as many as there is room for.",
    ),
    click.option(
        "--cluster",
        metavar="ray[://HOST:PORT]",
        help="Measure on the nodes of a Ray cluster: one that this machine is a node of. --workers: engines on a node without GPUs.",
    ),
    click.option(
        "--cluster-files",
        metavar="FOLDER",
        multiple=True,
        help="Where the nodes have MODEL and its files, if not at the same paths as here; ~ is each node's own.",
    ),
    click.option(
        "--same-build-only",
        is_flag=True,
        help="With no node of another build or processor, even where its figures agree bit for bit.",
    ),
    click.option(
        "--gpus-per-worker",
        metavar="K",
        type=whole("gpus_per_worker"),
        help="GPUs that each engine has for its own, for a model larger than one. [default: 1 where there are several engines]",
    ),
)

BENCH_OPTIONS = (
    click.option(
        "--bench",
        metavar="TASKS",
        help="Benchmarks of the written file, the base and the reference, as in `bench --tasks`.",
    ),
    click.option("--bench-limit", type=whole("bench_limit"), help="Ask only so many questions of each. [default: all]"),
    click.option("--bench-data", type=FilePath, help="Folder with the questions as files, instead of the hub."),
    click.option(
        "--bench-margin", type=decimal("bench_margin"), help="Points that may be lost. [default: 2, on code 5]"
    ),
    click.option(
        "--bench-shots",
        type=whole("bench_shots"),
        help="Examples before each question. [default: the task's own number]",
    ),
    unsafe_option,
)

shard_option = click.option(
    "--shard",
    metavar="I/N",
    help="Measure part I of N of the trials (of an allocation: of its anchors) and end; `merge` joins the parts.",
)

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Count trials, time a chunk, print what it takes and what it can show, and end."
)
LADDER_OPTION = click.option(
    "--ladder", metavar="SIZES", help="Several sizes from one study, a file each: Q2_K,Q3_K_M,Q4_K_M, or 2GB,3.9bpw."
)
force_option = click.option(
    "--force", is_flag=True, help="Replace a finished result of other settings in --out. [default: it is refused]"
)


def like_option(default: str) -> Callable[..., Any]:
    """``--like`` of a command that asks for the bytes of ``default`` where no size is named."""
    return click.option(
        "--like", metavar="TYPE", help=f"As many bytes as the stock file of this type. [default: {default}]"
    )


LIKE_OPTION = like_option("Q4_K_M")
ALLOCATION_OPTIONS = (
    click.option("--size", metavar="SIZE", help="Bytes of the finished file at most: 3.0GB, 900MB, a number."),
    click.option("--bpw", metavar="BITS", type=float, help="Bits a weight of the finished file at most."),
    LIKE_OPTION,
    click.option("--types", metavar="TYPES", help="Types that tensors may take, names or patterns with commas between. [default: all]"),
    click.option("--never", metavar="TYPES", help="Types that no tensor may take, 'IQ*' for example."),
    click.option("--only", metavar="TENSORS", help="Roles or names of tensors that may change. [default: all]"),
    click.option("--keep", metavar="TENSOR=TYPE", help="Tensors held at a type, token_embd=Q8_0 for example."),
    click.option("--same-type", metavar="ROLES", help="Roles that get one type in each block, as some backends want: ffn_gate+ffn_up."),
    LADDER_OPTION,
    click.option("--map", metavar="MAP", type=FilePath, help="Start from this sensitivity.json of an earlier run: measure no anchors."),
    click.option("--shuffled", "n_shuffled", type=whole("n_shuffled"), help="Controls: its types, shuffled. [default: 20]"),
    click.option("--no-refine", "refine", flag_value=False, default=None, help="Don't improve the recipe by measuring it."),
)  # fmt: skip

DEMO_OPTIONS = tuple(
    like_option(bundled.DEMO_LIKE) if option is LIKE_OPTION else option
    for option in ALLOCATION_OPTIONS
    if option is not LADDER_OPTION
)

CHOICE_OPTIONS = (
    click.option("--policy", help="How to choose: allocate, or after a sweep of --role and --to greedy or published. [default: allocate]"),
    click.option(
        "--objective", type=click.Choice(["kld", "nll"]),
        help="What greedy minimizes: KL divergence, or the NLL that perplexity is made of. [default: kld]",
    ),
    click.option(
        "--allow", type=decimal("allow"),
        help="Sweep: share of the base's own KL divergence that smaller types together may add. [default: 0.05]",
    ),
    click.option("--max-growth", metavar="SIZE", help="Sweep: what the file may grow by: 2MB, bytes, or 5% of the base. [default: 0]"),
    click.option("--random", "n_random", type=whole("n_random"), help="Sweep: random sets as controls. [default: 3]"),
    click.option("--trust-perplexity", is_flag=True, help="Let perplexity choose even where its ladder says that it can't."),
    click.option("--seed", type=whole("seed"), help="Seed of the random sets. [default: 0]"),
)  # fmt: skip

out_option = click.option(
    "-o", "--out", type=FilePath, required=True, help="Folder for the results and the study database."
)


def with_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator, listed in ``--help`` in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def named(option: Callable[..., Any]) -> str:
    """The name of the parameter that an option decorator adds."""

    def nothing() -> None:
        """Only there to be decorated."""

    option(nothing)
    return str(vars(nothing)["__click_params__"][0].name)


@click.command()
@model_argument
@with_options(
    out_option, *ALLOCATION_OPTIONS, *FIT_OPTIONS, *SWEEP_OPTIONS, *CHOICE_OPTIONS, *BENCH_OPTIONS, *split_options
)
@shard_option
@dry_run_option
@force_option
@wide_option
@json_option
@quiet_option
@guarded
def run(model: Path, out: Path, as_json: bool, quiet: bool, dry_run: bool, wide: bool, **options: Any) -> None:
    """Find, prove and write the best file of a given size that MODEL can have.

    Measures what other types do to each tensor, gives every tensor the type that serves the whole best within the bytes of --size, --bpw
    or --like, measures the result beside its controls, writes the GGUF and its override file, and proves that the file is what was
    measured. With --role and --to: the sweep of some roles at some types, and a choice among them. Stop it with Ctrl-C; the same command
    goes on.

    Example: cerebellum run model-F16.gguf --like Q3_K_M --text wiki.train.raw --chunks 64 --out study
    """
    from cerebellum import api
    from cerebellum.cli.allocation import run_allocation

    shard, progress = options.pop("shard"), ConsoleProgress(quiet=quiet)
    allocates = api.is_allocation(options)
    tell_text(model, options, progress)
    given = told(api.sized(model, options, progress))
    if shard is not None:
        refuse_dry_run(dry_run, "of all parts together: leave out --shard")
        show_part(api.run_part(model, shard, out=out, progress=progress, **given), as_json)
    elif allocates:
        run_allocation(model, out, api.of_allocation(given), progress, as_json=as_json, wide=wide, dry_run=dry_run)
    else:
        given = api.of_sweep(given)
        if told_estimate(
            lambda: api.estimate(model, out=out, progress=progress, **given), out, progress, dry_run, as_json
        ):
            return
        show_run(api.choose(model, out=out, progress=progress, **given), out, as_json, wide=wide)


@click.command()
@model_argument
@with_options(out_option, *SWEEP_OPTIONS)
@click.option(
    "--allow",
    type=decimal("allow"),
    help="With --race: only to what a choice within this share of the base's KL divergence could take, as in run.",
)
@shard_option
@dry_run_option
@click.option(
    "--by-gain",
    is_flag=True,
    help="Sort the printed table by gain a byte. [default: in the order of the model's tensors]",
)
@wide_option
@json_option
@quiet_option
@guarded
def sweep(
    model: Path, out: Path, as_json: bool, quiet: bool, dry_run: bool, wide: bool, by_gain: bool, **options: Any
) -> None:
    """Measure each tensor of the chosen roles alone at another type.

    The measurements stay in the folder: `run` with the same options takes them over.

    Example: cerebellum sweep model-F16.gguf --role all --to Q2_K --blocks 0-3 --text wiki.train.raw --out study
    """
    from cerebellum import api
    from cerebellum.report.plain import noise_json, sweep_json

    shard, progress, given = options.pop("shard"), ConsoleProgress(quiet=quiet), told(options)
    tell_text(model, given, progress)
    if shard is not None:
        refuse_dry_run(dry_run, "of all parts together: leave out --shard")
        show_part(api.sweep_part(model, shard, out=out, progress=progress, **given), as_json)
        return
    if told_estimate(
        lambda: api.estimate_sweep(model, out=out, progress=progress, **given), out, progress, dry_run, as_json
    ):
        return
    result = api.sweep(model, out=out, progress=progress, **given)
    if as_json:
        print_json({"facts": result.facts, "noise": noise_json(result.noise), **sweep_json(result.sweep)})
        return
    show_sweep(result, wide=wide, by_gain=by_gain)
    print_folded(f"report: {out / 'sweep.html'}, {out / 'sweep.md'}")


@click.command()
@click.option("-o", "--out", type=FilePath, default=Path("demo-out"), show_default=True, help="Folder for the results.")
@with_options(threads_option, *DEMO_OPTIONS)
@force_option
@wide_option
@json_option
@quiet_option
@guarded
def demo(out: Path, as_json: bool, quiet: bool, wide: bool, **options: Any) -> None:
    """The whole job on the bundled small model: what `run --like Q3_K_M` does, in a few minutes.

    Example: cerebellum demo --out demo-out
    """
    from cerebellum import api
    from cerebellum.cli.allocation import show_allocation

    result = api.demo(out=out, progress=ConsoleProgress(quiet=quiet), **told(options))
    show_allocation(result, out, as_json=as_json, wide=wide)


def refuse_dry_run(dry_run: bool, of_what: str) -> None:
    """Raises `InputError` where an estimate is asked for that there is none of."""
    from cerebellum.errors import InputError

    if dry_run:
        raise InputError(f"--dry-run is {of_what}")


def told_estimate(
    make: Callable[[], Estimate], out: Path, progress: ConsoleProgress, dry_run: bool, as_json: bool
) -> bool:
    """The estimate, on standard output where it is all (then True), else told before the work; a folder that has a study needs none, nor
    does who wants to hear nothing."""
    from cerebellum.cli.allocation import show_estimate, tell_estimate

    if dry_run:
        show_estimate(make(), as_json)
    elif not progress.is_quiet and not (out / STUDY_FILE).exists():
        tell_estimate(make(), progress)
    return dry_run


def show_part(shard: Part, as_json: bool) -> None:
    """What was measured, what is lacking, how to go on."""
    from cerebellum.report.part import part_json, part_lines

    if as_json:
        print_json(part_json(shard))
        return
    for line in part_lines(shard):
        print_folded(line)


def tell_text(model: Path, options: dict[str, Any], progress: ConsoleProgress) -> None:
    """Say that the bundled texts are measured on, where no text is named. Raises `InputError` for a model that isn't the bundled one."""
    from cerebellum import api

    if options["text"] is not None or options["chat"] or not model.is_file():
        return
    api.check_text_named(model, None, False)
    reports = "report.txt reports" if options["report_text"] is None else f"{options['report_text'].name} reports"
    progress.note(
        f"no --text: measuring on the bundled text ({bundled.SEARCH_TEXT.name} chooses, {reports}); give --text FILE for your own"
    )


def told(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the command line they came from."""
    for name, ours in (("n_threads", "threads"), ("n_gpu_layers", "gpu_layers"), ("n_ubatch", "ubatch_size")):
        options[ours] = options.pop(name, None)
    if (megabytes := options.pop("replay_memory", None)) is not None:
        options["replay_bytes"] = megabytes << 20
    return {**options, "command": ("cerebellum", *sys.argv[1:])}


def show_sweep(result: SweepResult, *, wide: bool = False, by_gain: bool = False) -> None:
    """The sweep's table, in the order of its trials or by gain a byte."""
    from cerebellum.report.grids import GAIN_NOTE, short_sweep_grid, sorted_by_gain, sweep_grid

    sweep = sorted_by_gain(result.sweep) if by_gain else result.sweep
    grid = (sweep_grid if wide else short_sweep_grid)(sweep, result.facts, result.noise)
    print_table(replace(grid, notes=(*grid.notes, GAIN_NOTE)) if by_gain else grid, wide=wide)


def show_run(result: RunResult, out: Path, as_json: bool, *, wide: bool = False) -> None:
    """Sweep, choice, combination, controls, file."""
    from cerebellum.report.bench import bench_grid, short_bench_grid
    from cerebellum.report.chosen_lines import chosen_lines
    from cerebellum.report.grids import (
        choice_lines,
        comparison_grid,
        controls_lines,
        prediction_grid,
        short_comparison_grid,
        written_lines,
    )
    from cerebellum.report.ladder import ladder_grid
    from cerebellum.report.plain import summary_of
    from cerebellum.results import SweepResult

    if as_json:
        print_json(summary_of(result))
        return
    for line in chosen_lines(result):
        print_folded(line)
    print()
    if result.validity is not None:
        print_table(ladder_grid(result.validity), wide=wide)
    show_sweep(SweepResult(result.model, result.base, result.sweep, result.noise, result.facts), wide=wide)
    show_lines("Choice", choice_lines(result))
    if result.combination is not None:
        print_table(prediction_grid(result.combination), wide=wide)
        comparison = comparison_grid if wide else short_comparison_grid
        print_table(comparison(result.combination.report, result.facts), wide=wide)
        show_lines("Controls", controls_lines(result))
    show_lines("File", written_lines(result))
    if result.bench is not None:
        print_table((bench_grid if wide else short_bench_grid)(result.bench), wide=wide)
    print_folded(f"  report: {out / 'report.html'}, {out / 'report.md'}", indent="    ")


def show_lines(title: str, lines: Iterable[str]) -> None:
    """Lines of prose under a title, within 80 columns."""
    print(title)
    for line in lines:
        print_folded(f"  {line}", indent="    ")
    print()
