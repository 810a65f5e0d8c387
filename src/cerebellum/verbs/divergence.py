"""`measure`: whole files against a reference on a text, every metric with its interval."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.domain import Trial, TrialKind
from cerebellum.errors import InputError
from cerebellum.gguf import model_file
from cerebellum.gguf.next_token import check_predicts
from cerebellum.llamacpp.protocol import Backend, Engine
from cerebellum.progress import Progress, Silent
from cerebellum.results import FilePair, Measured, Measurement
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.scoring.summary import contrast, mean_of, nll_sums, summarize
from cerebellum.stats.intervals import ChunkSums, paired_interval
from cerebellum.stats.pareto import pair_level
from cerebellum.study.runner import Scores, Split, TrialRunner, series_facts
from cerebellum.verbs.capture import capture_rows, note_older, reference_facts
from cerebellum.verbs.captured import check_vocabulary
from cerebellum.verbs.chat_hints import chat_hints
from cerebellum.verbs.options import MeasureOptions
from cerebellum.verbs.text import Text, corpus_of, fewer_chunks, odd_marks, read, split_facts, too_long
from cerebellum.verbs.tokenization import check_cut_alike, check_token_lists, cut_plainly
from cerebellum.verbs.workspace import Workspace, opened_workspace


def measure_files(options: MeasureOptions, backend: Backend, progress: Progress | None = None) -> Measurement:
    """Measure the files against the reference on the text.

    With ``options.out`` every measurement stays there and the same call goes on where it was stopped. Raises a `CerebellumError`.
    """
    progress = progress or Silent()
    inputs = read_inputs(options, progress)
    with opened_workspace(backend, options.settings, options.out, options.files, progress) as workspace:
        return measure_in(workspace, inputs)


@dataclass(frozen=True, slots=True)
class MeasureInputs:
    """What was read and checked before anything is opened. ``names``: what tables call the files; ``doubts``: what to warn of."""

    options: MeasureOptions
    names: tuple[str, ...]
    text: Text
    doubts: tuple[str, ...]


def read_inputs(options: MeasureOptions, progress: Progress) -> MeasureInputs:
    """The headers and the text, checked. Raises `InputError`, `ModelFileError` or `TextError`."""
    if not options.models:
        raise InputError("no model was given to measure")
    names = names_of(options.models)
    for path in (*options.models, options.reference):
        check_predicts(model_file.read_model(path))
    doubts = check_token_lists([options.reference, *options.models])
    return MeasureInputs(options, names, read_with_notes(options, progress), tuple(doubts))


def read_with_notes(options: MeasureOptions, progress: Progress) -> Text:
    """The text, with notes on what is odd about it for the reference. Raises `TextError`."""
    text, reference = read(options.text, options.chat), model_file.read_model(options.reference)
    odd_marks(options.text.name, text, progress)
    too_long(reference, options.settings.n_ctx, progress)
    chat_hints(reference, options.text, text, progress)
    return text


def bind_reference(workspace: Workspace, reference: Path) -> str:
    """The reference's sha256; the study is of this reference from now on. Raises `StudyError` where it is of another."""
    sha256 = workspace.sha256(reference)
    workspace.study.bind({"reference_sha256": sha256}, f"{reference.name} as a reference")
    note_older(workspace.study, workspace.progress)
    return sha256


def measure_in(workspace: Workspace, inputs: MeasureInputs) -> Measurement:
    """As `measure_files`, in an open study whose folder keeps the reference's rows."""
    options = inputs.options
    sha256 = bind_reference(workspace, options.reference)
    workspace.warn(inputs.doubts)
    measured: list[tuple[Split, ReferenceStore, Scores]] = []
    for path in options.models:
        measured.append(measure_file(workspace, path, sha256, inputs))
        first, this = measured[0][0].corpus, measured[-1][0].corpus
        if (this.tokens_sha256, this.bos) != (first.tokens_sha256, first.bos):
            raise InputError(
                f"{path.name} cuts {options.text.name} into other tokens than {options.models[0].name} does"
            )
    split, store, _ = measured[0]
    reference_nll = {chunk: store.nll(chunk) for chunk in split.chunks}
    scores = [each for *_, each in measured]
    files = [
        describe(workspace, path, name, each, reference_nll, scores[0])
        for path, name, each in zip(options.models, inputs.names, scores, strict=True)
    ]
    facts = facts_of(workspace, options, split, {"sha256": sha256, "k": store.k, "bits": store.bits})
    return Measurement(tuple(files), mean_of(reference_nll), facts, pairs_of(scores))


