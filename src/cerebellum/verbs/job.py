"""A job's ground: the base file, the texts, the reference, the study and the engines, opened in this order and closed together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cerebellum import bundled, gguf_file
from cerebellum.backend import Backend, Engine, Settings, Sources
from cerebellum.domain import Corpus, Model
from cerebellum.errors import InputError, OutputError, TextError
from cerebellum.keys import content_key, sha256_file
from cerebellum.measure import Measurer, Split, series_facts
from cerebellum.progress import Progress
from cerebellum.quants import ftype_name
from cerebellum.reference import ReferenceStore, default_k
from cerebellum.store import Study
from cerebellum.verbs.text import Text, corpus_of, read

DEFAULT_BASE = "Q3_K_M"


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a study is made of. ``base`` None: Q3_K_M of an unquantized model, the file itself of a quantized one.

    Without ``report_text`` the first half of ``text`` searches and the second half reports. ``n_chunks`` bounds each split.
    ``chat``: the texts are conversations, of which the assistant's turns are scored. ``reference`` None: the model file itself.
    ``command`` is noted in the study and the report.
    """

    model: Path
    out: Path
    text: Path = bundled.SEARCH_TEXT
    report_text: Path | None = None
    chat: bool = False
    base: str | None = None
    reference: Path | None = None
    imatrix: Path | None = None
    settings: Settings = field(default_factory=Settings)
    n_chunks: int | None = None
    workers: int = 1
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Base:
    """The file that a recipe starts from. ``twice``: its source was quantized already."""

    model: Model
    ftype: str
    twice: bool


@dataclass
class Job:
    """Everything opened. ``search`` chooses, ``report`` reports."""

    options: JobOptions
    backend: Backend
    progress: Progress
    study: Study
    source: Model
    source_sha256: str
    base: Base
    build: str
    reference_facts: dict[str, Any]
    search: Split
    report: Split
    engines: Sequence[Engine] = ()

    @property
    def subject(self) -> dict[str, Any]:
        return subject_of(self.source_sha256, self.options.imatrix)

    def series(self, split: Split, extra: dict[str, Any] | None = None) -> int:
        """The id of a split's series; ``extra`` facts make it another one."""
        facts = series_facts(self.subject, split, self.options.settings, self.build, self.reference_facts)
        return self.study.series(split.name, facts | (extra or {}))

    def measurer(self, split: Split) -> Measurer:
        """What measures trials of the base on a split."""
        types = self.base.model.types
        store = self.reference_store(split)
        return Measurer(self.engines, self.study, self.series(split), types, split.corpus, store, self.progress)

    def reference_store(self, split: Split) -> ReferenceStore:
        """Where the reference's rows of a split's text are."""
        facts = {"tokens": split.corpus.tokens_sha256, "bos": split.corpus.bos, **self.reference_facts}
        key = content_key("reference", {**facts, "settings": self.options.settings.as_key(), "build": self.build})
        return ReferenceStore(self.options.out / "reference" / key.partition(":")[2][:16], self.reference_facts["k"])


def subject_of(source_sha256: str, imatrix: Path | None) -> dict[str, Any]:
    """What a study is of: the weights everything is quantized from, and the importance matrix that shapes it."""
    return {"weights_sha256": source_sha256, "imatrix_sha256": sha256_file(imatrix) if imatrix else None}


@contextlib.contextmanager
def open_job(options: JobOptions, backend: Backend, progress: Progress) -> Iterator[Job]:
    """Prepare and open everything; a second call with the same options finds what the first one left."""
    source = gguf_file.read_model(options.model)
    text = read(options.text, options.chat)
    report_text = read(options.report_text, options.chat) if options.report_text else None
    imatrix = gguf_file.load_imatrix(options.imatrix) if options.imatrix else None
    make_folder(options.out)
    with contextlib.ExitStack() as stack:
        study = stack.enter_context(Study.open(options.out / "study.sqlite"))
        progress.note(f"reading {options.model.name} ({options.model.stat().st_size / 1e6:,.1f} MB)")
        sha256 = cached_sha256(study, options.model)
        study.bind(subject_of(sha256, options.imatrix), options.model.name)
        study.add_command(list(options.command))
        base = prepare_base(options, source, backend, study, progress)
        build = backend.id
        sources = Sources(options.model, options.imatrix)
        settings = shared_out(options.settings, options.workers)
        engines: list[Engine] = []
        for _ in range(options.workers):
            engines.append(backend.open(base.model.path, settings, sources))
            stack.callback(engines[-1].close)
        search, report = make_splits(engines[0], options, text, report_text, progress)
        refuse_calibration_text(search, report, imatrix)
        reference = reference_facts(options, study, sha256, engines[0].n_vocab)
        job = Job(
            options, backend, progress, study, source, sha256, base, build, reference, search, report, tuple(engines)
        )
        keep_reference(job)
        yield job


