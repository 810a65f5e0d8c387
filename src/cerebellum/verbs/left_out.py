"""Tensors that are better off without the importance matrix: found by another text's importance, raced, left out of the job's matrix.

A matrix that was made on one text can mislead on another. So the importance of the first half of the search text judges: where a
tensor's bytes, as the base has them, have a smaller error by it when they are made without the matrix, leaving the entry out is a
candidate. The base with the whole matrix and without these entries are measured on the other half of the search text, and the entries are
left out only where the whole interval says that this is better. What is left is a matrix of its own, a file beside the results that stock
llama-quantize takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum.domain import Trial, TrialKind
from cerebellum.figures import counted
from cerebellum.files import FileState
from cerebellum.gguf import model_file
from cerebellum.gguf.imatrix_write import LEGACY, read_importance, write_importance
from cerebellum.gguf.importance import Importance
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.overrides import pairs
from cerebellum.gguf.types import TYPES, needs_imatrix
from cerebellum.keys import content_key, partial_of, sha256_file
from cerebellum.llamacpp.protocol import CHUNK_TOKENS
from cerebellum.scoring.summary import kld_sums
from cerebellum.stats.intervals import Interval, mean_interval, paired_values
from cerebellum.stats.verdicts import MILLI
from cerebellum.study.runner import Scores, TrialRunner, series_facts
from cerebellum.verbs.base import base_ftype
from cerebellum.verbs.base_mix import mix_of
from cerebellum.verbs.captured import CapturedReference
from cerebellum.verbs.imatrix_entries import entry_fits
from cerebellum.verbs.inputs import Inputs, subject_of
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.workspace import Workspace

#: Chunks of the search text whose importance judges, and on which the bases are measured, at most.
JUDGING, MEASURED = 16, 32
#: Weights of a tensor that its errors are computed on, about.
SAMPLED = 1 << 15
#: Chance that entries are left out though that is no better.
ERROR_RATE = 0.05


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was found: ``worse`` tensors have a larger error with the matrix, ``tensors`` were left out. ``change``: KL divergence of the
    base without their entries less that with them, nats a token, on ``n_chunks``; of what was taken, or of the best try; None: none was
    worth one. ``whole_sha256``: of the matrix with all its entries."""

    worse: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    change: Interval | None = None
    n_chunks: int = 0
    whole_sha256: str = ""

    @property
    def sentence(self) -> str:
        """For the terminal and the report."""
        if self.change is None and self.tensors:
            return f"the importance matrix is left out for {counted(len(self.tensors), 'tensor')}, as where the anchors were measured"
        if self.change is None:
            return "no tensor is better off without the importance matrix, judged by the importance of the search text"
        low, high = self.change.low * MILLI, self.change.high * MILLI
        what = f"left out for {len(self.tensors)}" if self.tensors else "kept for all"
        which = counted(len(self.worse), "tensor has", "tensors have")
        return (
            f"{which} a smaller error without the importance matrix, judged by the importance of the search text; "
            f"it is {what}: without entries KL divergence changes by {self.change.estimate * MILLI:.4f} thousandths "
            f"[{low:.4f}, {high:.4f}] on {self.n_chunks} chunks of the search text"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        change = self.change and {"estimate": self.change.estimate, "low": self.change.low, "high": self.change.high}
        entry = {"worse": list(self.worse), "tensors": list(self.tensors), "change": change, "sentence": self.sentence}
        return {**entry, "whole_sha256": self.whole_sha256}


@dataclass(frozen=True, slots=True)
class _Job:
    """What the steps share. ``lines``: override lines of the base; ``sha256``: of the source."""

    workspace: Workspace
    inputs: Inputs
    reference: CapturedReference
    imatrix: Path
    ftype: str
    lines: tuple[tuple[str, str], ...]
    sha256: str

    def with_entries(self, left_out: Sequence[str], path: Path) -> Path:
        """The job's matrix without some entries, written at ``path``."""
        whole = read_importance(self.imatrix, CHUNK_TOKENS)
        entries = {name: sums for name, sums in whole.entries.items() if name not in left_out}
        origin = {"left_out_of": sha256_file(self.imatrix)}
        write_importance(replace(whole, entries=entries, origin=origin), path, partial_of(path))
        return path


def without_misled(
    options: SessionOptions, workspace: Workspace, inputs: Inputs, reference: CapturedReference
) -> tuple[Inputs, LeftOut | None]:
    """``inputs`` with the matrix that the job is to use; None where there is none, or nothing to leave out of. A second call finds what the
    first one found. Raises a `CerebellumError`."""
    imatrix, source = inputs.imatrix, inputs.source
    if imatrix is None or source.is_quantized or imatrix.suffix == LEGACY:
        return inputs, None
    ftype = base_ftype(source, options.base)
    lines = pairs(mix_of(options.mix, source, ftype).lines)
    job = _Job(workspace, inputs, reference, imatrix, ftype, lines, workspace.sha256(source.path))
    left_out = LeftOut((), options.left_out) if options.left_out is not None else _known(job)
    left_out = replace(left_out, whole_sha256=sha256_file(imatrix))
    workspace.progress.note(left_out.sentence)
    if not left_out.tensors:
        return inputs, left_out
    path = job.with_entries(left_out.tensors, workspace.out / f"{imatrix.stem}.left-out.gguf")
    workspace.study.watch(FileState.of(path))
    return replace(inputs, imatrix=path), left_out


def _known(job: _Job) -> LeftOut:
    """From the study, or found now and kept there."""
    study, search = job.workspace.study, job.reference.search
    facts = [
        job.sha256,
        sha256_file(job.imatrix),
        job.ftype,
        job.lines,
        job.workspace.build,
        search.corpus.tokens_sha256,
    ]
    name = f"left out, {content_key('of', [*facts, list(search.chunks), JUDGING, MEASURED, SAMPLED])}"
    if (known := study.fact(name)) is None:
        raced = _found(job)
        change = raced.change and [raced.change.estimate, raced.change.low, raced.change.high, raced.change.std_error]
        known = {"worse": raced.worse, "tensors": raced.tensors, "change": change, "n_chunks": raced.n_chunks}
        study.set_fact(name, known)
    n, change = known["n_chunks"], known["change"]
    interval = change and Interval(change[0], change[1], change[2], change[3], n, 0.95)
    return LeftOut(tuple(known["worse"]), tuple(known["tensors"]), interval, n)


def _found(job: _Job) -> LeftOut:
    chunks = job.reference.search.chunks
    judging, measured = chunks[: len(chunks) // 2][:JUDGING], chunks[len(chunks) // 2 :][:MEASURED]
    if len(judging) < 2:
        return LeftOut()
    judge = job.workspace.out / ".judge.imatrix.gguf"
    try:
        write_importance(_importance(job, judging), judge, partial_of(judge))
        worse = _worse(job, judge)
    finally:
        judge.unlink(missing_ok=True)
    tries = list(dict.fromkeys((worse, worse[: (len(worse) + 1) // 2]))) if worse else []
    if not tries:
        return LeftOut()
    start = _scores(job, (), measured)
    ways = []
    for tensors in tries:
        scores = _scores(job, tensors, measured)
        ours, before = kld_sums(scores), kld_sums(start)
        assert ours is not None and before is not None  # a job has a reference
        change = mean_interval(paired_values(ours, before), 1.0 - ERROR_RATE / len(tries))
        ways.append(LeftOut(worse, tensors, change, len(measured)))
    best = min(ways, key=lambda one: one.change.estimate if one.change else 0.0)
    return best if best.change is not None and best.change.high < 0.0 else replace(best, tensors=())


def _importance(job: _Job, chunks: Sequence[int]) -> Importance:
    """Of the source on some chunks of the search text."""
    workspace, corpus = job.workspace, job.reference.search.corpus
    workspace.progress.note("importance of the search text, to judge the importance matrix")
    with contextlib.closing(workspace.backend.open(job.inputs.source.path, workspace.settings)) as engine:
        last = list(engine.importance(corpus.chunks(chunks)))[-1].importance
    assert last is not None
    return replace(last, datasets=(corpus.name,))


def _worse(job: _Job, judge: Path) -> tuple[str, ...]:
    """Tensors whose bytes in the base have a smaller error when they are made without the matrix, by ``judge``; most misled first."""
    backend, source, imatrix = job.workspace.backend, job.inputs.source, job.imatrix
    types = backend.types(source.path, job.ftype, job.lines, imatrix)
    matrices = [model_file.load_imatrix(path) for path in (imatrix, judge)]
    wanted = [
        (t.name, (types[t.name],))
        for t in quantizable_tensors(source)
        if TYPES[types[t.name]].quantized
        and not needs_imatrix(types[t.name], t.name, job.ftype)
        and all(entry_fits(matrix, t) for matrix in matrices)
    ]
    with_it, without = (
        {
            e.tensor: e.errors[types[e.tensor]]
            for e in backend.weight_errors(source.path, path, wanted, SAMPLED, judge)
            if types[e.tensor] in e.errors
        }
        for path in (imatrix, None)
    )
    gains = {n: 1.0 - without[n] / with_it[n] for n in without.keys() & with_it.keys() if without[n] < with_it[n]}
    return tuple(sorted(gains, key=lambda name: (-gains[name], name)))


def _scores(job: _Job, left_out: Sequence[str], chunks: Sequence[int]) -> Scores:
    """The base, made without some entries of the matrix, on ``chunks``; the file is gone afterwards."""
    workspace, search = job.workspace, job.reference.search
    matrix, file = (workspace.out / f".left-out.{name}.gguf" for name in ("imatrix", "base"))
    trial = Trial("base", TrialKind.BASE)
    with contextlib.ExitStack() as stack:
        stack.callback(matrix.unlink, missing_ok=True)
        path = job.with_entries(left_out, matrix)
        types: Mapping[str, str] = workspace.backend.types(job.inputs.source.path, job.ftype, job.lines, path)
        facts = series_facts(
            subject_of(job.sha256, path), search, workspace.settings, workspace.build, job.reference.facts
        )
        series = workspace.study.series(search.name, {**facts, "left_out": list(left_out)})
        store = workspace.reference_store(search.corpus, job.reference.facts)
        runner = TrialRunner((), workspace.study, series, types, search.corpus, store, workspace.progress)
        if set(chunks) - runner.known(trial, chunks).keys():
            stack.callback(file.unlink, missing_ok=True)
            which = f"without {len(left_out)} of its entries" if left_out else "whole"
            workspace.progress.note(f"quantizing to {job.ftype} with the importance matrix {which}, to compare")
            workspace.backend.quantize(job.inputs.source.path, file, job.ftype, job.lines, path)
            engine = stack.enter_context(contextlib.closing(workspace.backend.open(file, workspace.settings)))
            replace(runner, engines=(engine,)).measure([trial], chunks, "base, entries left out")
        return runner.known(trial, chunks)
