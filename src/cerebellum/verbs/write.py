"""Write the recipe's file and prove it: types as planned, sums equal to those measured in memory, only then its name."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cerebellum import gguf_file
from cerebellum.domain import ChunkScore, Trial, TrialKind
from cerebellum.errors import OutputError, ProofError
from cerebellum.keys import partial_of, sha256_file
from cerebellum.measurer import Measurer, Scores
from cerebellum.overrides import Hit, Overrides, format_overrides, pairs, pin, prove
from cerebellum.summary import Contrast, Summary, contrast, summarize
from cerebellum.verbs.compose import Combination
from cerebellum.verbs.job import Job
from cerebellum.verbs.sweep import BASE_TRIAL


@dataclass(frozen=True, slots=True)
class Written:
    """The proven file. ``equal_chunks`` of the report split gave, bit for bit, the sums measured in memory."""

    path: Path
    overrides_path: Path
    source: str
    ftype: str
    twice: bool
    imatrix: str | None
    sha256: str
    file_bytes: int
    base_bytes: int
    overrides: Overrides
    proof: tuple[Hit, ...]
    summary: Summary
    from_base: Contrast
    equal_chunks: int

    @property
    def reproduce(self) -> str:
        """The stock command that makes the same tensors."""
        words = ["llama-quantize", *(["--allow-requantize"] if self.twice else [])]
        words += ["--imatrix", self.imatrix] if self.imatrix else []
        return shlex.join([*words, "--tensor-type-file", self.overrides_path.name, self.source, "OUT.gguf", self.ftype])


def make_overrides(job: Job, recipe: Trial) -> Overrides:
    """The lines under which llama.cpp stores exactly the recipe: its swaps, and pins where its mix would shift."""
    base = job.base.model

    def realized(lines: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
        return job.backend.types(job.options.model, job.base.ftype, lines, job.options.imatrix)

    return pin(recipe.swaps, base.types, realized, base)


def recipe_path(job: Job) -> Path:
    """Where the recipe's GGUF goes."""
    return job.options.out / f"{job.source.path.stem}-{job.base.ftype}-cerebellum.gguf"


def companions(path: Path) -> tuple[Path, Path]:
    """The override file and the model card of a written GGUF."""
    return path.with_suffix(".overrides.txt"), path.with_suffix(".card.md")


def write_recipe(job: Job, combination: Combination) -> Written:
    """The GGUF and its override file in the output folder. Raises `ProofError` and leaves no file where the proof fails."""
    recipe = combination.recipe
    overrides = make_overrides(job, recipe)
    path = recipe_path(job)
    unproven = path.with_name(f".{path.stem}.unproven.gguf")
    job.progress.note(f"writing {path.name}")
    try:
        job.backend.quantize(job.options.model, unproven, job.base.ftype, pairs(overrides), job.options.imatrix)
        check_types(job, recipe, unproven)
        scores = measure_file(job, unproven)
        in_memory = job.measurer(job.report).measure([recipe, BASE_TRIAL], job.report.chunks, "recipe in memory")
        check_equal(path, scores, in_memory[recipe.label])
        sha256 = sha256_file(unproven)
        overrides_path = companions(path)[0]
        write_text(overrides_path, format_overrides(overrides))
        unproven.replace(path)
    finally:
        unproven.unlink(missing_ok=True)
    return Written(
        path=path,
        overrides_path=overrides_path,
        source=job.source.path.name,
        ftype=job.base.ftype,
        twice=job.source.is_quantized,
        imatrix=job.options.imatrix.name if job.options.imatrix else None,
        sha256=sha256,
        file_bytes=path.stat().st_size,
        base_bytes=job.base.model.file_bytes,
        overrides=overrides,
        proof=prove(overrides, job.base.model),
        summary=summarize(scores),
        from_base=contrast(scores, in_memory[BASE_TRIAL.label], noise_floor=job.noise_floor),
        equal_chunks=len(scores),
    )


def check_types(job: Job, recipe: Trial, path: Path) -> None:
    """The written types are the planned ones, tensor by tensor. Raises `ProofError`."""
    wanted, got = recipe.types(job.base.model.types), gguf_file.read_model(path).types
    if wrong := [name for name in wanted if got.get(name) != wanted[name]]:
        raise ProofError(
            f"the written file stores {wrong[0]} as {got.get(wrong[0])}, the recipe says {wanted[wrong[0]]}"
        )


def measure_file(job: Job, path: Path) -> Scores:
    """The written file, opened as any other, on the report split; its own series, for a file is judged, not its simulation."""
    trial = Trial("written file", TrialKind.FILE)
    types = gguf_file.read_model(path).types
    series = job.series(job.report, {"file_sha256": sha256_file(path)})
    engine = job.backend.open(path, job.options.settings)
    try:
        store = job.reference_store(job.report)
        measurer = Measurer([engine], job.study, series, types, job.report.corpus, store, job.progress)
        return measurer.measure([trial], job.report.chunks, "written file, report text")[trial.label]
    finally:
        engine.close()


def check_equal(path: Path, file: Mapping[int, ChunkScore], memory: Mapping[int, ChunkScore]) -> None:
    """Every sum of every chunk is the same. Raises `ProofError` naming the first that isn't."""
    for chunk, score in file.items():
        if score != memory.get(chunk):
            raise ProofError(
                f"{path.name} is not what was measured in memory: chunk {chunk} has an NLL of {score.nll!r} in the file and "
                f"{getattr(memory.get(chunk), 'nll', None)!r} in memory; please report this"
            )


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not at all. Raises `OutputError`."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be what is wrong
            partial.unlink(missing_ok=True)
        raise OutputError(f"can't write {path}: {error.strerror or error}") from error
