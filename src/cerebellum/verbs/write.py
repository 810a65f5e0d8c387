"""Write the recipe's file and prove it: types as planned, sums equal to those measured in memory, only then its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cerebellum.domain import ChunkScore, Model, Trial, TrialKind
from cerebellum.errors import ProofError
from cerebellum.files import companions, write_text
from cerebellum.gguf import model_file
from cerebellum.gguf.overrides import Overrides, format_overrides, pairs, pin, prove
from cerebellum.keys import sha256_file, stem_of
from cerebellum.results import Written
from cerebellum.scoring.summary import contrast, summarize
from cerebellum.study.runner import Scores, TrialRunner
from cerebellum.verbs.base import base_ftype
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.session import Session
from cerebellum.verbs.splitting import publish_model, split, unproven
from cerebellum.verbs.sweep import BASE_TRIAL

#: The override file of a recipe of which no file is written.
NOT_WRITTEN = "not-written.overrides.txt"


def make_overrides(session: Session, recipe: Trial) -> Overrides:
    """The lines under which llama.cpp stores exactly the recipe: its swaps, and pins where its mix would shift."""
    base = session.base.model

    def realized(lines: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
        return session.backend.types(session.options.model, session.base.ftype, lines, session.options.imatrix)

    return pin(recipe.tensor_types, base.types, realized, base)


def leave_overrides(session: Session, recipe: Trial) -> Path:
    """The override file of a recipe of which no file is written, in the output folder."""
    path = session.options.out / NOT_WRITTEN
    write_text(path, format_overrides(make_overrides(session, recipe)))
    return path


def recipe_path(options: SessionOptions, source: Model) -> Path:
    """Where the GGUF of a choice goes."""
    return options.out / f"{stem_of(source.path)}-{base_ftype(source, options.base)}-cerebellum.gguf"


#: Writes keys into a file that was just written, before it is measured.
Stamp = Callable[[Path], None]


def write_trial(
    session: Session, recipe: Trial, name: str | None = None, stamp: Stamp | None = None, size: SplitSize | None = None
) -> Written:
    """The GGUF, called ``name``, and its override file in the output folder; ``stamp`` puts keys into its header. ``size``: what it must
    have (None: any).

    Raises `ProofError` and leaves no file where the proof fails: whatever stands under the final name has passed every check."""
    overrides = make_overrides(session, recipe)
    path = session.options.out / name if name else recipe_path(session.options, session.source)
    session.progress.note(f"writing {path.name}")
    with unproven(path) as hidden:
        session.backend.quantize(
            session.options.model, hidden, session.base.ftype, pairs(overrides), session.options.imatrix
        )
        if stamp is not None:
            stamp(hidden)
        n_joined = hidden.stat().st_size
        first = split(hidden, session.options.split)
        check_types(session, recipe, first)
        sha256, n_bytes = model_file.sha256_model(first), model_file.read_model(first).file_bytes
        if size is not None:
            check_size(n_joined, n_bytes, size)
        scores = measure_file(session, first)
        in_memory = session.runner(session.report).measure(
            [recipe, BASE_TRIAL], session.report.chunks, "recipe in memory"
        )
        check_equal(path, scores, in_memory[recipe.label])
        overrides_path = companions(path)[0]
        write_text(overrides_path, format_overrides(overrides))
        path = publish_model(first, path)
    paths = model_file.model_files(path)
    return Written(
        path=path,
        overrides_path=overrides_path,
        source=session.source.path.name,
        ftype=session.base.ftype,
        twice=session.source.is_quantized,
        imatrix=session.options.imatrix.name if session.options.imatrix else None,
        sha256=sha256,
        file_bytes=n_bytes,
        base_bytes=session.base.model.file_bytes,
        overrides=overrides,
        proof=prove(overrides, session.base.model),
        summary=summarize(scores),
        from_base=contrast(scores, in_memory[BASE_TRIAL.label], noise_floor=session.noise_floor),
        equal_chunks=len(scores),
        split_bytes=n_bytes - n_joined,
        files=tuple((p.name, p.stat().st_size, sha256_file(p) if len(paths) > 1 else sha256) for p in paths),
    )


@dataclass(frozen=True, slots=True)
class SplitSize:
    """Bytes that a file was planned to have before it is split, and that all its files may have at most."""

    planned: int
    limit: int


def check_size(n_joined: int, n_bytes: int, size: SplitSize) -> None:
    """The file (before it was split) has the planned bytes, and what is written is within the limit. Raises `ProofError`."""
    if n_joined != size.planned or n_bytes > size.limit:
        raise ProofError(
            f"the file has {n_bytes:,} bytes, {size.planned:,} were planned and {size.limit:,} allowed; please report this"
        )


def check_types(session: Session, recipe: Trial, path: Path) -> None:
    """The written types are the planned ones, tensor by tensor. Raises `ProofError`."""
    wanted, got = recipe.types(session.base.model.types), model_file.read_model(path).types
    if wrong := [name for name in wanted if got.get(name) != wanted[name]]:
        raise ProofError(
            f"the written file stores {wrong[0]} as {got.get(wrong[0])}, the recipe says {wanted[wrong[0]]}"
        )


def measure_file(session: Session, path: Path) -> Scores:
    """The written file, opened as any other, on the report split; its own series, for a file is judged, not its simulation."""
    trial = Trial("written file", TrialKind.FILE)
    types = model_file.read_model(path).types
    series = session.series(session.report, {"file_sha256": model_file.sha256_model(path)})
    engine = session.backend.open(path, session.options.settings)
    try:
        store = session.reference_store(session.report)
        runner = TrialRunner([engine], session.study, series, types, session.report.corpus, store, session.progress)
        return runner.measure([trial], session.report.chunks, "written file, report text")[trial.label]
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
