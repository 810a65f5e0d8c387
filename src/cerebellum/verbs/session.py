"""A job's ground: the base file, the texts, the reference, the study and the engines, opened in this order and closed together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cerebellum import bundled
from cerebellum.domain import Corpus, Model
from cerebellum.errors import InputError, ModelFileError, TextError
from cerebellum.files import make_folder
from cerebellum.gguf import model_file
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.next_token import check_predicts
from cerebellum.gguf.overrides import pairs
from cerebellum.gguf.types import FTYPES, TYPES, ftype_name
from cerebellum.keys import content_key, sha256_file
from cerebellum.llamacpp.protocol import Backend, Engine, Settings, Sources, n_cores
from cerebellum.progress import Progress
from cerebellum.results import Base
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.runner import Split, TrialRunner, series_facts
from cerebellum.study.store import Study
from cerebellum.verbs.base_mix import EXCLUDED, Mix, MixOptions, excluded, from_plain, mix_of, plain, told, write_mix
from cerebellum.verbs.capture import capture_rows, reference_facts, store_for
from cerebellum.verbs.noise import NoiseContext, measure_reference
from cerebellum.verbs.text import Text, corpus_of, read, too_long
from cerebellum.verbs.tokenization import check_cut_alike, check_token_lists, cut_plainly
from cerebellum.verbs.warned import tell

DEFAULT_BASE = "Q3_K_M"


@dataclass(frozen=True, slots=True)
class SessionOptions:
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
    mix: MixOptions = field(default_factory=MixOptions)
    settings: Settings = field(default_factory=Settings)
    n_chunks: int | None = None
    workers: int = 1
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapturedReference:
    """The reference on a job's texts: ``search`` chooses, ``report`` reports, ``facts`` identify its rows. ``noise``: what harmless changes
    do to it, nats a token by change, and ``noise_context`` is what that was measured on. ``warnings``: llama.cpp's of the files."""

    search: Split
    report: Split
    facts: dict[str, Any]
    noise_context: NoiseContext
    noise: Mapping[str, float]
    warnings: tuple[str, ...] = ()


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
    check_predicts(source)
    own = own_base(options, source)
    text = read(options.text, options.chat)
    report_text = read(options.report_text, options.chat) if options.report_text else None
    check_imatrix(options, source)
    if options.reference:
        check_predicts(model_file.read_model(options.reference))
    rules = check_token_lists([options.model, *([options.reference] if options.reference else [])])
    make_folder(options.out)
    with contextlib.ExitStack() as stack:
        study = stack.enter_context(Study.open(options.out / "study.sqlite"))
        progress.note(f"reading {options.model.name} ({options.model.stat().st_size / 1e6:,.1f} MB)")
        sha256 = cached_sha256(study, options.model)
        subject = subject_of(sha256, options.imatrix)
        study.bind(subject, options.model.name)
        study.add_command(list(options.command))
        build = backend.id
        warnings = too_long(source, options.settings.n_ctx, progress)
        tell(rules, progress, warnings)
        captured = capture_reference(options, backend, build, study, subject, (text, report_text), progress, reports)
        base = own or prepare_base(options, source, backend, study, progress)
        tell(told(base.mix, source), progress, warnings)
        sources = Sources(options.model, options.imatrix)
        settings = shared_out(options.settings, options.workers)
        engines: list[Engine] = []
        for _ in range(options.workers):
            engines.append(backend.open(base.model.path, settings, sources))
            stack.callback(engines[-1].close)
        session = Session(options, backend, progress, study, source, sha256, base, build, captured, engines)
        if base.twice:
            progress.note(f"{source.path.name} is quantized already, so what a recipe changes is quantized twice")
        session.warnings += [*warnings, *captured.warnings]
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
        warnings: list[str] = []
        tell(engine.warnings, progress, warnings)
        search, report = make_splits(engine, options, *texts, progress)
        if options.reference is not None:
            n_vocab, cuts = engine.n_vocab, [cut_plainly(engine, text) for text in texts if text is not None]
            opened.close()
            engine = backend.open(options.reference, settings, Sources(options.reference))
            opened.callback(engine.close)
            tell(engine.warnings, progress, warnings)
            check_vocabulary(options.reference, engine.n_vocab, n_vocab)
            for own, text in zip(cuts, [text for text in texts if text is not None], strict=True):
                check_cut_alike(own, options.model, cut_plainly(engine, text), options.reference)
        facts = reference_facts(cached_sha256(study, path), engine.n_vocab)
        splits = (search, report) if reports else (search,)
        wanted = [(split, store_for(options.out, split.corpus, facts, settings, build)) for split in splits]
        capture_rows(engine, wanted, f"reference {path.name}", progress)
        noise_context = NoiseContext(
            study, search, series_facts(subject, search, settings, build, facts), wanted[0][1], settings, progress
        )
        noise = measure_reference(noise_context, engine, model_file.read_model(path))
    return CapturedReference(search, report, facts, noise_context, noise, tuple(warnings))


