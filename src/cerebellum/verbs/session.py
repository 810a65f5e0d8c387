"""A job's ground: the base file, the texts, the reference, the study and the engines, opened in this order and closed together."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cerebellum import bundled
from cerebellum.cores import n_cores
from cerebellum.domain import Corpus, Model
from cerebellum.errors import InputError, ModelFileError, OutputError, TextError
from cerebellum.files import make_folder
from cerebellum.gguf import model_file
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.types import ftype_name
from cerebellum.keys import content_key, sha256_file
from cerebellum.llamacpp.protocol import Backend, Engine, Settings, Sources
from cerebellum.progress import Progress
from cerebellum.results import Base
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.runner import Split, TrialRunner, series_facts
from cerebellum.study.store import Study
from cerebellum.text.corpus import read_text
from cerebellum.text.overlap import N_GRAM, Overlap, overlap
from cerebellum.verbs.capture import capture_rows, reference_facts, store_for
from cerebellum.verbs.noise import NoiseContext, measure_reference
from cerebellum.verbs.text import Text, corpus_of, read, too_long

DEFAULT_BASE = "Q3_K_M"
#: The shortest chunks that a text is cut into: any text that is worth comparing has two of them.
LEAST_CTX = 8


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a study is made of. ``base`` None: Q3_K_M of an unquantized model, the file itself of a quantized one.

    Without ``report_text`` the first half of ``text`` searches and the second half reports. ``n_chunks`` bounds each split.
    ``chat``: the texts are conversations, of which the assistant's turns are scored. ``reference`` None: the model file itself.
    ``command`` is noted in the study and the report. ``retry_failed``: trials that failed before are tried again.
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
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class CapturedReference:
    """The reference on a job's texts: ``search`` chooses, ``report`` reports, ``facts`` identify its rows. ``noise``: what harmless changes
    do to it, nats a token by change, and ``noise_context`` is what that was measured on."""

    search: Split
    report: Split
    facts: dict[str, Any]
    noise_context: NoiseContext
    noise: Mapping[str, float]


@dataclass
class Session:
    """Everything opened. ``noise_floor``: nats a token, as `verbs.noise` measures it."""

    options: SessionOptions
    backend: Backend
    progress: Progress
    study: Study
    source: Model
    source_sha256: str
    base: Base
    build: str
    reference: CapturedReference
    engines: Sequence[Engine]
    noise_floor: float = 0.0
    warnings: list[str] = field(default_factory=list)

    @property
    def search(self) -> Split:
        """The chunks that choose."""
        return self.reference.search

    @property
    def report(self) -> Split:
        """The chunks that report."""
        return self.reference.report

    @property
    def reference_facts(self) -> dict[str, Any]:
        """What identifies the reference's rows."""
        return self.reference.facts

    @property
    def subject(self) -> dict[str, Any]:
        return subject_of(self.source_sha256, self.options.imatrix)

    def series(self, split: Split, extra: dict[str, Any] | None = None) -> int:
        """The id of a split's series; ``extra`` facts make it another one."""
        facts = series_facts(self.subject, split, self.options.settings, self.build, self.reference_facts)
        return self.study.series(split.name, facts | (extra or {}))

    def runner(self, split: Split) -> TrialRunner:
        """What measures trials of the base on a split."""
        types = self.base.model.types
        store = self.reference_store(split)
        return TrialRunner(self.engines, self.study, self.series(split), types, split.corpus, store, self.progress)

    def reference_store(self, split: Split) -> ReferenceStore:
        """Where the reference's rows of a split's text are."""
        options = self.options
        return store_for(options.out, split.corpus, self.reference_facts, options.settings, self.build)

    def close_engines(self) -> None:
        """Let the engines go before the job ends: what comes now opens files of its own."""
        for engine in self.engines:
            engine.close()
        self.engines = ()

    @property
    def reference_path(self) -> Path:
        """The file that KL divergence is taken to."""
        return self.options.reference or self.options.model


def subject_of(source_sha256: str, imatrix: Path | None) -> dict[str, Any]:
    """What a study is of: the weights everything is quantized from, and the importance matrix that shapes it."""
    return {"weights_sha256": source_sha256, "imatrix_sha256": sha256_file(imatrix) if imatrix else None}


