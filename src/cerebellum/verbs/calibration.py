"""The importance matrix of a session: made from a text apart from those that measure, checked before a sweep, and tested for its use."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum import bundled
from cerebellum.allocation.plan import select_tensors
from cerebellum.domain import Model
from cerebellum.errors import EngineError, ModelFileError, TypeChoiceError
from cerebellum.figures import counted
from cerebellum.files import JOB_FILES, make_folder, refuse_inputs_in
from cerebellum.gguf import model_file
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.overrides import pairs
from cerebellum.gguf.types import NEEDS_IMATRIX, any_needs_imatrix, ftype_name, quant_type
from cerebellum.llamacpp.protocol import CHUNK_TOKENS, Backend, Engine
from cerebellum.progress import Progress
from cerebellum.scoring.summary import Contrast, as_json, contrast
from cerebellum.study.runner import TrialRunner, series_facts
from cerebellum.verbs.base import DEFAULT_BASE
from cerebellum.verbs.base_mix import mix_of
from cerebellum.verbs.calibration_texts import check_apart
from cerebellum.verbs.imatrix import KEY, ImatrixOptions, make_imatrix
from cerebellum.verbs.imatrix_entries import coverage_in
from cerebellum.verbs.inputs import subject_of
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL

FILE = "imatrix.gguf"


def wants_imatrix(options: SessionOptions, types: Sequence[str], backend: Backend) -> bool:
    """Whether one is to be made: asked for, or not refused and of use: the source is unquantized, and a calibration text was given or
    a type to try or one that the base really has (by a dry run) needs one."""
    if options.imatrix is not None or options.make_imatrix is False:
        return False
    if options.make_imatrix:
        return True
    source = model_file.read_model(options.model)
    if source.is_quantized:
        return False
    if options.calibration is not None or {quant_type(name).name for name in types} & NEEDS_IMATRIX:
        return True
    base = ftype_name(options.base or DEFAULT_BASE)
    lines = mix_of(options.mix, source, base).lines
    return any_needs_imatrix(backend.types(options.model, base, pairs(lines), None), base)


def with_imatrix(options: SessionOptions, types: Sequence[str], backend: Backend, progress: Progress) -> SessionOptions:
    """``options`` with an importance matrix made in the job's folder where one is wanted; a second call finds it.

    Raises `TextError` where the calibration text shares a passage with a text that measures, and as `make_imatrix` does.
    """
    refuse_inputs_in(options.out, options.files, JOB_FILES)  # before anything is written there
    if not wants_imatrix(options, types, backend):
        return options
    text = check_calibration(options)
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
            in_job=True,
        ),
        backend,
        progress,
    )
    progress.note(f"importance matrix: {made.n_entries} entries from {counted(made.n_chunks, 'chunk')} of {text.name}")
    return replace(options, imatrix=out)


def check_calibration(options: SessionOptions) -> Path:
    """The text that an importance matrix would be made on. Raises `TextError` where it shares a passage with one that measures."""
    text = options.calibration or bundled.CALIBRATION_TEXT
    check_apart(text, (options.text, options.report_text))
    return text


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
    coverage = coverage_in(options.imatrix, source)
    for line in coverage.lines():
        progress.note(f"importance matrix: {line}")
    tensors = select_tensors(source, roles, blocks)
    for kind in dict.fromkeys(quant_type(name).name for name in types):
        if all(kind in coverage.cannot_have.get(tensor.name, ()) for tensor in tensors):
            raise TypeChoiceError(
                f"none of the {len(tensors)} chosen tensors can be {kind} with {options.imatrix.name}, which says too little of their "
                "inputs: make one on more text (cerebellum imatrix --add), or choose another type"
            )


def is_comparable(source: Model, base: str | None, types: Mapping[str, str]) -> bool:
    """Whether the base with an importance matrix has one without it to be compared with, as `imatrix_effect` does: it is made here, and
    none of its ``types`` needs the matrix. ``base``: the file type asked for; None: a quantized source is its own base."""
    return not (source.is_quantized and base is None) and not any_needs_imatrix(types, base or DEFAULT_BASE)


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
    afterwards. None where the job has none, its base isn't made by it or can't be made without, or the one without can't be measured,
    which is told: the job needs it for nothing else. Raises a `CerebellumError`."""
    options = session.options
    if options.imatrix is None or session.base.model.path == options.model:
        return None
    lines = pairs(session.base.mix.lines)
    types = session.backend.types(options.model, session.base.ftype, lines, None)
    if any_needs_imatrix(types, session.base.ftype):
        return None
    plain = session.options.out / f".without-imatrix-{session.base.ftype}.gguf"
    chunks = session.search.chunks
    with_it = session.runner(session.search).measure([BASE_TRIAL], chunks, "base")[BASE_TRIAL.label]
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
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(plain.unlink, missing_ok=True)
                runner = replace(runner, engines=(stack.enter_context(contextlib.closing(_opened(session, plain))),))
                runner.measure([BASE_TRIAL], chunks, "base without importance matrix")
        except EngineError as error:
            session.progress.note(f"warning: whether the importance matrix helps can't be told: without it {error}")
            return None
    without = runner.known(BASE_TRIAL, chunks)
    return ImatrixEffect(session.base.ftype, len(chunks), contrast(with_it, without, noise_floor=session.noise_floor))


def _opened(session: Session, path: Path) -> Engine:
    """The base made without the importance matrix, of the same lines, opened."""
    session.progress.note(
        f"quantizing {session.options.model.name} to {session.base.ftype} without the importance matrix, to compare"
    )
    lines = pairs(session.base.mix.lines)
    session.backend.quantize(session.options.model, path, session.base.ftype, lines, None)
    return session.backend.open(path, session.options.settings)