def own_base(options: SessionOptions, source: Model) -> Base | None:
    """The source itself where it is quantized already and no other base is asked for. Raises `InputError` where its type is unknown,
    or one that takes no overrides."""
    if not source.is_quantized:
        return None
    own_mix = Mix(left_out={tensor.name: EXCLUDED for tensor in excluded(options.mix.exclude, source)})
    if options.base is None:
        if source.ftype is None:
            raise InputError(
                f"{source.path.name} is quantized, but doesn't say to which file type; name one with --base"
            )
        if not TYPES[FTYPES[source.ftype][1]].quantized:
            raise InputError(
                f"{source.path.name} says that its file type is {source.ftype}, and its weights are quantized: under that type llama.cpp "
                "takes no overrides. Name the file type that a recipe is to start from with --base"
            )
        if options.mix.overrides or options.mix.pure:
            raise InputError(
                f"{source.path.name} is quantized, so it is its own base; --base-overrides and --pure are of one that is made: name "
                "its file type with --base"
            )
        return Base(source, source.ftype, True, own_mix)
    asked, is_made = ftype_name(options.base), options.mix.overrides or options.mix.pure
    return Base(source, asked, True, own_mix) if asked == source.ftype and not is_made else None


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
    path, name, mix = options.out / f"base-{ftype}.gguf", f"base {ftype}", mix_of(options.mix, source, ftype)
    subject = subject_of(cached_sha256(study, source.path), options.imatrix)
    wanted = content_key("base", [subject, ftype, backend.id, pairs(mix.lines)])
    known = study.fact(name) or {}
    if not path.exists() or (known.get("key"), known.get("sha256")) != (wanted, cached_sha256(study, path)):
        progress.note(f"quantizing {source.path.name} to {ftype}")
        made = write_mix(backend, source, path, ftype, mix, options.imatrix)
        known = {"key": wanted, "sha256": cached_sha256(study, path), "mix": plain(made)}
        study.set_fact(name, known)
    return Base(model_file.read_model(path), ftype, source.is_quantized, from_plain(known["mix"]))


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
        return _split("search", corpus, first, limit), _split("report", corpus, second, limit)
    other = corpus_of(engine, options.report_text.name, report_text, n_ctx, progress)
    search = _split("search", corpus, range(corpus.n_chunks), limit)
    report = _split("report", other, range(other.n_chunks), limit)
    check_disjoint(search, report)
    return search, report


def _split(name: str, corpus: Corpus, chunks: range, limit: int | None) -> Split:
    if len(chunks) < 2:
        raise TextError(f"{corpus.name} gives only one chunk to measure on; two are the least: give a longer text")
    return Split(name, corpus, tuple(chunks[:limit]))


def check_disjoint(search: Split, report: Split) -> None:
    """Raises `TextError` where a chunk of the report text is also one of the search text."""
    if search.corpus.tokens_sha256 == report.corpus.tokens_sha256:
        raise TextError(f"{search.corpus.name} and {report.corpus.name} are the same text; the report needs another")
    searched = {search.corpus.chunk(c).tokens.tobytes() for c in search.chunks}
    shared = sum(report.corpus.chunk(c).tokens.tobytes() in searched for c in report.chunks)
    if shared:
        raise TextError(
            f"{shared} of {len(report.chunks)} chunks of {report.corpus.name} are also in {search.corpus.name}, which chooses; "
            "the report needs another text"
        )
