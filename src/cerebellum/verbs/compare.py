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
from cerebellum.study.hashes import cached_sha256
from cerebellum.study.store import Study
from cerebellum.verbs.divergence import measure_in, opened_study
from cerebellum.verbs.machine import hardware

_PROMPT, _GENERATION = "prompt", "generation"


def compare_files(
    backend: Backend,
    models: Sequence[Path],
    reference: Path,
    text: Path,
    settings: Settings,
    n_chunks: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    chat: bool = False,
    speed: SpeedUse | None = None,
) -> FileComparison:
    """``models`` against ``reference`` on ``text`` as `measure_files` measures them; with ``speed`` timed too.

    With ``out`` every measurement and every timing stays there, and the same call goes on where it was stopped. Raises a
    `CerebellumError`.
    """
    progress = progress or Silent()
    with opened_study(out, (*models, reference, text), COMPARE_FILES) as (folder, study):
        measurement = measure_in(backend, study, folder, models, reference, text, settings, n_chunks, progress, chat)
        speeds: Sequence[Speed | None] = [None] * len(models)
        if speed is not None:
            speeds, speed = timed_alike(backend, study, models, settings, speed, progress)
        files = [
            ComparedFile(measured, types_by_role(read_model(path)), each)
            for measured, path, each in zip(measurement.files, models, speeds, strict=True)
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


def timed_alike(
    backend: Backend, study: Study, models: Sequence[Path], settings: Settings, use: SpeedUse, progress: Progress
) -> tuple[list[Speed], SpeedUse]:
    """Every file's speed, and how it was measured: where llama.cpp dies of the kernels for repacked weights, all are timed without.

    Raises `EngineError`.
    """
    try:
        return [timed(backend, study, path, settings, use, progress) for path in models], use
    except EngineDied as error:
        if not use.repack:
            raise
        progress.end()
        progress.note(f"warning: {error}. The speed of all files is measured without repacked weights instead")
        return timed_alike(backend, study, models, settings, replace(use, repack=False), progress)


def speed_facts(settings: Settings, use: SpeedUse) -> dict[str, Any]:
    """With what the speed was measured."""
    return {
        **asdict(use),
        "threads": settings.threads,
        "gpu_layers": settings.n_gpu_layers,
        "n_ubatch": settings.n_ubatch,
    }


def timed(backend: Backend, study: Study, path: Path, settings: Settings, use: SpeedUse, progress: Progress) -> Speed:
    """The file's speed: repetitions that the study holds from the same build, threads and layers are taken over, what lacks is timed."""
    ground = {**speed_facts(settings, replace(use, repetitions=0)), "build": backend.id}
    ground["hardware"] = hardware(backend, settings)
    name = f"speed of {cached_sha256(study, path)}"
    kept = study.fact(name)
    rows: list[dict[str, Any]] = kept if isinstance(kept, list) else []
    own = next((row for row in rows if row.get("ground") == ground), None)
    if own is None:
        own = {"ground": ground, _PROMPT: [], _GENERATION: []}
        rows.append(own)
    lacking = {test: max(0, use.repetitions - len(own[test])) for test in (_PROMPT, _GENERATION)}
    progress.begin(f"speed of {path.name}", 2 * use.repetitions, 2 * use.repetitions - sum(lacking.values()))
    for test, n in lacking.items():
        left_out = replace(use, n_generate=0) if test == _PROMPT else replace(use, n_prompt=0)
        asked = replace(left_out, repetitions=n)
        for each in backend.speed(path, settings, asked) if n else ():
            own[test].append(each.seconds)
            study.set_fact(name, rows)
            progress.step(f"{test}: {_tokens(use, test) / each.seconds:.1f} tokens a second")
    progress.end()
    study.check_files()
    return Speed(*(SpeedTest(_tokens(use, test), tuple(own[test])) for test in (_PROMPT, _GENERATION)))


def _tokens(use: SpeedUse, test: str) -> int:
    return use.n_prompt if test == _PROMPT else use.n_generate