def names_of(models: Sequence[Path]) -> tuple[str, ...]:
    """What each file is called in tables: its name, with as many folders before it as tell it from the others.

    Raises `InputError` where one is given twice.
    """
    whole = [path.absolute().parts for path in models]
    if len(set(whole)) < len(whole):
        twice = next(path for path, parts in zip(models, whole, strict=True) if whole.count(parts) > 1)
        raise InputError(f"{twice} is given twice: name each file once")
    depth = 1
    while len({parts[-depth:] for parts in whole}) < len(whole):
        depth += 1
    return tuple("/".join(parts[-depth:]) for parts in whole)


def pairs_of(scores: Sequence[Scores]) -> tuple[FilePair, ...]:
    """Each two files, the later less the earlier."""
    level = pair_level(len(scores))
    numbers = itertools.combinations(range(len(scores)), 2)
    return tuple(FilePair(i, j, contrast(scores[j], scores[i], level=level)) for i, j in numbers)


def measure_file(
    workspace: Workspace, path: Path, reference_sha256: str, inputs: MeasureInputs
) -> tuple[Split, ReferenceStore, Scores]:
    """One file's scores on the text; the reference's rows are kept first where they are missing."""
    options, settings, progress = inputs.options, workspace.settings, workspace.progress
    subject = {"file_sha256": workspace.sha256(path)}  # before it is opened: what changes from now on is noticed
    with contextlib.closing(workspace.backend.open(path, settings)) as engine:
        workspace.warn(engine.warnings)
        corpus = corpus_of(engine, options.text.name, inputs.text, settings.n_ctx, progress)
        workspace.warn(fewer_chunks(corpus, options.n_chunks))
        split = Split("text", corpus, tuple(range(corpus.n_chunks))[: options.n_chunks])
        facts = reference_facts(reference_sha256, engine.n_vocab, settings.exact_reference)
        store = workspace.reference_store(corpus, facts)
        if not all(store.has(chunk) for chunk in split.chunks):
            capture_beside(workspace, engine, path, (split, store), inputs)
        series = workspace.study.series("text", series_facts(subject, split, settings, workspace.build, facts))
        trial, types = Trial(path.name, TrialKind.FILE), model_file.read_model(path).types
        runner = TrialRunner([engine], workspace.study, series, types, corpus, store, progress)
        return split, store, runner.measure([trial], split.chunks, path.name)[trial.label]


def capture_beside(
    workspace: Workspace, engine: Engine, path: Path, wanted: tuple[Split, ReferenceStore], inputs: MeasureInputs
) -> None:
    """Keep the reference's rows while ``engine`` has the file at ``path`` open. Raises `InputError` where the reference cuts the text into
    other tokens, `EngineError` where a row is no measurement."""
    reference = inputs.options.reference
    with contextlib.closing(workspace.backend.open(reference, workspace.settings)) as other:
        workspace.warn(other.warnings)
        check_vocabulary(reference, other.n_vocab, engine.n_vocab)
        check_cut_alike(cut_plainly(engine, inputs.text), path, cut_plainly(other, inputs.text), reference)
        capture_rows(other, [wanted], f"reference {reference.name}", workspace.progress)


def describe(
    workspace: Workspace, path: Path, name: str, scores: Scores, reference: ChunkSums, first: Scores
) -> Measured:
    """A file's figures from its scores; ``name`` is what tables call it."""
    model = model_file.read_model(path)
    return Measured(
        name=name,
        sha256=workspace.sha256(path),
        file_bytes=model.file_bytes,
        bits_per_weight=model.bits_per_weight,
        summary=summarize(scores),
        log_ratio=paired_interval(nll_sums(scores), reference),
        from_first=contrast(scores, first) if scores is not first else None,
    )


def facts_of(
    workspace: Workspace, options: MeasureOptions, split: Split, reference: Mapping[str, Any]
) -> dict[str, Any]:
    """On what and with what it was measured."""
    return {
        "reference": {"file": options.reference.name, **reference},
        "text": split_facts(split, options.text),
        "settings": workspace.settings.as_key(),
        "build": workspace.build,
        "warnings": list(workspace.warnings),
    }
