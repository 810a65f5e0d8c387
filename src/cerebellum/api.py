"""The verbs as functions: what a notebook calls and what the command line calls. Paths may be strings; everything else is by name.

import cerebellum

cerebellum.inspect("model-F16.gguf").bits_per_weight
result = cerebellum.run("model-F16.gguf", out="study", text="wiki.train.raw", chunks=64)
result.written.path
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cerebellum import bundled
from cerebellum.allocation.candidates import TypeRules
from cerebellum.allocation.effects import Objective
from cerebellum.allocation.sizes import Target, parse_bytes, parse_ladder, parse_target
from cerebellum.domain import Model
from cerebellum.errors import CerebellumError, InputError
from cerebellum.evals.score import BASE, FILE, REFERENCE, BenchResult
from cerebellum.files import JOB_FILES, STUDY_FILE, check_folder, refuse_inputs_in
from cerebellum.gguf import model_file
from cerebellum.gguf.memory import ContextUse
from cerebellum.gguf.mix import MixOptions
from cerebellum.gguf.types import quant_type
from cerebellum.hub.fetch import fetch as fetch_file
from cerebellum.hub.fetch import takes_hub_names
from cerebellum.hub.names import is_hub_name
from cerebellum.hub.publish import Published
from cerebellum.hub.publish import publish as publish_folder
from cerebellum.hub.remote import inspect_remote
from cerebellum.keyword_checks import blocks_of, check_ranges, checked, option_of
from cerebellum.keywords import (
    DRIVER_MEMORY,
    FIT_CTX,
    AllocateKeywords,
    ChooseKeywords,
    Names,
    PathLike,
    RunKeywords,
    SweepKeywords,
    TransferKeywords,
)
from cerebellum.llamacpp.protocol import CHUNK_TOKENS, Backend, Settings, SpeedUse
from cerebellum.notebook import attach
from cerebellum.progress import Progress, Silent
from cerebellum.results import LadderResult, Measurement, RunResult, SweepResult
from cerebellum.results.allocation import Allocation, AllocationLadder
from cerebellum.results.estimate import Estimate
from cerebellum.results.files import FileComparison
from cerebellum.results.fit import Fit
from cerebellum.results.health import Check
from cerebellum.results.part import Merged, Part
from cerebellum.results.plan import Planned
from cerebellum.study.shards import Shard
from cerebellum.verbs.allocation.estimate import estimate_allocation
from cerebellum.verbs.allocation.ladder import allocate_ladder, ladder_part
from cerebellum.verbs.allocation.options import DEFAULT_LIKE, AllocationOptions
from cerebellum.verbs.allocation.origin import read_origin
from cerebellum.verbs.allocation.run import allocate_session, anchor_part
from cerebellum.verbs.allocation.sensitivity import plan_map, read_map
from cerebellum.verbs.bench import BenchOptions, bench_files
from cerebellum.verbs.compare import compare_files
from cerebellum.verbs.divergence import measure_files
from cerebellum.verbs.fit import fit_model, size_for
from cerebellum.verbs.imatrix import ImatrixOptions, MadeImatrix, make_imatrix
from cerebellum.verbs.merge import merge_studies
from cerebellum.verbs.options import MeasureOptions, SessionOptions
from cerebellum.verbs.perplexity import Perplexity, measure_perplexity
from cerebellum.verbs.pipeline import ChoiceOptions, run_session, sweep_session
from cerebellum.verbs.pipeline import sweep_part as measure_sweep_part
from cerebellum.verbs.quantize import Quantized, quantize_model
from cerebellum.verbs.splitting import SplitModel, split_limit, split_model
from cerebellum.verbs.sweep import RaceOptions, SweepOptions
from cerebellum.verbs.sweep_estimate import estimate_sweep as of_the_sweep
from cerebellum.verbs.try_model import Answer, Asking, try_models
from cerebellum.verbs.validity import check_models, judge_ladder_file

if TYPE_CHECKING:
    from cerebellum.report.page.live import LivePage

#: Questions of each of the small world's sets that the demo asks.
DEMO_QUESTIONS = 30


@checked
def inspect(model: PathLike) -> Model:
    """What a GGUF says of itself; of one on a hub (``hf:org/name:Q4_K_M``) only the header is fetched. Raises `ModelFileError`."""
    return inspect_remote(str(model)).model if is_hub_name(model) else model_file.read_model(Path(model))


@checked
def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """A model of a hub, ``hf:org/name[@revision][:file or label]``, as a local path. Every function that takes a model takes such a name
    too. Raises `InputError` where nothing is meant, `HubError` where the hub refuses or can't be reached."""
    return fetch_file(name, progress)


@checked
def publish(
    folder: PathLike,
    repo: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    force: bool = False,
    card: PathLike | None = None,
    progress: Progress | None = None,
) -> Published:
    """Put the results in ``folder`` into the repository ``repo`` ("user/name") of the hub; ``dry_run`` only says what would be sent.

    What is there is not sent again. Files of the same names and other content are replaced with ``force`` only. Raises a `CerebellumError`.
    """
    return publish_folder(
        Path(folder), repo, private=private, dry_run=dry_run, force=force, card=_path(card), progress=progress
    )


