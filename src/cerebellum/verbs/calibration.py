"""The importance matrix of a session: made from a text apart from those that measure, checked before a sweep, and tested for its use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum import bundled
from cerebellum.allocation.plan import select_tensors
from cerebellum.errors import ModelFileError, TextError, TypeChoiceError
from cerebellum.files import make_folder
from cerebellum.gguf import model_file
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.types import FTYPES, NEEDS_IMATRIX, ftype_name, quant_type
from cerebellum.llamacpp.protocol import CHUNK_TOKENS, Backend, Engine
from cerebellum.progress import Progress
from cerebellum.scoring.summary import Contrast, as_json, contrast
from cerebellum.study.runner import TrialRunner, series_facts
from cerebellum.text.corpus import read_text
from cerebellum.text.corpus_overlap import N_WORDS, words_shared
from cerebellum.verbs.base import DEFAULT_BASE
from cerebellum.verbs.imatrix import KEY, ImatrixOptions, make_imatrix
from cerebellum.verbs.imatrix_entries import coverage_in
from cerebellum.verbs.inputs import subject_of
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL

FILE = "imatrix.gguf"


def wants_imatrix(options: SessionOptions, types: Sequence[str]) -> bool:
    """Whether one is to be made: asked for, or not refused and of use: the source is unquantized, and a calibration text was given or
    the base or a type to try needs one."""
    if options.imatrix is not None or options.make_imatrix is False:
        return False
    if options.make_imatrix:
        return True
    if model_file.read_model(options.model).is_quantized:
        return False
    needs = {FTYPES[ftype_name(options.base or DEFAULT_BASE)][1], *(quant_type(name).name for name in types)}
    return options.calibration is not None or bool(needs & NEEDS_IMATRIX)


def with_imatrix(options: SessionOptions, types: Sequence[str], backend: Backend, progress: Progress) -> SessionOptions:
    """``options`` with an importance matrix made in the job's folder where one is wanted; a second call finds it.

    Raises `TextError` where the calibration text shares a passage with a text that measures, and as `make_imatrix` does.
    """
    if not wants_imatrix(options, types):
        return options
    text = options.calibration or bundled.CALIBRATION_TEXT
    check_apart(text, [options.text, *([options.report_text] if options.report_text else [])])
    make_folder(options.out)
    out = options.out / FILE
    made = make_imatrix(
        ImatrixOptions(
            options.model,
            out,
            text,
            settings=replace(options.settings, n_ctx=CHUNK_TOKENS),
            chat=options.chat and text.suffix == ".jsonl",
            force=_is_ours(out),
            dataset=text.name,
        ),
        backend,
        progress,
    )
    progress.note(f"importance matrix: {made.n_entries} entries from {made.n_chunks} chunks of {text.name}")
    return replace(options, imatrix=out)


def check_apart(calibration: Path, measuring: Sequence[Path]) -> None:
    """Raises `TextError` where `N_WORDS` words in a row of a measuring text stand in the calibration text too."""
    own = read_text(calibration)
    for path in measuring:
        if n := words_shared(own, [read_text(path)]):
            raise TextError(
                f"{calibration.name} and {path.name} share {n} runs of {N_WORDS} words: what makes the importance matrix can't "
                "measure what comes of it; give another text with --calibration-text"
            )


def _is_ours(path: Path) -> bool:
    """Whether an earlier job made the file, so that it may be replaced."""
    with contextlib.suppress(ModelFileError):
        return KEY in read_importance(path, CHUNK_TOKENS).origin
    return False


def check_covered(
    options: SessionOptions,
    roles: Sequence[str],
    types: Sequence[str],
    blocks: Sequence[int] | None,
    progress: Progress,
) -> None:
    """Tell what the importance matrix leaves open. Raises `TypeChoiceError` where for want of it no chosen tensor can have a type.

    Where some can, the others are left out when the trials are planned.
    """
    if options.imatrix is None:
        return
    source = model_file.read_model(options.model)
    found = coverage_in(options.imatrix, source)
    for line in found.lines():
        progress.note(f"importance matrix: {line}")
    tensors = select_tensors(source, roles, blocks)
    for kind in dict.fromkeys(quant_type(name).name for name in types):
        if all(kind in found.cannot_have.get(tensor.name, ()) for tensor in tensors):
            raise TypeChoiceError(
                f"none of the {len(tensors)} chosen tensors can be {kind} with {options.imatrix.name}, which says too little of their "
                "inputs: make one on more text (cerebellum imatrix --add), or choose another type"
            )


@dataclass(frozen=True, slots=True)
class ImatrixEffect:
    """The base (of type ``ftype``) with the importance matrix less the one without, on ``n_chunks`` chunks of the search text."""

    ftype: str
    n_chunks: int
    contrast: Contrast

    @property
    def sentence(self) -> str:
        """The word and the figures."""
        judgement = self.contrast.judgement
        where = f"the importance matrix at {self.ftype}, on {self.n_chunks} chunks of the search text"
        return f"{where}: {judgement.verdict}. {judgement.reason}"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"ftype": self.ftype, "chunks": self.n_chunks, "sentence": self.sentence, **as_json(self.contrast)}


def imatrix_effect(session: Session) -> ImatrixEffect | None:
    """Whether the job's importance matrix helps its base: both are measured on the search text, the one without in a file that is gone
    afterwards. None where the job has none, or its base isn't made by it or can't be made without. Raises a `CerebellumError`."""
    options = session.options
    if options.imatrix is None or session.base.model.path == options.model:
        return None
    if FTYPES[session.base.ftype][1] in NEEDS_IMATRIX:
        return None
    plain = session.options.out / f".without-imatrix-{session.base.ftype}.gguf"
    chunks = session.search.chunks
    with_it = session.runner(session.search).measure([BASE_TRIAL], chunks, "base")[BASE_TRIAL.label]
    types = session.backend.types(options.model, session.base.ftype, (), None)
    subject = subject_of(session.source_sha256, None)
    facts = series_facts(subject, session.search, options.settings, session.build, session.reference_facts)
    series = session.study.series(session.search.name, {**facts, "imatrix": "none"})
    runner = TrialRunner(
        (),
        session.study,
        series,
        types,
        session.search.corpus,
        session.reference_store(session.search),
        session.progress,
    )
    if set(chunks) - runner.known(BASE_TRIAL, chunks).keys():
        runner = replace(runner, engines=(_opened(session, plain),))
        try:
            runner.measure([BASE_TRIAL], chunks, "base without importance matrix")
        finally:
            runner.engines[0].close()
            plain.unlink(missing_ok=True)
    without = runner.known(BASE_TRIAL, chunks)
    return ImatrixEffect(session.base.ftype, len(chunks), contrast(with_it, without, noise_floor=session.noise_floor))


def _opened(session: Session, path: Path) -> Engine:
    """The base made without the importance matrix, opened."""
    session.progress.note(
        f"quantizing {session.options.model.name} to {session.base.ftype} without the importance matrix, to compare"
    )
    session.backend.quantize(session.options.model, path, session.base.ftype, (), None)
    return session.backend.open(path, session.options.settings)
