"""An importance matrix from a text, as llama-imatrix makes it: kept as it grows, continued where it was stopped, joined with others."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cerebellum.domain import Corpus, Model
from cerebellum.errors import InputError, ModelFileError, OutputError
from cerebellum.figures import counted
from cerebellum.files import refuse_input
from cerebellum.gguf import model_file
from cerebellum.gguf.coverage import Coverage, coverage_of
from cerebellum.gguf.imatrix_write import LEGACY, read_importance, write_importance
from cerebellum.gguf.importance import Importance, merged, n_side_by_side
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.keys import content_key, partial_of, sha256_file
from cerebellum.llamacpp.protocol import CHUNK_TOKENS, Backend, Engine, Settings
from cerebellum.progress import Progress, Silent
from cerebellum.verbs.text import Text, corpus_of, read, too_long

#: What the file says of its own making.
KEY, DONE, TEXT = "key", "chunks_done", "text_sha256"


@dataclass(frozen=True, slots=True)
class ImatrixOptions:
    """``text`` None: the files of ``add`` are joined, nothing is computed. ``settings``' context is the length of a chunk.

    ``with_output``: the output matrix has an entry too (``--process-output``). ``force``: replace ``out``, whatever it is.
    ``dataset``: what the text is called in the file, where that isn't how it was given. ``in_job``: made for a job, whose own context is
    another."""

    model: Path
    out: Path
    text: Path | None = None
    add: tuple[Path, ...] = ()
    settings: Settings = field(default_factory=lambda: Settings(n_ctx=CHUNK_TOKENS))
    n_chunks: int | None = None
    chat: bool = False
    with_output: bool = False
    force: bool = False
    dataset: str = ""
    in_job: bool = False

    @property
    def text_name(self) -> str:
        """What the text is called in the file: as it was given, as llama-imatrix does."""
        return self.dataset or str(self.text)


@dataclass(frozen=True, slots=True)
class MadeImatrix:
    """The file that was made. ``n_chunks`` of the text, ``n_before`` of them from an earlier run; ``n_entries`` tensors."""

    path: Path
    sha256: str
    n_entries: int
    n_chunks: int
    n_before: int
    chunk_size: int
    datasets: tuple[str, ...]
    coverage: Coverage

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "entries": self.n_entries,
            "chunks": self.n_chunks,
            "chunks_before": self.n_before,
            "chunk_size": self.chunk_size,
            "datasets": list(self.datasets),
            "gaps": self.coverage.lines(),
            "cannot_have": {name: sorted(types) for name, types in self.coverage.cannot_have.items()},
        }

    def summary(self) -> str:
        """A few lines for people."""
        before = f", {self.n_before} of them from before" if self.n_before else ""
        chunks = (
            f"{counted(self.n_chunks, 'chunk')} of {self.chunk_size} tokens{before}"
            if self.n_chunks
            else "joined, nothing computed"
        )
        lines = [f"{self.path}: {self.n_entries} entries; {chunks}; sha256 {self.sha256}"]
        return "\n".join([*lines, *(f"note: {line}" for line in self.coverage.lines())])


def make_imatrix(options: ImatrixOptions, backend: Backend, progress: Progress | None = None) -> MadeImatrix:
    """Make the file ``options.out``. What a killed call has collected is taken over by the next one with the same options.

    Raises `InputError` (nothing to make it of), `ModelFileError`, `TextError`, `OutputError` (``out`` is something else) or `EngineError`.
    """
    progress = progress or Silent()
    model = model_file.read_model(options.model)
    text = _check(options)
    parts = [_read_part(path, model, options.settings.n_ctx) for path in options.add]
    begin = _joined(parts, options)
    if text is None:
        return _finished(options, begin, model, 0, 0)
    tell_too_long(options, model, progress)
    progress.note(f"reading {options.model.name} ({model.file_bytes / 1e6:,.1f} MB)")
    sha256 = model_file.sha256_model(options.model)
    assert options.text is not None
    with contextlib.closing(backend.open(options.model, options.settings)) as engine:
        corpus = corpus_of(engine, options.text.name, text, options.settings.n_ctx, progress)
        chunks = range(min(corpus.n_chunks, options.n_chunks or corpus.n_chunks))
        origin = _origin(options, sha256, corpus, backend.id)
        known = _kept(options, origin, len(chunks))
        if options.out.exists() and known is None and not options.force and not _is_made(options, origin):
            raise OutputError(f"{options.out} exists and is of something else; --force replaces it")
        done = int(known.origin[DONE]) if known else 0
        start = replace(known or begin, datasets=(*begin.datasets, options.text_name), origin={**origin, DONE: done})
        whole = _collected(engine, options, corpus, chunks, done, start, progress)
    return _finished(options, whole, model, len(chunks), done)


def tell_too_long(options: ImatrixOptions, model: Model, progress: Progress) -> None:
    """That the matrix's chunks are longer than the model can take in, where they are, and what to do."""
    n_ctx = options.settings.n_ctx
    if options.in_job:
        advice = f"cerebellum imatrix --ctx {model.context_length} makes another one, for --imatrix"
        too_long(model, n_ctx, progress, advice, "The importance matrix's chunks")
    else:
        too_long(model, n_ctx, progress)