@contextlib.contextmanager
def open_session(
    options: SessionOptions, backend: Backend, progress: Progress, *, reports: bool = True
) -> Iterator[Session]:
    """Prepare and open everything; a second call with the same options finds what the first one left.

    Not ``reports``: the report text is checked, but the reference isn't computed on it.

    What costs nothing is checked first, then the texts, then the reference is measured, and the base quantized last.
    """
    source = model_file.read_model(options.model)
    own = own_base(options, source)
    text = read(options.text, options.chat)
    report_text = read(options.report_text, options.chat) if options.report_text else None
    check_imatrix(options, source)
    if options.reference:
        model_file.read_model(options.reference)
    make_folder(options.out)
    with contextlib.ExitStack() as stack:
        study = stack.enter_context(Study.open(options.out / "study.sqlite"))
        progress.note(f"reading {options.model.name} ({options.model.stat().st_size / 1e6:,.1f} MB)")
        sha256 = cached_sha256(study, options.model)
        subject = subject_of(sha256, options.imatrix)
        study.bind(subject, options.model.name)
        study.add_command(list(options.command))
        if options.retry_failed and (n := study.retry_failures()):
            progress.note(f"trying {n} failed {'trial' if n == 1 else 'trials'} again")
        build = backend.id
        warnings = too_long(source, options.settings.n_ctx, progress)
        captured = capture_reference(options, backend, build, study, subject, (text, report_text), progress, reports)
        base = own or prepare_base(options, source, backend, study, progress)
        sources = Sources(options.model, options.imatrix)
        settings = shared_out(options.settings, options.workers)
        engines: list[Engine] = []
        for _ in range(options.workers):
            engines.append(backend.open(base.model.path, settings, sources))
            stack.callback(engines[-1].close)
        session = Session(options, backend, progress, study, source, sha256, base, build, captured, engines)
        if base.twice:
            progress.note(f"{source.path.name} is quantized already, so what a recipe changes is quantized twice")
        session.warnings += warnings
        yield session


def capture_reference(
    options: SessionOptions,
    backend: Backend,
    build: str,
    study: Study,
    subject: Mapping[str, Any],
    texts: tuple[Text, Text | None],
    progress: Progress,
    reports: bool,
) -> CapturedReference:
    """All that the reference is opened for, so that it is opened once: the texts cut, its rows kept, its share of the noise floor.

    Where it isn't the model itself, the model cuts the texts.
    """
    path, settings = options.reference or options.model, options.settings
    with contextlib.ExitStack() as opened:
        engine = backend.open(options.model, settings, Sources(options.model))
        opened.callback(engine.close)
        search, report = make_splits(engine, options, *texts, progress)
        check_imatrix_text(engine, options, (search, report))
        if options.reference is not None:
            n_vocab = engine.n_vocab
            opened.close()
            engine = backend.open(options.reference, settings, Sources(options.reference))
            opened.callback(engine.close)
            check_vocabulary(options.reference, engine.n_vocab, n_vocab)
        facts = reference_facts(cached_sha256(study, path), engine.n_vocab)
        splits = (search, report) if reports else (search,)
        wanted = [(split, store_for(options.out, split.corpus, facts, settings, build)) for split in splits]
        capture_rows(engine, wanted, f"reference {path.name}", progress)
        noise_context = NoiseContext(
            study, search, series_facts(subject, search, settings, build, facts), wanted[0][1], settings, progress
        )
        noise = measure_reference(noise_context, engine, model_file.read_model(path))
    return CapturedReference(search, report, facts, noise_context, noise)


def own_base(options: SessionOptions, source: Model) -> Base | None:
    """The source itself where it is quantized already and no other base is asked for. Raises `InputError` where its type is unknown."""
    if not source.is_quantized:
        return None
    if options.base is None:
        if source.ftype is None:
            raise InputError(
                f"{source.path.name} is quantized, but doesn't say to which file type; name one with --base"
            )
        return Base(source, source.ftype, True)
    return Base(source, source.ftype, True) if ftype_name(options.base) == source.ftype else None


