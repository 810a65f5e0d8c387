"""`measure`: whole files against a reference on a text, every metric with its interval."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum.domain import Trial, TrialKind
from cerebellum.errors import InputError
from cerebellum.files import STUDY_FILES, make_folder, refuse_inputs_in
from cerebellum.gguf import model_file
from cerebellum.gguf.next_token import check_predicts
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress, Silent
from cerebellum.results import FilePair, Measured, Measurement
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.scoring.summary import contrast, mean_of, nll_sums, summarize
from cerebellum.stats.intervals import ChunkSums, paired_interval
from cerebellum.stats.pareto import pair_level
from cerebellum.study.hashes import cached_sha256
from cerebellum.study.runner import Scores, Split, TrialRunner, series_facts
from cerebellum.study.store import Study
from cerebellum.verbs.capture import capture_rows, note_older, reference_facts, store_for
from cerebellum.verbs.captured import check_vocabulary
from cerebellum.verbs.chat_hints import chat_hints
from cerebellum.verbs.text import Text, corpus_of, fewer_chunks, odd_marks, read, split_facts, too_long
from cerebellum.verbs.tokenization import check_cut_alike, check_token_lists, cut_plainly
from cerebellum.verbs.warned import tell


def measure_files(
    backend: Backend,
    models: Sequence[Path],
    reference: Path,
    text: Path,
    settings: Settings,
    n_chunks: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
    chat: bool = False,
) -> Measurement:
    """Measure ``models`` against ``reference`` on the first ``n_chunks`` chunks of ``text`` (all by default).

    With ``out`` every measurement stays there and the same call goes on where it was stopped. Raises a `CerebellumError`.
    """
    progress = progress or Silent()
    with opened_study(out, (*models, reference, text)) as (folder, study):
        return measure_in(backend, study, folder, models, reference, text, settings, n_chunks, progress, chat)


def measure_in(
    backend: Backend,
    study: Study,
    folder: Path,
    models: Sequence[Path],
    reference: Path,
    text: Path,
    settings: Settings,
    n_chunks: int | None,
    progress: Progress,
    chat: bool,
) -> Measurement:
    """As `measure_files`, in an open study whose ``folder`` keeps the reference's rows."""
    if not models:
        raise InputError("no model was given to measure")
    names = names_of(models)
    for path in (*models, reference):
        check_predicts(model_file.read_model(path))
    rules = check_token_lists([reference, *models])
    content = read(text, chat)
    odd_marks(text.name, content, progress)
    too_long(model_file.read_model(reference), settings.n_ctx, progress)
    chat_hints(model_file.read_model(reference), text, content, progress)
    sha256 = cached_sha256(study, reference)
    study.bind({"reference_sha256": sha256}, f"{reference.name} as a reference")
    note_older(study, progress)
    context = MeasureContext(backend, study, folder, reference, sha256, settings, backend.id, progress)
    tell(rules, progress, context.warnings)
    found: list[tuple[Split, ReferenceStore, Scores]] = []
    for path in models:
        found.append(measure_file(context, path, text.name, content, n_chunks))
        own, others = found[0][0].corpus, found[-1][0].corpus
        if (own.tokens_sha256, own.bos) != (others.tokens_sha256, others.bos):
            raise InputError(f"{path.name} cuts {text.name} into other tokens than {models[0].name} does")
    split, store, _ = found[0]
    reference_nll = {chunk: store.nll(chunk) for chunk in split.chunks}
    scores = [each for *_, each in found]
    files = [
        describe(study, path, name, each, reference_nll, scores[0])
        for path, name, each in zip(models, names, scores, strict=True)
    ]
    facts = facts_of(context, split, store, text)
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


@dataclass(frozen=True, slots=True)
class MeasureContext:
    """What all files of a measurement share."""

    backend: Backend
    study: Study
    folder: Path
    reference: Path
    reference_sha256: str
    settings: Settings
    build: str
    progress: Progress
    warnings: list[str] = field(default_factory=list)


def measure_file(
    context: MeasureContext, path: Path, name: str, content: Text, n_chunks: int | None
) -> tuple[Split, ReferenceStore, Scores]:
    """One file's scores on the text; the reference's rows are kept first where they are missing."""
    subject = {
        "file_sha256": cached_sha256(context.study, path)
    }  # before it is opened: what changes from now on is noticed
    engine = context.backend.open(path, context.settings)
    try:
        tell(engine.warnings, context.progress, context.warnings)
        corpus = corpus_of(engine, name, content, context.settings.n_ctx, context.progress)
        tell(fewer_chunks(corpus, n_chunks), context.progress, context.warnings)
        split = Split("text", corpus, tuple(range(corpus.n_chunks))[:n_chunks])
        facts = reference_facts(context.reference_sha256, engine.n_vocab, context.settings.exact_reference)
        store = store_for(context.folder, corpus, facts, context.settings, context.build, context.study.watched)
        if not all(store.has(chunk) for chunk in split.chunks):
            with contextlib.closing(context.backend.open(context.reference, context.settings)) as other:
                tell(other.warnings, context.progress, context.warnings)
                check_vocabulary(context.reference, other.n_vocab, engine.n_vocab)
                cuts = [cut_plainly(each, content) for each in (engine, other)]
                check_cut_alike(cuts[0], path, cuts[1], context.reference)
                capture_rows(other, [(split, store)], f"reference {context.reference.name}", context.progress)
        series = context.study.series("text", series_facts(subject, split, context.settings, context.build, facts))
        trial, types = Trial(path.name, TrialKind.FILE), model_file.read_model(path).types
        runner = TrialRunner([engine], context.study, series, types, corpus, store, context.progress)
        return split, store, runner.measure([trial], split.chunks, path.name)[trial.label]
    finally:
        engine.close()


def describe(study: Study, path: Path, name: str, scores: Scores, reference: ChunkSums, first: Scores) -> Measured:
    """A file's figures from its scores; ``name`` is what tables call it."""
    model = model_file.read_model(path)
    return Measured(
        name=name,
        sha256=cached_sha256(study, path),
        file_bytes=model.file_bytes,
        bits_per_weight=model.bits_per_weight,
        summary=summarize(scores),
        log_ratio=paired_interval(nll_sums(scores), reference),
        from_first=contrast(scores, first) if scores is not first else None,
    )


def facts_of(context: MeasureContext, split: Split, store: ReferenceStore, text: Path) -> dict[str, Any]:
    """On what and with what it was measured."""
    return {
        "reference": {
            "file": context.reference.name,
            "sha256": context.reference_sha256,
            "k": store.k,
            "bits": store.bits,
        },
        "text": split_facts(split, text),
        "settings": context.settings.as_key(),
        "build": context.build,
        "warnings": list(context.warnings),
    }


@contextlib.contextmanager
def opened_study(
    out: Path | None, inputs: Iterable[Path | None], names: Sequence[str] = STUDY_FILES
) -> Iterator[tuple[Path, Study]]:
    """(folder, study) in ``out``, or in a folder that is gone afterwards. Raises `OutputError` where one of ``inputs`` lies in ``out``
    under one of the ``names`` that are written."""
    with contextlib.ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cerebellum-")))
        else:
            make_folder(out)
            refuse_inputs_in(out, inputs, names)
            folder = out
        yield folder, stack.enter_context(Study.open(folder / "study.sqlite"))