def _check(options: ImatrixOptions) -> Text | None:
    """The text, read; what can be known before the model is opened. Raises `InputError`, `OutputError` or `TextError`."""
    if options.text is None and not options.add:
        raise InputError(
            "nothing to make an importance matrix of: give a text with --text, or importance matrices to join with --add"
        )
    if options.out.suffix not in (".gguf", LEGACY):
        raise InputError(f"{options.out} must end in .gguf, or in {LEGACY} for the older form")
    if options.out.is_dir():
        raise OutputError(f"{options.out} is a folder; name the file to write")
    refuse_input(options.out, (options.model, options.text, *options.add))
    if options.text is None:
        if options.out.exists() and not options.force:
            raise OutputError(f"{options.out} exists; --force replaces it")
        return None
    return read(options.text, options.chat)


def _read_part(path: Path, model: Model, chunk_size: int) -> Importance:
    """An importance matrix to go on from. Raises `ModelFileError` where it is of another model."""
    importance = read_importance(path, chunk_size)
    check_fits(importance, path, model)
    return importance


def check_fits(importance: Importance, path: Path, model: Model) -> None:
    """Some tensor has an entry, and none has one of another size. Raises `ModelFileError`."""
    tensors = {t.name for t in quantizable_tensors(model)}
    wrong = [name for name in coverage_of(importance, model).wrong if name in tensors]
    problem = (
        f"its entry for {wrong[0]} has another size than the tensor" if wrong else "it has no entry for any tensor"
    )
    if wrong or not tensors & set(importance.entries):
        raise ModelFileError(
            f"the importance matrix {path} isn't of {model.path.name}: {problem}; it was made for another model"
        )


def _joined(parts: Sequence[Importance], options: ImatrixOptions) -> Importance:
    try:
        return merged(parts, options.settings.n_ctx)
    except ValueError as error:
        raise ModelFileError(f"the importance matrices can't be joined: {error}") from error


def _origin(options: ImatrixOptions, sha256: str, corpus: Corpus, build: str) -> dict[str, str | int]:
    """What identifies the sums, except how many chunks are in them."""
    facts = {
        "model": sha256,
        "tokens": corpus.tokens_sha256,
        "bos": corpus.bos,
        "ctx": corpus.n_ctx,
        "chat": options.chat,
        "output": options.with_output,
        "add": [sha256_file(path) for path in options.add],
        "gpu_layers": options.settings.n_gpu_layers,
        "flash_attention": options.settings.flash_attention,
        "build": build,
    }
    assert options.text is not None
    return {KEY: content_key("imatrix", facts), TEXT: sha256_file(options.text), "model_sha256": sha256}


def _kept(options: ImatrixOptions, origin: dict[str, str | int], n_chunks: int) -> Importance | None:
    """What an earlier call left, whole or not, where this one can go on from it to the same sums: the one with more chunks."""
    together = 1 if options.chat else n_side_by_side(options.settings.n_ctx)
    known_ones = []
    for path in (options.out, partial_of(options.out)):
        with contextlib.suppress(ModelFileError):
            known = read_importance(path, options.settings.n_ctx)
            done = int(known.origin.get(DONE, 0))
            if known.origin.get(KEY) == origin[KEY] and (
                done == n_chunks or (done < n_chunks and done % together == 0)
            ):
                known_ones.append(known)
    return max(known_ones, key=lambda known: int(known.origin[DONE]), default=None)


def _is_made(options: ImatrixOptions, origin: dict[str, str | int]) -> bool:
    """Whether ``out`` is of the same text and model, of more or other chunks."""
    with contextlib.suppress(ModelFileError):
        return read_importance(options.out, options.settings.n_ctx).origin.get(KEY) == origin[KEY]
    return False


def _collected(
    engine: Engine,
    options: ImatrixOptions,
    corpus: Corpus,
    chunks: range,
    done: int,
    start: Importance,
    progress: Progress,
) -> Importance:
    """``start`` and what the chunks after the first ``done`` add to it, kept on disk now and then."""
    whole, partial = start, partial_of(options.out)
    progress.begin(f"importance on {corpus.name}", len(chunks), done)
    try:
        numbers = chunks[done:]
        begin = start if start.entries else None
        told = 0
        for event in (
            engine.importance(corpus.chunks(numbers), begin=begin, with_output=options.with_output) if numbers else ()
        ):
            for number in range(told, event.n_chunks):
                progress.step(f"chunk {numbers[number]}")
            told = event.n_chunks
            if event.importance is not None:
                whole = replace(start, entries=event.importance.entries, origin={**start.origin, DONE: done + told})
                write_importance(whole, partial, partial.with_suffix(".writing"))
    finally:
        progress.end()
    return whole


def _finished(options: ImatrixOptions, importance: Importance, model: Model, n_chunks: int, before: int) -> MadeImatrix:
    """Write the file and say what it covers."""
    write_importance(importance, options.out, partial_of(options.out).with_suffix(".writing"))
    partial_of(options.out).unlink(missing_ok=True)
    return MadeImatrix(
        options.out,
        sha256_file(options.out),
        len(importance.entries),
        n_chunks,
        before,
        importance.chunk_size,
        importance.datasets,
        coverage_of(importance, model),
    )