def check_imatrix(options: SessionOptions, source: Model) -> None:
    """The importance matrix is of this model, and was not made on a text that measures. Raises `ModelFileError` or `TextError`."""
    if options.imatrix is None:
        return
    imatrix = model_file.load_imatrix(options.imatrix)
    check_imatrix_fits(imatrix, options.imatrix, source)
    texts = {path: sha256_file(path) for path in (options.text, options.report_text) if path is not None}
    for name in imatrix.datasets:
        made_from = Path(name)
        found = next((path for path in (made_from, options.imatrix.parent / made_from.name) if path.is_file()), None)
        sha256 = sha256_file(found) if found else None
        for path, own in texts.items():
            if path.name == made_from.name or own == sha256:
                raise TextError(
                    f"{path.name} made the importance matrix, so it can't measure what comes of it; give another text"
                )


def check_imatrix_fits(imatrix: model_file.Imatrix, path: Path, source: Model) -> None:
    """Some tensor of the model has an entry. Raises `ModelFileError`."""
    if not {t.name for t in quantizable_tensors(source)} & set(imatrix.entries):
        raise ModelFileError(
            f"the importance matrix {path} has no entry for any tensor of {source.path.name}; it was made for another model"
        )


def check_vocabulary(reference: Path, n_reference: int, n_vocab: int) -> None:
    """Raises `InputError` where the reference has another number of tokens than the model."""
    if n_reference != n_vocab:
        raise InputError(f"{reference.name} has {n_reference} tokens, the model {n_vocab}: not a reference for it")