def shared_out(settings: Settings, workers: int) -> Settings:
    """The settings of one of several engines: the cores are divided among them unless threads were asked for."""
    if settings.n_threads is not None or workers < 2:
        return settings
    return replace(settings, n_threads=max(1, (os.cpu_count() or 1) // workers))


def make_folder(out: Path) -> None:
    """The output folder, made if missing. Raises `OutputError` where it can't be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"can't make the output folder {out}: {error.strerror or error}") from error
    if not os.access(out, os.W_OK):
        raise OutputError(f"can't write in the output folder {out}: permission denied")


def cached_sha256(study: Study, path: Path) -> str:
    """The file's sha256, computed anew only when its size or time has changed."""
    state = path.stat()
    mark = [str(path.resolve()), state.st_size, state.st_mtime_ns]
    name = f"sha256 of {path.resolve()}"
    known = study.fact(name)
    if known is None or known["mark"] != mark:
        known = {"mark": mark, "sha256": sha256_file(path)}
        study.set_fact(name, known)
    return str(known["sha256"])


def prepare_base(options: JobOptions, source: Model, backend: Backend, study: Study, progress: Progress) -> Base:
    """The base file: quantized from the source into the output folder once, or the source itself where it's quantized already."""
    if source.is_quantized:
        own = source.ftype or DEFAULT_BASE
        if options.base is None or ftype_name(options.base) == own:
            progress.note(
                f"{source.path.name} is quantized already ({own}): it is the base, and what a recipe changes is quantized twice"
            )
            return Base(source, own, True)
    ftype = ftype_name(options.base or DEFAULT_BASE)
    path = options.out / f"base-{ftype}.gguf"
    name, wanted = (
        f"base {ftype}",
        content_key("base", [subject_of(cached_sha256(study, source.path), options.imatrix), ftype, backend.id]),
    )
    if not path.exists() or study.fact(name) != {"key": wanted, "sha256": cached_sha256(study, path)}:
        progress.note(f"quantizing {source.path.name} to {ftype}")
        backend.quantize(source.path, path, ftype, (), options.imatrix)
        study.set_fact(name, {"key": wanted, "sha256": cached_sha256(study, path)})
    return Base(gguf_file.read_model(path), ftype, source.is_quantized)


def make_splits(
    engine: Engine, options: JobOptions, text: Text, report_text: Text | None, progress: Progress
) -> tuple[Split, Split]:
    """The chunks that search and those that report; never the same chunk. Raises `TextError` where there are too few."""
    n_ctx, limit = options.settings.n_ctx, options.n_chunks
    corpus = corpus_of(engine, options.text.name, text, n_ctx, progress)
    if options.report_text is None or report_text is None:
        half = corpus.n_chunks // 2
        if not half:
            raise TextError(
                f"{options.text.name} has one conversation to score; one must choose and another report: give more, or --report-text"
            )
        first, second = range(half), range(half, corpus.n_chunks)
        return _split("search", corpus, first, limit), _split("report", corpus, second, limit)
    other = corpus_of(engine, options.report_text.name, report_text, n_ctx, progress)
    if other.tokens_sha256 == corpus.tokens_sha256:
        raise TextError(
            f"{options.text.name} and {options.report_text.name} are the same text; the report needs another"
        )
    return (
        _split("search", corpus, range(corpus.n_chunks), limit),
        _split("report", other, range(other.n_chunks), limit),
    )


def _split(name: str, corpus: Corpus, chunks: range, limit: int | None) -> Split:
    return Split(name, corpus, tuple(chunks[:limit]))


def refuse_calibration_text(search: Split, report: Split, imatrix: gguf_file.Imatrix | None) -> None:
    """Text that made the importance matrix is for neither split, as far as its file says by name. Raises `TextError`."""
    if imatrix is None:
        return
    made_from = {Path(name).name for name in imatrix.datasets}
    for split in (search, report):
        if split.corpus.name in made_from:
            raise TextError(
                f"{split.corpus.name} made the importance matrix, so it can't be the {split.name} text; give another"
            )


def reference_facts(options: JobOptions, study: Study, source_sha256: str, n_vocab: int) -> dict[str, Any]:
    """What identifies the reference's rows: the file's hash and how much of each row is kept."""
    sha256 = cached_sha256(study, options.reference) if options.reference else source_sha256
    return {"sha256": sha256, "k": default_k(n_vocab)}


def keep_reference(job: Job) -> None:
    """Score the reference once on both splits and keep its rows; done chunks are not done again."""
    missing = [
        (split, [c for c in split.chunks if not job.reference_store(split).has(c)])
        for split in (job.search, job.report)
    ]
    total = sum(len(chunks) for _, chunks in missing)
    if not total:
        return
    path = job.options.reference or job.options.model
    engine = job.backend.open(path, job.options.settings)
    try:
        if engine.n_vocab != job.engines[0].n_vocab:
            raise InputError(
                f"{path.name} has {engine.n_vocab} tokens, the model {job.engines[0].n_vocab}: not a reference for it"
            )
        job.progress.begin(f"reference {path.name}", total)
        for split, chunks in missing:
            for chunk in engine.capture(split.corpus.chunks(chunks), job.reference_store(split)):
                job.progress.step(f"{split.name} {chunk}")
        job.progress.end()
    finally:
        engine.close()