@checked
@takes_hub_names
def quantize(
    model: PathLike,
    ftype: str,
    *,
    out: PathLike,
    overrides: PathLike | None = None,
    imatrix: PathLike | None = None,
    exclude: str | Sequence[str] = (),
    pure: bool = False,
    split_max_size: str | int | None = None,
    split_max_tensors: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> Quantized:
    """Write ``model`` as ``ftype`` ("Q3_K_M"), some tensors as the override file says. ``exclude``: patterns of tensors that stay as they
    are; ``pure``: no mix; ``split_max_size`` ("48G"), ``split_max_tensors``: in several files. Raises a `CerebellumError`."""
    mix, paths = MixOptions(_patterns(exclude), None, pure), (_path(overrides), _path(imatrix))
    limit = split_limit(split_max_size, split_max_tensors)
    return quantize_model(backend or _llama(), Path(model), ftype, Path(out), *paths, force, progress, mix, limit)


@checked
@takes_hub_names
def split(
    model: PathLike,
    *,
    out: PathLike,
    split_max_size: str | int | None = None,
    split_max_tensors: int | None = None,
    force: bool = False,
) -> SplitModel:
    """Write ``model`` as the files ``OUT-00001-of-….gguf`` and so on, as llama-gguf-split does: each of at most ``split_max_size`` ("48G")
    of tensors, or ``split_max_tensors`` of them. Raises a `CerebellumError`."""
    if (limit := split_limit(split_max_size, split_max_tensors)) is None:
        raise InputError("say how large a file may be: --split-max-size 48G for example, or --split-max-tensors")
    return split_model(Path(model), Path(out), limit, force)


@checked
@takes_hub_names
def imatrix(
    model: PathLike,
    text: PathLike | None = None,
    *,
    out: PathLike,
    add: PathLike | Sequence[PathLike] = (),
    ctx: int = CHUNK_TOKENS,
    chunks: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    chat: bool = False,
    process_output: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> MadeImatrix:
    """Make the importance matrix of ``model`` on ``text``, as llama-imatrix makes it: GGUF, or its older form where ``out`` ends in .dat.

    ``add``: importance matrices to go on from; without a text they are joined. Goes on where an earlier call with the same options was
    stopped. Raises a `CerebellumError`.
    """
    settings = settings_of(ctx=ctx, threads=threads, gpu_layers=gpu_layers)
    options = ImatrixOptions(
        Path(model), Path(out), _path(text), _paths(add), settings, chunks, chat, process_output, force
    )
    return make_imatrix(options, backend or _llama(), progress)


@checked
@takes_hub_names
def perplexity(
    model: PathLike,
    text: PathLike,
    *,
    ctx: int = 2048,
    ubatch_size: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    chat: bool = False,
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> Perplexity:
    """Perplexity of ``model`` on ``text``, chunk for chunk as llama-perplexity computes it; with ``chat`` as `run` reads it."""
    settings = settings_of(ctx=ctx, ubatch_size=ubatch_size, threads=threads, gpu_layers=gpu_layers)
    return measure_perplexity(backend or _llama(), Path(model), Path(text), settings, chunks, progress, chat)


@checked
@takes_hub_names
def measure(
    models: PathLike | Sequence[PathLike],
    *,
    reference: PathLike,
    text: PathLike,
    ctx: int = 2048,
    ubatch_size: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    out: PathLike | None = None,
    chat: bool = False,
    exact_reference: bool = False,
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> Measurement:
    """How far each file is from ``reference`` on ``text``: KL divergence and the rest, with intervals. ``out`` keeps the measurements.

    ``exact_reference``: all words of the reference's rows are kept (2 bytes × vocabulary a scored token), instead of 2 kB a token.
    """
    settings = settings_of(
        ctx=ctx, ubatch_size=ubatch_size, threads=threads, gpu_layers=gpu_layers, exact_reference=exact_reference
    )
    options = MeasureOptions(_paths(models), Path(reference), Path(text), settings, chunks, chat, _path(out))
    return measure_files(options, backend or _llama(), progress)


@checked
@takes_hub_names
def compare(
    models: Sequence[PathLike],
    *,
    reference: PathLike,
    text: PathLike,
    ctx: int = 2048,
    ubatch_size: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    out: PathLike | None = None,
    chat: bool = False,
    exact_reference: bool = False,
    speed: bool | SpeedUse = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> FileComparison:
    """Any files, ours or others', beside each other: what `measure` finds, the types of each role and, with ``speed``, tokens a second.

    ``out``: the folder that keeps the measurements, and gets ``report.html``, ``report.md``, ``report.json`` and ``compare.svg``, which
    name ``command``. ``speed``: True for 512 tokens read and 128 written, five times each; a `cerebellum.llamacpp.protocol.SpeedUse` for
    others. Raises a `CerebellumError`.
    """
    from cerebellum.report.comparison import write_comparison

    settings = settings_of(
        ctx=ctx, ubatch_size=ubatch_size, threads=threads, gpu_layers=gpu_layers, exact_reference=exact_reference
    )
    use = SpeedUse() if speed is True else speed or None
    if use is not None and min(use.n_prompt, use.n_generate, use.repetitions) < 1:
        raise InputError("speed: the tokens of the prompt, of the generation and the repetitions must be at least 1")
    options = MeasureOptions(_paths(models), Path(reference), Path(text), settings, chunks, chat, _path(out))
    if options.out is None:
        return compare_files(options, backend or _llama(), progress, use)
    with _watched(progress, options.out, options.reference) as watched:
        comparison = compare_files(options, backend or _llama(), watched, use)
        write_comparison(comparison, options.out, command)
    return comparison


@checked
@takes_hub_names
def validity(
    models: PathLike | Sequence[PathLike] = (),
    *,
    ladder: PathLike | None = None,
    text: PathLike | None = None,
    reference: PathLike | None = None,
    ctx: int = 2048,
    ubatch_size: int | None = None,
    chunks: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    out: PathLike | None = None,
    chat: bool = False,
    exact_reference: bool = False,
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> LadderResult:
    """May perplexity rank quantizations? From a model's own ladder, from several files, or from a published ``ladder`` (JSON).

    ``.report.verdict`` is valid, doubtful or invalid; ``.report.reason`` says why.
    """
    paths = _paths(models)
    if (ladder is None) == (not paths):
        raise InputError("give models and a text, or one ladder file, and not both")
    if ladder is not None:
        return judge_ladder_file(Path(ladder))
    if text is None:
        raise InputError("a ladder is measured on a text: give one with --text")
    settings = settings_of(
        ctx=ctx, ubatch_size=ubatch_size, threads=threads, gpu_layers=gpu_layers, exact_reference=exact_reference
    )
    files = paths if reference is not None else paths[1:]
    options = MeasureOptions(files, Path(reference or paths[0]), Path(text), settings, chunks, chat, _path(out))
    return check_models(options, backend or _llama(), progress)


@checked
@takes_hub_names
def bench(
    model: PathLike,
    tasks: Names,
    *,
    against: PathLike | None = None,
    reference: PathLike | None = None,
    data: PathLike | None = None,
    limit: int | None = None,
    margin: float | None = None,
    samples: int = 1,
    shots: int | None = None,
    ctx: int = 2048,
    threads: int | None = None,
    gpu_layers: int = 0,
    chat: bool = False,
    unsafe_execution: bool = False,
    out: PathLike | None = None,
    progress: Progress | None = None,
    backend: Backend | None = None,
) -> BenchResult:
    """Ask ``model`` (and the file it is compared with, and the reference) the questions of ``tasks``, pair the answers by item, and judge.

    ``tasks``: "world" or its three sets, humaneval, arc_challenge, hellaswag, mmlu_redux, or any name that lm-evaluation-harness knows.
    ``data``: a folder with the questions, instead of the hub. ``margin``: points that may be lost. ``shots``: examples before each
    question (the task's own number by default). Raises a `CerebellumError`.
    """
    files = {FILE: Path(model)}
    files |= {role: Path(path) for role, path in ((BASE, against), (REFERENCE, reference)) if path is not None}
    if margin is not None and against is None:
        raise InputError(
            "margin (--margin) bounds what may be lost against a base: give against (--against BASE.gguf) with it"
        )
    share = None if margin is None else margin / 100.0
    options = BenchOptions(names(tasks), _path(data), limit, share, chat, samples, unsafe_execution, shots)
    settings = settings_of(ctx=ctx, threads=threads, gpu_layers=gpu_layers)
    return bench_files(backend or _llama(), files, options, settings, _path(out), progress)


@checked
@takes_hub_names
def sweep(
    model: PathLike,
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[SweepKeywords],
) -> SweepResult:
    """Each chosen tensor alone at another type. ``options``: `cerebellum.keywords.SweepKeywords`.

    With ``allow`` a race goes on only for what a choice within it could take, as in `run`; else to each trial's verdict. The folder ``out``
    gets ``sweep.html``, ``sweep.md``, ``sweep.json``, ``sweep.csv`` and ``sweep.svg``.
    """
    from cerebellum.report import write_sweep

    check_text_named(Path(model), options.get("text"), bool(options.get("chat")))
    session, trials, choice = split_options(Path(model), Path(out), dict(options))
    allowed = None if options.get("allow") is None else choice.allowed_damage
    if allowed is not None and trials.race is None:
        raise InputError("allow bounds what a race goes on for; give race (--race) with it")
    with _watched(progress, session.out, session.model, "sweep.html") as watched:
        result = sweep_session(session, trials, allowed, backend=backend or _llama(), progress=watched)
        write_sweep(result, Path(out))
    return result


@checked
@takes_hub_names
def sweep_part(
    model: PathLike,
    shard: str,
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[SweepKeywords],
) -> Part:
    """Part ``shard`` ("2/5") of the trials of a `sweep`, into the folder ``out``; `merge` joins the parts. Resumes what was begun there."""
    session, trials, _ = split_options(Path(model), Path(out), dict(options))
    session = replace(session, shard=Shard.parse(shard))
    return measure_sweep_part(session, trials, backend=backend or _llama(), progress=progress)


@checked
@takes_hub_names
def run_part(
    model: PathLike,
    shard: str,
    *,
    out: PathLike,
    ladder: Names | None = None,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[RunKeywords],
) -> Part:
    """Part ``shard`` ("2/5") of what `run` measures first: the anchors of an allocation (of the size in the middle of a ``ladder``), one
    look at a time, or the trials of its sweep. `merge` joins the parts; `run` on the merged folder goes on."""
    given: dict[str, Any] = {**options, "ladder": ladder}
    asked = Shard.parse(shard)
    if not is_allocation(given):
        benchless = {name: value for name, value in of_sweep(given).items() if not name.startswith("bench")}
        session, trials, _ = split_options(Path(model), Path(out), benchless)
        return measure_sweep_part(replace(session, shard=asked), trials, backend=backend or _llama(), progress=progress)
    keywords = of_allocation(given)
    sizes = keywords.pop("ladder", None)
    targets = ladder_targets(sizes, keywords) if sizes else ()
    _, session, allocation = _allocation_job(model, out, keywords, progress)
    session = replace(session, shard=asked)
    if targets:
        return ladder_part(session, allocation, targets, backend=backend or _llama(), progress=progress)
    return anchor_part(session, allocation, backend=backend or _llama(), progress=progress)


@checked
def merge(
    study: PathLike,
    parts: PathLike | Sequence[PathLike],
    *,
    same_build_only: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Merged:
    """Take the measurements of ``parts`` (folders of `sweep_part` and `run_part`, or other studies of the same job) into the folder
    ``study``, made if new: all of them, or none.

    Raises `StudyError` for a part of another model, importance matrix, text or settings, and for a cell with other sums. A part of another
    build is compared first; ``same_build_only`` refuses it.
    """
    paths = [Path(parts)] if isinstance(parts, str | Path) else [Path(one) for one in parts]
    if not paths:
        raise InputError("name the parts to merge")
    return merge_studies(
        Path(study), paths, same_build_only=same_build_only, progress=progress or Silent(), command=command
    )


@checked
@takes_hub_names
def run(
    model: PathLike,
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[RunKeywords],
) -> Allocation | RunResult:
    """The best file of a size with its proof, as the command ``run``: `allocate`, or `choose` where an option of a sweep is given.

    ``options``: `cerebellum.keywords.RunKeywords`. Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    given: dict[str, Any] = dict(options)
    if is_allocation(given):
        return allocate(model, out=out, progress=progress, backend=backend, **of_allocation(given))
    return choose(model, out=out, progress=progress, backend=backend, **of_sweep(given))


#: Options of `run` that only an allocation has, and those that only a sweep and its choice have.
OF_ALLOCATION = (
    "size", "bpw", "like", "vram", "fit_ctx", "types", "never", "only", "keep", "same_type", "ladder", "map", "n_shuffled", "refine",
)  # fmt: skip
OF_SWEEP = (
    "role", "to", "blocks", "race", "budget_tokens", "objective", "allow", "max_growth", "n_random", "trust_perplexity", "thresholds",
)  # fmt: skip
ALLOCATE = "allocate"


def is_allocation(options: Mapping[str, Any]) -> bool:
    """Whether `run` allocates: where its policy says so, or none is named and no option of a sweep given. Raises `InputError`."""
    given = {n for n, value in options.items() if value is not None and (value is not False or n == "refine")}
    of_allocation, other = ([n for n in group if n in given] for group in (OF_ALLOCATION, OF_SWEEP))
    policy = options.get("policy") or ("greedy" if other and not of_allocation else ALLOCATE)
    if wrong := other if policy == ALLOCATE else of_allocation:
        owner = (
            "a sweep (--policy greedy or published)" if policy == ALLOCATE else f"an allocation (--policy {ALLOCATE})"
        )
        raise InputError(
            f"{option_of(wrong[0])} belongs to {owner} and does nothing under --policy {policy}: leave one out"
        )
    return bool(policy == ALLOCATE)


def of_allocation(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those of a sweep."""
    return {name: value for name, value in options.items() if name not in (*OF_SWEEP, "policy")}


def of_sweep(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those of an allocation."""
    return {name: value for name, value in options.items() if name not in OF_ALLOCATION}


@checked
@takes_hub_names
def choose(
    model: PathLike,
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[ChooseKeywords],
) -> RunResult:
    """A sweep of some roles at some types, a choice among them, its proof, in the folder ``out``; resumes what was begun there.

    ``options``: `cerebellum.keywords.ChooseKeywords`. Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.report import write_report

    given: dict[str, Any] = dict(options)
    benchmarks = bench_options(given)
    check_text_named(Path(model), given.get("text"), bool(given.get("chat")))
    session, trials, choice = split_options(Path(model), Path(out), given)
    with _watched(progress, session.out, session.model) as watched:
        return run_session(
            session, trials, choice,
            backend=backend or _llama(), publish=write_report, progress=watched, bench_options=benchmarks,
        )  # fmt: skip


@checked
@takes_hub_names
def allocate(
    model: PathLike,
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[AllocateKeywords],
) -> Allocation:
    """The best file of a size, with its proof, into the folder ``out``: types are allocated to all tensors. Resumes what was begun there.

    ``options``: `cerebellum.keywords.AllocateKeywords`. Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.report.allocation import write_allocation

    benchmarks, session, allocation = _allocation_job(model, out, options, progress)
    with _watched(progress, session.out, session.model) as watched:
        return allocate_session(
            session, allocation,
            backend=backend or _llama(), publish=write_allocation, progress=watched, bench_options=benchmarks,
        )  # fmt: skip


@checked
@takes_hub_names
def transfer(
    source: PathLike,
    model: PathLike,
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[TransferKeywords],
) -> Allocation:
    """`allocate`, begun with what ``source`` says of another model (a sensitivity.json, an allocation's folder, a recipe, a quantized
    GGUF): few probes say whether it holds, and what doesn't hold is measured anew. ``.transferred`` has the
    verdicts, the probes and the trials saved.

    ``options``: `cerebellum.keywords.TransferKeywords`. Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.report.allocation import write_allocation

    benchmarks, session, allocation = _allocation_job(model, out, dict(options), progress)
    allocation = replace(allocation, origin=read_origin(Path(source)))
    session = replace(session, also_read=(*session.also_read, Path(source)))
    with _watched(progress, session.out, session.model) as watched:
        return allocate_session(
            session, allocation,
            backend=backend or _llama(), publish=write_allocation, progress=watched, bench_options=benchmarks,
        )  # fmt: skip


@checked
@takes_hub_names
def ladder(
    model: PathLike,
    sizes: Names,
    *,
    out: PathLike,
    source: PathLike | None = None,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[AllocateKeywords],
) -> AllocationLadder:
    """`allocate` for several ``sizes`` ("Q2_K,Q3_K_M", "3.0GB", "3.9bpw") from one study and one set of anchors: a file each, one table and
    one picture. ``source``: what the anchors begin with, as in `transfer`. Options are those of `allocate`, without a size.

    Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.report.allocation import write_allocation
    from cerebellum.report.allocation_ladder import write_allocation_ladder

    targets = ladder_targets(sizes, dict(options))
    benchmarks, session, allocation = _allocation_job(model, out, options, progress)
    if source is not None:
        if allocation.sensitivity is not None:
            raise InputError("give a map of the model itself (map) or a source to transfer from, not both")
        allocation = replace(allocation, origin=read_origin(Path(source)))
        session = replace(session, also_read=(*session.also_read, Path(source)))
    with _watched(progress, session.out, session.model) as watched:
        return allocate_ladder(
            session, allocation, targets, backend=backend or _llama(), publish=write_allocation,
            publish_ladder=write_allocation_ladder, progress=watched, bench_options=benchmarks,
        )  # fmt: skip


def _watched(progress: Progress | None, out: Path, model: Path, page: str = "report.html") -> LivePage:
    """A progress that keeps the folder's page up to date while the work goes on."""
    from cerebellum.report.page.live import LivePage

    return LivePage(progress or Silent(), out, model.name, page=page)


def report(folder: PathLike) -> tuple[Path, ...]:
    """The page of a finished folder, drawn again from its ``report.json`` (of a sweep ``sweep.json``), and of a ladder the page of each
    size; their paths, the folder's own first. Raises `InputError`, or `OutputError`."""
    from cerebellum.report.page import redraw

    return redraw(Path(folder))


def ladder_targets(sizes: Names, options: dict[str, Any]) -> tuple[Target, ...]:
    """The sizes of a ladder; the options name none beside. Raises `InputError`."""
    if any(options.get(name) is not None for name in ("size", "bpw", "like", "vram")):
        raise InputError("--ladder names the sizes: leave out --size, --bpw, --like and --vram")
    return parse_ladder(names(sizes))


@checked
@takes_hub_names
def estimate(
    model: PathLike,
    *,
    out: PathLike | None = None,
    source: PathLike | None = None,
    ladder: Names | None = None,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[RunKeywords],
) -> Estimate:
    """What `run` with these options takes and can show: trials, minutes, disk, memory. A chunk is timed; nothing is written.

    ``source``: what a `transfer` would start from; its trials are counted as if all of it held. ``ladder``: the sizes of a `ladder`, which
    is estimated as a whole.
    """
    given: dict[str, Any] = dict(options)
    if not is_allocation({**given, "ladder": ladder}):
        chosen = of_sweep(given)
        bench_options(chosen)
        check_text_named(Path(model), chosen.get("text"), bool(chosen.get("chat")))
        session, trials, choice = split_options(Path(model), Path(out or "."), chosen)
        return _sweep_estimate(session, trials, choice, backend or _llama(), progress)
    targets = ladder_targets(ladder, given) if ladder else ()
    _, session, allocation = _allocation_job(model, out, of_allocation(given), progress)
    if source is not None:
        allocation = replace(allocation, origin=read_origin(Path(source)))
    return estimate_allocation(session, allocation, backend or _llama(), progress, targets)


@checked
@takes_hub_names
def estimate_sweep(
    model: PathLike,
    *,
    out: PathLike | None = None,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **options: Unpack[SweepKeywords],
) -> Estimate:
    """What `sweep` with these options takes and can show, as `estimate`."""
    check_text_named(Path(model), options.get("text"), bool(options.get("chat")))
    session, trials, _ = split_options(Path(model), Path(out or "."), dict(options))
    return _sweep_estimate(session, trials, None, backend or _llama(), progress)


def _sweep_estimate(
    session: SessionOptions,
    trials: SweepOptions,
    choice: ChoiceOptions | None,
    backend: Backend,
    progress: Progress | None,
) -> Estimate:
    refuse_inputs_in(session.out, session.files, JOB_FILES)
    return of_the_sweep(session, trials, choice, backend, progress)


def _allocation_job(
    model: PathLike, out: PathLike | None, keywords: Mapping[str, Any], progress: Progress | None
) -> tuple[BenchOptions | None, SessionOptions, AllocationOptions]:
    """The options of an allocation as the three things they are about, with the usual number of chunks where none is named."""
    options = sized(model, keywords, progress)
    read = () if options.get("map") is None or _is_own_map(Path(options["map"]), out) else (Path(options["map"]),)
    benchmarks, allocation = bench_options(options), allocation_options(options)
    check_text_named(Path(model), options.get("text"), bool(options.get("chat")))
    session, *_ = split_options(Path(model), Path(out or "."), options)
    session = replace(session, also_read=read)
    if out is not None:
        refuse_inputs_in(session.out, session.files, JOB_FILES)
    return benchmarks, session, allocation


def sized(model: PathLike, keywords: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Any]:
    """The options with the size that ``vram`` and ``fit_ctx`` lead to in their place. Raises `InputError`."""
    from cerebellum.report.fit import size_line

    options = dict(keywords)
    vram, n_ctx = options.pop("vram", None), options.pop("fit_ctx", None)
    if vram is None:
        if n_ctx is not None:
            raise InputError("fit_ctx (--fit-ctx) belongs to vram (--vram): give the memory of the device too")
        return options
    if given := next((name for name in ("size", "bpw", "like", "ladder") if options.get(name) is not None), None):
        raise InputError(f"vram (--vram) and {given} (--{given}) are two sizes: leave one out")
    limit = parse_bytes(str(vram), "vram (--vram)") - parse_bytes(DRIVER_MEMORY, "vram (--vram)")
    if limit <= 0:
        raise InputError(f"vram (--vram) {vram} less {DRIVER_MEMORY} for the driver leaves nothing; give more memory")
    fitting = size_for(Path(model), limit, ContextUse(n_ctx or FIT_CTX))
    (progress or Silent()).note(f"{size_line(fitting)} ({vram} less {DRIVER_MEMORY} for the driver and others)")
    return {**options, "size": fitting.file_bytes}


def _is_own_map(path: Path, out: PathLike | None) -> bool:
    """Whether a map is that of the study in ``out``: the study goes on with it, and writes it anew with the same anchors."""
    folder = Path(out or ".")
    return (folder / STUDY_FILE).is_file() and path.absolute() == (folder / "sensitivity.json").absolute()


def usual_chunks(ctx: int) -> int:
    """Chunks of each text where no number is named: as many as have 32,768 tokens, and at least 16."""
    return max(16, -(-USUAL_TOKENS // ctx))


def check_text_named(model: Path, text: PathLike | None, chat: bool) -> None:
    """Another model than the bundled one is measured on a text of its own. Raises `InputError`."""
    if text is None and chat:
        raise InputError("--chat needs --text: a file of conversations, JSON lines; no conversations are bundled")
    if text is None and model.exists() and not _is_bundled(model):
        raise InputError(
            f"no text: {model.name} isn't the bundled model, and the bundled texts of a small world say nothing of it. Give text (--text) "
            "as the model will meet it: a few hundred kilobytes of UTF-8"
        )


def _is_bundled(model: Path) -> bool:
    """Whether it is the bundled model or, by its name and number of weights, a quantization of it."""
    given, ours = (model_file.read_model(path) for path in (model, bundled.MODEL))
    return (given.name, given.architecture, given.n_weights) == (ours.name, ours.architecture, ours.n_weights)


#: Tokens of each text that are measured where no number of chunks is named.
USUAL_TOKENS = 32_768

#: Options that only an allocation has.
_ALLOCATION = (
    "size", "bpw", "like", "types", "never", "only", "keep", "same_type", "n_shuffled", "refine", "budget_minutes", "map",
)  # fmt: skip


def allocation_options(options: dict[str, Any]) -> AllocationOptions:
    """The options of an allocation, taken out of ``options``. Raises `InputError`."""
    given = {name: options.pop(name, None) for name in _ALLOCATION}
    check_numbers({name: given[name] for name in ("n_shuffled", "budget_minutes")})
    told: dict[str, Any] = {n: given[n] for n in ("n_shuffled", "refine") if given[n] is not None}
    told["refine_minutes"] = given["budget_minutes"]
    if options.get("seed") is not None:
        told["seed"] = options.pop("seed")
    if given["map"] is not None:
        told["sensitivity"] = read_map(Path(given["map"]))
    target = parse_target(given["size"], given["bpw"], given["like"], DEFAULT_LIKE)
    return AllocationOptions(target, _rules(given), **told)


def _rules(given: dict[str, Any]) -> TypeRules:
    """The rules of types among the options. Raises `InputError`."""
    rules = {name: names(given[name]) for name in ("types", "never", "only") if given.get(name)}
    groups = tuple(tuple(word.split("+")) for word in names(given.get("same_type") or ()))
    return TypeRules(**rules, keep=tuple(_pair(word) for word in names(given.get("keep") or ())), same_type=groups)


@checked
def plan(
    map: PathLike,
    *,
    size: str | int | None = None,
    bpw: float | None = None,
    like: str | None = None,
    types: Names = (),
    never: Names = (),
    only: Names = (),
    keep: Names = (),
    same_type: Names = (),
    out: PathLike | None = None,
    force: bool = False,
) -> Planned:
    """The recipe of another size from a sensitivity map (``sensitivity.json`` of an allocation), without the model, in about a second.

    ``out``: the override file to write. Options are those of `allocate`. Raises a `CerebellumError`.
    """
    rules = _rules({"types": types, "never": never, "only": only, "keep": keep, "same_type": same_type})
    return plan_map(Path(map), parse_target(size, bpw, like, DEFAULT_LIKE), rules, _path(out), force)


@checked
@takes_hub_names
def fit(
    model: PathLike,
    vram: str | int,
    *,
    ctx: int | None = None,
    cache_type_k: str = "F16",
    cache_type_v: str = "F16",
    gpu_layers: int = -1,
    margin: str | int = 0,
    check: bool = True,
) -> Fit:
    """Up to which context ``model`` fits into ``vram`` ("8GB", or bytes) less ``margin``: ``.largest``, and ``.rows`` by context.

    ``check``: llama.cpp itself is asked too, without loading the weights. Raises a `CerebellumError`.
    """
    from cerebellum.llamacpp.process import LlamaBackend

    limit = parse_bytes(str(vram), "vram (--vram)") - (
        int(margin) if str(margin) == "0" else parse_bytes(str(margin), "margin")
    )
    if limit <= 0:
        raise InputError(f"vram {vram} less the margin {margin} leaves nothing; give more memory or a smaller margin")
    use = ContextUse(ctx or 0, cache_type_k.upper(), cache_type_v.upper(), gpu_layers)
    return fit_model(Path(model), limit, use, LlamaBackend().memory if check else None)


@checked
@takes_hub_names
def try_model(
    model: PathLike,
    prompt: str,
    *,
    against: PathLike | None = None,
    system: str | None = None,
    raw: bool = False,
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    ctx: int = 4096,
    threads: int | None = None,
    gpu_layers: int = 0,
    backend: Backend | None = None,
) -> list[Answer]:
    """What ``model``, and the file that it is tried against, answer to ``prompt``, through the chat template where there is one.

    ``raw``: the prompt as it is. ``temperature`` 0: the likeliest token each time. Raises a `CerebellumError`.
    """
    asking = Asking(prompt, system, raw, ctx, max_tokens, temperature, seed)
    paths = [Path(model), *([Path(against)] if against is not None else [])]
    return try_models(backend or _llama(), paths, asking, settings_of(ctx=ctx, threads=threads, gpu_layers=gpu_layers))


@checked
def doctor(folder: PathLike = ".", *, backend: Backend | None = None) -> list[Check]:
    """What is installed, what llama.cpp is built for and whether it computes, what is missing for what, with the command that mends it.

    ``folder``: whose free disk is looked at. ``.state`` of a check is ok, missing, warning or broken.
    """
    from cerebellum.verbs.doctor import examine

    used = backend or _llama()
    return examine(used, used.native, Path(folder))


def _pair(word: str) -> tuple[str, str]:
    pattern, equals, kind = word.partition("=")
    if not (pattern and equals and kind):
        raise InputError(f"{word!r} (--keep) is no tensor with its type; write token_embd=Q8_0 for example")
    return pattern, quant_type(kind).name


@checked
def demo(
    *,
    out: PathLike,
    progress: Progress | None = None,
    backend: Backend | None = None,
    **keywords: Unpack[AllocateKeywords],
) -> Allocation:
    """`allocate` on the bundled model, its own texts and some of its own questions, at the bytes of Q3_K_M:
    small enough for three minutes on two cores."""
    options: dict[str, Any] = dict(keywords)
    small: dict[str, Any] = {"text": bundled.SEARCH_TEXT, "report_text": bundled.REPORT_TEXT, "ctx": 256, "chunks": 16}
    small |= (
        {"like": bundled.DEMO_LIKE} if not any(options.get(name) for name in ("size", "bpw", "like", "vram")) else {}
    )
    small |= {"bench": options.pop("bench", None) or demo_tasks(progress), "bench_limit": DEMO_QUESTIONS}
    given = {name: value for name, value in options.items() if value is not None}
    return allocate(bundled.MODEL, out=out, progress=progress, backend=backend, **{**small, **given})


def demo_tasks(progress: Progress | None = None) -> tuple[str, ...]:
    """The small world's sets; without the one that runs code where no sandbox can be had."""
    from cerebellum.evals.sandbox import Sandbox
    from cerebellum.evals.sets import CODE
    from cerebellum.evals.world import WORLD

    try:
        Sandbox.find()
    except CerebellumError as error:
        if progress is not None:
            progress.note(f"leaving out the questions that run code: {error}")
        return tuple(name for name in WORLD if name not in CODE)
    return WORLD


def bench_options(options: dict[str, Any]) -> BenchOptions | None:
    """The benchmarks among the options of `run`, taken out of them; None where no task is named. Raises `InputError` for options of
    benchmarks without one: they would be ignored."""
    tasks = options.pop("bench", None)
    given = {
        name: options.pop(name, None)
        for name in ("bench_limit", "bench_data", "bench_margin", "bench_shots", "unsafe_execution")
    }
    if not tasks:
        if useless := [name for name, value in given.items() if value is not None and value is not False]:
            option = f"--{useless[0].replace('_', '-')}"
            raise InputError(
                f"{useless[0]} ({option}) is of benchmarks, and none is asked for: give bench (--bench TASKS) with it"
            )
        return None
    limit, data, margin, shots, unsafe = given.values()
    share = None if margin is None else margin / 100.0
    return BenchOptions(
        names(tasks), _path(data), limit, share, bool(options.get("chat")), unsafe=bool(unsafe), shots=shots
    )


def split_options(model: Path, out: Path, given: dict[str, Any]) -> tuple[SessionOptions, SweepOptions, ChoiceOptions]:
    """The flat options of `run` as the three things they are about. Raises `InputError` for one that doesn't exist."""
    check_folder(out)
    options = {name: value for name, value in given.items() if value is not None}
    options.setdefault("chunks", usual_chunks(options.get("ctx") or Settings().n_ctx))
    settings = settings_of(**_take(options, {name: name for name in _SETTINGS}))
    session = {**_take_texts(options), "mix": _take_mix(options), **_take_fleet(options)}
    session["split"] = split_limit(options.pop("split_max_size", None), options.pop("split_max_tensors", None))
    trials = _take_trials(options)
    choice = _take(options, _CHOICE)
    check_numbers({**given, "workers": session.get("workers")})
    if options:
        raise InputError(f"unknown option {next(iter(options))!r}; cerebellum.keywords lists them")
    return (
        SessionOptions(model, out, settings=settings, **session),
        SweepOptions(**trials),
        ChoiceOptions(**with_growth(choice)),
    )


def _take(options: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Those of ``names`` that are given, out of ``options``, by the names of the fields."""
    return {field: options.pop(name) for name, field in names.items() if name in options}


def _take_texts(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `SessionOptions` that say what is read: texts, reference, importance matrix."""
    makes: dict[str, Any] = {}
    if str(options.get("imatrix")) in (AUTO, NONE):
        makes["make_imatrix"] = str(options.pop("imatrix")) == AUTO
    paths: dict[str, Any] = {name: Path(value) for name, value in _take(options, {n: n for n in _PATHS}).items()}
    if "calibration_text" in paths:
        makes["calibration"] = paths.pop("calibration_text")
        if "imatrix" in paths or makes.get("make_imatrix") is False:
            raise InputError(
                "calibration_text (--calibration-text) makes an importance matrix, and imatrix (--imatrix) says that none is to be made: "
                "give one of them"
            )
    if options.get("chat") and "text" not in paths:
        raise InputError("--chat needs --text: a file of conversations, JSON lines; no conversations are bundled")
    if "text" not in paths:
        paths.setdefault("report_text", bundled.REPORT_TEXT)
    return paths | makes


def _take_mix(options: dict[str, Any]) -> MixOptions:
    """How the base is mixed."""
    mix = _take(options, {"base_overrides": "overrides", "pure": "pure", "exclude": "exclude"})
    if "overrides" in mix:
        mix["overrides"] = Path(mix["overrides"])
    if "exclude" in mix:
        mix["exclude"] = _patterns(mix["exclude"])
    return MixOptions(**mix)


def _take_fleet(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `SessionOptions` that say how much is measured, and who computes."""
    session = _take(options, {"chunks": "n_chunks", **{name: name for name in _SESSION}})
    check_fleet(session)
    return session


def _take_trials(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `SweepOptions`."""
    trials = _take(options, {"role": "roles", "to": "types", "blocks": "blocks", "thresholds": "thresholds"})
    trials = {name: names(value) if name in ("roles", "types") else value for name, value in trials.items()}
    if "blocks" in trials:
        trials["blocks"] = blocks_of(trials["blocks"])
    budget = _take(options, {"budget_tokens": "budget_tokens", "budget_minutes": "budget_minutes"})
    if options.pop("race", False) or budget:
        trials["race"] = RaceOptions(**budget)
    return trials


def check_fleet(session: dict[str, Any]) -> None:
    """Put the options of who computes as `SessionOptions` has them. Raises `InputError`."""
    session["cluster_files"] = _patterns(session.get("cluster_files", ()))
    if session["cluster_files"] and "cluster" not in session:
        raise InputError(
            "cluster_files (--cluster-files) is of a cluster's nodes: give cluster (--cluster ray) with it"
        )
    if session.get("workers") == AUTO:
        session["workers"] = None
    elif not isinstance(session.get("workers", 1), int):
        raise InputError(f"workers is {session['workers']!r}; it must be a number of at least 1, or {AUTO!r}")


def settings_of(**given: Any) -> Settings:
    """How a model is opened, from the options that say so, as `_SETTINGS` names them; None: the default. Raises `InputError`."""
    check_numbers(given)
    return Settings(**{_SETTINGS[name]: value for name, value in given.items() if value is not None})


def check_numbers(given: dict[str, Any]) -> None:
    """Raises `InputError` for a number that is not finite or out of range, or an objective that doesn't exist."""
    check_ranges(given)
    if given.get("chunks") == 1:
        raise InputError("chunks (--chunks) is 1; two are the least that give an interval")
    if given.get("budget_minutes") == 0:
        raise InputError(
            "budget_minutes (--budget-minutes) is 0, in which nothing can be measured: give more than 0, or leave it out to race without "
            "a bound"
        )
    if given.get("objective") not in (None, "kld", "nll"):
        raise InputError(f"unknown objective {given['objective']!r}; the objectives are kld and nll")


def with_growth(choice: dict[str, Any]) -> dict[str, Any]:
    """The options of a choice, of which the growth may be a text."""
    growth = choice.get("max_growth_bytes")
    return choice | growth_of(growth) if isinstance(growth, str) else choice


def growth_of(text: str) -> dict[str, Any]:
    """``5%`` of the base's file, or a size, as `ChoiceOptions` has it. Raises `InputError`."""
    number = text.strip().removesuffix("%")
    if number != text.strip():
        try:
            share = float(number) / 100.0
        except ValueError:
            share = math.nan
        if not 0.0 <= share <= 100.0:
            raise InputError(f"{text!r} is no share of the base (--max-growth); write 5% or a number of bytes")
        return {"max_growth_share": share}
    return {"max_growth_bytes": 0 if number == "0" else parse_bytes(number, "--max-growth")}


_SETTINGS = {
    "ctx": "n_ctx",
    "ubatch_size": "n_ubatch",
    "threads": "n_threads",
    "gpu_layers": "n_gpu_layers",
    "replay_bytes": "replay_bytes",
    "exact_reference": "exact_reference",
}
#: Options that have the name of their field of `SessionOptions`.
_SESSION = (
    "base",
    "chat",
    "workers",
    "gpus_per_worker",
    "cluster",
    "cluster_files",
    "same_build_only",
    "command",
    "retry_failed",
    "force",
)
_PATHS = ("text", "report_text", "reference", "imatrix", "calibration_text")
#: Words for --imatrix that aren't files; ``auto`` is one for --workers too.
AUTO, NONE = "auto", "none"
_CHOICE = {
    "policy": "policy",
    "objective": "objective",
    "allow": "allowed_damage",
    "max_growth": "max_growth_bytes",
    "n_random": "n_random",
    "seed": "seed",
    "trust_perplexity": "trust_perplexity",
}


def names(value: Names) -> tuple[str, ...]:
    """One name, several with commas between, or a list of them, as a tuple without repeats."""
    parts = [value] if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys(word.strip() for text in parts for word in text.split(",") if word.strip()))


def _patterns(value: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern, which may have commas in it, or several."""
    return (value,) if isinstance(value, str) else tuple(value)


def _paths(value: PathLike | Sequence[PathLike]) -> tuple[Path, ...]:
    return (Path(value),) if isinstance(value, str | Path) else tuple(map(Path, value))


def _path(value: PathLike | None) -> Path | None:
    return None if value is None else Path(value)


def _llama() -> Backend:
    from cerebellum.llamacpp.process import LlamaBackend

    return LlamaBackend()


attach()

__all__ = [
    "Allocation",
    "AllocationLadder",
    "BenchResult",
    "Estimate",
    "FileComparison",
    "Fit",
    "LadderResult",
    "MadeImatrix",
    "Measurement",
    "Merged",
    "Model",
    "Objective",
    "Part",
    "Perplexity",
    "Planned",
    "Published",
    "Quantized",
    "RunResult",
    "SplitModel",
    "SweepResult",
    "allocate",
    "bench",
    "choose",
    "compare",
    "demo",
    "doctor",
    "estimate",
    "estimate_sweep",
    "fetch",
    "fit",
    "imatrix",
    "inspect",
    "ladder",
    "measure",
    "merge",
    "perplexity",
    "plan",
    "publish",
    "quantize",
    "run",
    "run_part",
    "split",
    "sweep",
    "sweep_part",
    "transfer",
    "try_model",
    "validity",
]