def shared_out(settings: Settings, workers: int) -> Settings:
    """The settings of one of ``workers`` engines: memory for replays is divided among them, and the cores unless threads were asked for."""
    cores = n_cores()
    n_threads = settings.n_threads or max(1, cores // workers)
    return replace(
        settings,
        n_threads=n_threads,
        has_idle_cores=2 * workers * n_threads <= cores,
        replay_bytes=settings.replay_bytes // workers,
    )


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


def prepare_base(options: SessionOptions, source: Model, backend: Backend, study: Study, progress: Progress) -> Base:
    """The base file, quantized from the source into the output folder once."""
    ftype = ftype_name(options.base or DEFAULT_BASE)
    path = options.out / f"base-{ftype}.gguf"
    name, wanted = (
        f"base {ftype}",
        content_key("base", [subject_of(cached_sha256(study, source.path), options.imatrix), ftype, backend.id]),
    )
    known = study.fact(name)
    if not path.exists() or known != {"key": wanted, "sha256": cached_sha256(study, path)}:
        set_aside(study, path, known, progress)
        study.set_fact(
            name, {"key": wanted, "sha256": None}
        )  # being written: whoever is killed now finds a file of his own
        progress.note(f"quantizing {source.path.name} to {ftype}")
        backend.quantize(source.path, path, ftype, (), options.imatrix)
        study.set_fact(name, {"key": wanted, "sha256": cached_sha256(study, path)})
    return Base(model_file.read_model(path), ftype, source.is_quantized)


def set_aside(study: Study, path: Path, known: Mapping[str, Any] | None, progress: Progress) -> None:
    """Rename what lies at ``path`` unless this study wrote it (``known`` is what it noted of it): nobody's file is overwritten.

    Raises `OutputError` where it can't be renamed.
    """
    if not path.exists() or (known is not None and known["sha256"] in (None, cached_sha256(study, path))):
        return
    names = (path.with_name(f"{path.stem}.kept-{n}{path.suffix}") for n in itertools.count(1))
    captured = next(name for name in names if not name.exists())
    try:
        path.rename(captured)
    except OSError as error:
        raise OutputError(
            f"{path} is not what this study wrote, and can't be moved out of the way: {error.strerror}; move it, or give another --out"
        ) from error
    progress.note(f"warning: {path.name} is not what this study wrote: it is kept as {captured.name}")


def make_splits(
    engine: Engine, options: SessionOptions, text: Text, report_text: Text | None, progress: Progress
) -> tuple[Split, Split]:
    """The chunks that search and those that report; never the same chunk. Raises `TextError` where there are too few, or shared ones."""
    n_ctx, limit = options.settings.n_ctx, options.n_chunks
    corpus = corpus_of(engine, options.text.name, text, n_ctx, progress)
    if options.report_text is None or report_text is None:
        half = corpus.n_chunks // 2
        if half < 2:
            unit = "conversations" if options.chat else f"chunks of {n_ctx} tokens"
            raise TextError(
                f"{options.text.name} has only {corpus.n_chunks} {unit}; two must choose and two others report: give a longer text, a "
                "smaller --ctx, or --report-text"
            )
        first, second = range(half), range(half, corpus.n_chunks)
        search, report = _split("search", corpus, first, limit), _split("report", corpus, second, limit)
        check_disjoint(search, report)
        return search, report
    other = corpus_of(engine, options.report_text.name, report_text, n_ctx, progress)
    search = _split("search", corpus, range(corpus.n_chunks), limit)
    report = _split("report", other, range(other.n_chunks), limit)
    if (options.text, options.report_text) != (
        bundled.SEARCH_TEXT,
        bundled.REPORT_TEXT,
    ):  # those share but patterns of a small world
        check_disjoint(search, report)
    return search, report


def _split(name: str, corpus: Corpus, chunks: range, limit: int | None) -> Split:
    if len(chunks) < 2:
        raise TextError(f"{corpus.name} gives only one chunk to measure on; two are the least: give a longer text")
    return Split(name, corpus, tuple(chunks[:limit]))


def check_disjoint(search: Split, report: Split) -> None:
    """Raises `TextError` where the report text is, in part, also search text: a whole chunk, or what `overlap.Overlap.is_too_much` says.

    The two halves of one text are compared as two texts are.
    """
    one_text = search.corpus is report.corpus
    if search.corpus.tokens_sha256 == report.corpus.tokens_sha256 and not one_text:
        raise TextError(f"{search.corpus.name} and {report.corpus.name} are the same text; the report needs another")
    searched = {search.corpus.chunk(c).tokens.tobytes() for c in search.chunks}
    shared = sum(report.corpus.chunk(c).tokens.tobytes() in searched for c in report.chunks)
    if shared:
        where = "among those that choose" if one_text else f"in {search.corpus.name}, which chooses"
        raise TextError(
            f"{shared} of {len(report.chunks)} chunks of {report.corpus.name} are also {where}; the report needs another text "
            "(--report-text)"
        )
    found = overlap(report.tokens, [search.tokens], report.scored)
    if found.is_too_much(report.corpus.n_ctx):
        what = f"{report.corpus.name}, which reports,"
        where = "in the half that chooses" if one_text else f"in {search.corpus.name}, which chooses"
        raise TextError(f"{_how_much(what, found)} is also {where}; the report needs another text (--report-text)")


def check_imatrix_text(engine: Engine, options: SessionOptions, splits: Sequence[Split]) -> None:
    """None of the texts that made the importance matrix and are at hand is, in part, also one that measures. Raises `TextError`."""
    if options.imatrix is None:
        return
    for path in imatrix_texts(options.imatrix):
        try:
            made_from = engine.corpus(path.name, read_text(path), LEAST_CTX)
        except TextError:
            continue  # no text, or a few words: nothing that could be compared
        for split in splits:
            found = overlap(split.tokens, [made_from.tokens], split.scored)
            if found.is_too_much(split.corpus.n_ctx):
                what = _how_much(split.corpus.name, found)
                raise TextError(
                    f"{what} is also in {path.name}, which made the importance matrix, so it can't measure what comes of it; "
                    "give another text"
                )


def imatrix_texts(imatrix: Path) -> list[Path]:
    """The texts that an importance matrix names as its own, where they are found: as it names them, or beside it."""
    names = map(Path, model_file.load_imatrix(imatrix).datasets)
    found = (next((p for p in (name, imatrix.parent / name.name) if p.is_file()), None) for name in names)
    return [path for path in found if path is not None]


def _how_much(what: str, found: Overlap) -> str:
    return (
        f"{100 * found.share:.3g} % of {what} (the longest passage: {found.longest} tokens, in runs of {N_GRAM} tokens)"
    )
