"""`compare`: any files, ours or others', beside each other: what `measure` finds, their types, their speed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cerebellum.domain import Model
from cerebellum.errors import EngineDied
from cerebellum.files import COMPARE_FILES
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import Backend, Settings, SpeedUse
from cerebellum.progress import Progress, Silent
from cerebellum.results.files import ComparedFile, FileComparison, Speed, SpeedTest
from cerebellum.verbs.divergence import measure_in, read_inputs
from cerebellum.verbs.machine import hardware
from cerebellum.verbs.options import MeasureOptions
from cerebellum.verbs.workspace import Workspace, opened_workspace

_PROMPT, _GENERATION = "prompt", "generation"


def compare_files(
    options: MeasureOptions, backend: Backend, progress: Progress | None = None, speed: SpeedUse | None = None
) -> FileComparison:
    """The files against the reference on the text as `measure_files` measures them; with ``speed`` timed too.

    With ``options.out`` every measurement and every timing stays there, and the same call goes on where it was stopped. Raises a
    `CerebellumError`.
    """
    progress, settings = progress or Silent(), options.settings
    inputs = read_inputs(options, progress)
    with opened_workspace(backend, settings, options.out, options.files, progress, COMPARE_FILES) as workspace:
        measurement = measure_in(workspace, inputs)
        speeds: Sequence[Speed | None] = [None] * len(options.models)
        if speed is not None:
            speeds, speed = timed_alike(workspace, options.models, speed)
        files = [
            ComparedFile(measured, types_by_role(read_model(path)), each)
            for measured, path, each in zip(measurement.files, options.models, speeds, strict=True)
        ]
        facts = {} if speed is None else {**speed_facts(settings, speed), "hardware": hardware(backend, settings)}
        return FileComparison(measurement, tuple(files), facts)


def types_by_role(model: Model) -> dict[str, dict[str, int]]:
    """Role → type → how many tensors, in the file's order; tensors of one dimension (norms, biases) are left out."""
    roles: dict[str, Counter[str]] = defaultdict(Counter)
    for tensor in model.tensors:
        if len(tensor.shape) > 1:
            roles[tensor.role][tensor.type] += 1
    return {role: dict(types.most_common()) for role, types in roles.items()}


def timed_alike(workspace: Workspace, models: Sequence[Path], use: SpeedUse) -> tuple[list[Speed], SpeedUse]:
    """Every file's speed, and how it was measured: where llama.cpp dies of the kernels for repacked weights, all are timed without.

    Raises `EngineError`.
    """
    try:
        return [timed(workspace, path, use) for path in models], use
    except EngineDied as error:
        if not use.repack:
            raise
        workspace.progress.end()
        workspace.progress.note(
            f"warning: {error}. The speed of all files is measured without repacked weights instead"
        )
        return timed_alike(workspace, models, replace(use, repack=False))


def speed_facts(settings: Settings, use: SpeedUse) -> dict[str, Any]:
    """With what the speed was measured."""
    return {
        **asdict(use),
        "threads": settings.threads,
        "gpu_layers": settings.n_gpu_layers,
        "n_ubatch": settings.n_ubatch,
    }


def timed(workspace: Workspace, path: Path, use: SpeedUse) -> Speed:
    """The file's speed: repetitions that the study holds from the same build, threads and layers are taken over, what lacks is timed."""
    backend, study, progress = workspace.backend, workspace.study, workspace.progress
    name = f"speed of {workspace.sha256(path)}"
    kept = study.fact(name)
    rows: list[dict[str, Any]] = kept if isinstance(kept, list) else []
    seconds = row_of(workspace, use, rows)
    lacking = {test: max(0, use.repetitions - len(seconds[test])) for test in (_PROMPT, _GENERATION)}
    progress.begin(f"speed of {path.name}", 2 * use.repetitions, 2 * use.repetitions - sum(lacking.values()))
    for test, n in lacking.items():
        left_out = replace(use, n_generate=0) if test == _PROMPT else replace(use, n_prompt=0)
        asked = replace(left_out, repetitions=n)
        for each in backend.speed(path, workspace.settings, asked) if n else ():
            seconds[test].append(each.seconds)
            study.set_fact(name, rows)
            progress.step(f"{test}: {_tokens(use, test) / each.seconds:.1f} tokens a second")
    progress.end()
    study.check_files()
    return Speed(*(SpeedTest(_tokens(use, test), tuple(seconds[test])) for test in (_PROMPT, _GENERATION)))


def row_of(workspace: Workspace, use: SpeedUse, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of timings among ``rows`` that were made as these are to be; a new one where there is none."""
    conditions = {**speed_facts(workspace.settings, replace(use, repetitions=0)), "build": workspace.build}
    conditions["hardware"] = hardware(workspace.backend, workspace.settings)
    row = next((row for row in rows if row.get("ground") == conditions), None)
    if row is None:
        row = {"ground": conditions, _PROMPT: [], _GENERATION: []}
        rows.append(row)
    return row


def _tokens(use: SpeedUse, test: str) -> int:
    return use.n_prompt if test == _PROMPT else use.n_generate
