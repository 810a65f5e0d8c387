"""What estimates have in common: the texts cut, a chunk timed, bytes of disk and memory, chunks that a difference takes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cerebellum import bundled
from cerebellum.allocation.sizes import file_bytes
from cerebellum.domain import Corpus, Model, TensorType
from cerebellum.errors import EngineError
from cerebellum.figures import counted
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.types import TYPES, fallback_type
from cerebellum.llamacpp.protocol import CHUNK_TOKENS, LOGITS_BYTES, Backend, Engine, Settings, Sources
from cerebellum.progress import Progress
from cerebellum.stats.intervals import smallest_detectable
from cerebellum.study.runner import Split
from cerebellum.verbs.inputs import Inputs
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.session import count_engines, local_fleet
from cerebellum.verbs.splits import make_splits
from cerebellum.verbs.text import corpus_of, read

#: Types whose making is timed, two usual ones and a slow one, and the most weights of the tensor that they are made of.
TIMED_TYPES, TIMED_WEIGHTS = ("Q4_K", "Q6_K", "IQ4_XS"), 1 << 26
#: Under so many chunks only large differences can be shown.
FEW_CHUNKS = 8
#: Whole passes that a trial of one tensor is worth: it begins at its block.
ONE_TENSOR = 0.55
#: Passes of the noise floor: changes by files by chunks.
NOISE_PASSES = 20
#: Bytes a scored token that the reference's rows take, where not all words are kept.
ROW_BYTES = 2048


@dataclass(frozen=True, slots=True)
class TimedModel:
    """What opening a model shows: its texts in chunks, seconds of a whole pass over one by one of ``n_engines``, words of its vocabulary,
    tensors that no pass reads, and seconds in which an engine makes a weight in another type. ``calibration``: the chunks that an
    importance matrix is made on first, None where none is made."""

    search: Split
    report: Split
    seconds: float
    n_engines: int
    n_vocab: int
    unused: frozenset[str]
    seconds_a_weight: float
    calibration: Corpus | None = None

    @property
    def imatrix_passes(self) -> float:
        """Whole passes over a chunk that making the importance matrix is worth, counted in tokens, by one engine."""
        made_on = self.calibration
        return 0.0 if made_on is None else made_on.n_chunks * made_on.n_ctx / self.search.corpus.n_ctx

    @property
    def notes(self) -> tuple[str, ...]:
        """That an importance matrix is made, and on how much text."""
        if (made_on := self.calibration) is None:
            return ()
        chunks = f"{counted(made_on.n_chunks, 'chunk')} of {made_on.n_ctx} tokens"
        return (f"an importance matrix is made first, on {chunks} of {made_on.name}",)


def time_model(
    options: SessionOptions, inputs: Inputs, backend: Backend, progress: Progress, makes_imatrix: bool = False
) -> TimedModel:
    """Open the model as the job will, cut its texts, and time a chunk. Raises a `CerebellumError`."""
    local = local_fleet(options, backend, inputs.source)
    n_engines = count_engines(options, local)
    first, n_ctx = local.settings[0], options.settings.n_ctx
    settings = replace(options.settings, devices=first.devices, n_threads=first.n_threads)
    progress.note(f"estimate: opening {inputs.source.path.name}, cutting the texts into chunks")
    engine = backend.open(inputs.source.path, settings, Sources(inputs.source.path, options.imatrix))
    try:
        search, report = make_splits(engine, inputs.texts, n_ctx, progress)
        progress.note(f"estimate: timing a chunk of {n_ctx:,} tokens, twice")
        seconds = timed(engine, search)
        calibration = calibration_corpus(engine, options, progress) if makes_imatrix else None
        making = seconds_a_weight(engine, inputs.source)
        return TimedModel(search, report, seconds, n_engines, engine.n_vocab, engine.unused, making, calibration)
    finally:
        engine.close()


def seconds_a_weight(engine: Engine, source: Model) -> float:
    """Seconds that ``engine`` takes to make a weight in another type: the mean of `TIMED_TYPES`, by a tensor of the middle size. 0 where
    the tensor can't have them."""
    sizes = sorted(quantizable_tensors(source), key=lambda t: t.n_elements)
    tensor = next((t for t in sizes[len(sizes) // 2 :: -1] if t.n_elements <= TIMED_WEIGHTS), sizes[0])
    kinds = {fallback_type(kind, tensor.row_length).name for kind in TIMED_TYPES} - {tensor.type}
    swaps = tuple(TensorType(tensor.name, kind) for kind in sorted(kinds) if TYPES[kind].fits(tensor.row_length))
    if not swaps:
        return 0.0
    start = time.monotonic()
    try:
        engine.quantized_sha256(swaps)
    except EngineError:
        return 0.0
    return (time.monotonic() - start) / (len(swaps) * tensor.n_elements)


def calibration_corpus(engine: Engine, options: SessionOptions, progress: Progress) -> Corpus:
    """The text that the job's importance matrix will be made on, in chunks as `calibration.with_imatrix` cuts them. Raises `TextError`."""
    path = options.calibration or bundled.CALIBRATION_TEXT
    return corpus_of(engine, path.name, read(path, options.chat and path.suffix == ".jsonl"), CHUNK_TOKENS, progress)


def nominal_base(source: Model, ftype: str | None, types: Mapping[str, str]) -> Model:
    """The base's header with these types, before its file is made."""
    tensors = tuple(replace(t, type=types[t.name]) for t in source.tensors)
    return replace(source, tensors=tensors, ftype=ftype, file_bytes=file_bytes(source, types))


def memory_of(source: Model, base: Model, replay_bytes: int) -> int:
    """Bytes of memory at most: both files, what replay may keep, and logits."""
    return source.file_bytes + base.file_bytes + replay_bytes + 2 * LOGITS_BYTES


def timed(engine: Engine, split: Split) -> float:
    """Seconds of a whole pass over a chunk: the quickest of two, the first of which compiles."""
    seconds = math.inf
    for chunk in split.chunks[:2]:
        start = time.monotonic()
        for _ in engine.score((), [split.corpus.chunk(chunk)], label="timed chunk"):
            seconds = min(seconds, time.monotonic() - start)
    return seconds


def rows_of(splits: Sequence[Split], n_vocab: int, settings: Settings) -> int:
    """Bytes of the reference's rows."""
    width = 2 * n_vocab if settings.exact_reference else min(ROW_BYTES, 4 * n_vocab)
    scored = sum(int(split.corpus.chunk(c).wanted().sum()) for split in splits for c in split.chunks)
    return scored * width


def disk_of(base: Model, limit: int, ftype: str, source: Model, rows: int) -> int:
    """Bytes that the folder grows by: the base, the recipe, the reference's rows."""
    is_own_base = source.is_quantized and source.ftype == ftype
    return (0 if is_own_base else base.file_bytes) + limit + rows


def chunks_to_show(share: float, spread: float) -> int:
    """Chunks that show a change of such a share four times in five, where chunks differ by ``spread``."""
    return next(n for n in itertools.count(2) if smallest_detectable(spread / math.sqrt(n), n) <= share)


def notes_of(asked: int | None, doubts: Sequence[str], splits: Sequence[Split]) -> list[str]:
    """What should be known before hours are spent. ``asked``: chunks of each text."""
    notes, n = list(doubts), min(len(split.chunks) for split in splits)
    for split in splits:
        if asked is not None and len(split.chunks) < asked:
            notes.append(
                f"the {split.name} text has only {counted(len(split.chunks), 'chunk')} for it, not {asked}: a longer text shows smaller "
                "differences"
            )
    if n < FEW_CHUNKS:
        notes.append(f"{counted(n, 'chunk')} can show only large differences: give a longer text, or a smaller --ctx")
    return notes
