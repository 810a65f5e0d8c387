"""The seam around llama.cpp: what the rest of the code knows of it. `cerebellum.llamacpp` is the real thing, `cerebellum.testing` a fake.

Two ports. A **Backend** opens models and writes files; it is picklable and holds nothing open. An **Engine** is one opened model:
it tokenizes, and it scores chunks of text with any set of tensors stored in other types. Whoever implements it promises:

* *exact*: the sums of ``score(tensor_types, chunks)`` equal, bit for bit, those of a file written with these types and opened fresh;
* *memoryless*: no call's result depends on the calls before it;
* *closed*: logits stay inside; per-chunk sums come out, one by one, as they are known;
* *named*: a failure, a native abort included, is an `EngineError` that carries the label of the trial;
* *one stream at a time*: a stream (``score``, ``sweep``, ``capture``) is open from the first item that is asked of it to its last one, or
  until it is closed or dropped. While it is open, any other call is refused with an `EngineError`. Closing or dropping a stream early
  leaves the engine as usable as before;
* *closed for good*: a call on a closed engine is an `EngineError`, never another error. One whose process died says `EngineDied` until
  ``reopen`` is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cerebellum.cores import n_cores

if TYPE_CHECKING:  # the command line takes its defaults from here, and `--help` needs no numpy
    from cerebellum.domain import Chunk, ChunkScore, Corpus, TensorTypes, Trial
    from cerebellum.gguf.importance import Importance
    from cerebellum.llamacpp.generate.protocol import Responder
    from cerebellum.results.health import Native
    from cerebellum.scoring.reference import ReferenceStore
    from cerebellum.text.chat import Conversations

#: Logits held at a time: the batch is cut so that its scored rows stay under it. Part of every measurement's key.
LOGITS_BYTES = 256 << 20

#: Part of every measurement's key. 2: a chunk is decoded as if alone; before, chunks side by side could change each other's last bits where
#: the model has experts or few tokens are scored.
DECODING_VERSION = 2

#: Tokens in a chunk of an importance matrix's text: llama-imatrix's default.
CHUNK_TOKENS = 512

#: What a sweep keeps of the base's pass, at most.
REPLAY_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is opened. What can change a number is part of a measurement's key: all but ``n_threads``, ``has_idle_cores``,
    ``replay_bytes``, ``cores`` and ``devices`` (which devices there are is in the build's identity).

    ``n_batch`` None: as many as give at most `LOGITS_BYTES` of logits, at most ``n_ctx`` and 2048. A batch is never more than ``n_ubatch``.
    ``has_idle_cores``: at least as many logical cores are idle as compute, so the next trial's tensors are quantized meanwhile, as where a
    GPU computes. ``replay_bytes`` bounds what a sweep keeps of the base's pass, to begin each trial at the block that it changes; 0: every
    trial is computed whole. ``exact_reference``: all words of the reference's rows are kept, as its facts in the key say.
    ``cores``: the logical cores that the engine's process may use; ``devices``: the GPUs that it sees, as `Backend.devices` names them.
    None: all.
    """

    n_ctx: int = 2048
    n_batch: int | None = None
    n_ubatch: int = 512
    n_threads: int | None = None
    has_idle_cores: bool = False
    n_gpu_layers: int = 0
    flash_attention: bool | None = None
    replay_bytes: int = REPLAY_BYTES
    exact_reference: bool = False
    cores: tuple[int, ...] | None = None
    devices: tuple[str, ...] | None = None

    @property
    def threads(self) -> int:
        """``n_threads``, or one for each core."""
        return self.n_threads or n_cores()

    def batch_room(self, n_vocab: int) -> int:
        """Tokens a batch may take: ``n_batch``, or what `LOGITS_BYTES` and 2048 allow, a power of two; at most ``n_ubatch``."""
        room = self.n_batch
        if room is None:
            room = max(32, min(2048, LOGITS_BYTES // (4 * n_vocab)))
            room = 1 << (room.bit_length() - 1)
        return min(room, self.n_ubatch)

    def as_key(self) -> dict[str, Any]:
        """The part that can change a number."""
        return {
            "n_ctx": self.n_ctx,
            "n_batch": self.n_batch,
            "n_ubatch": self.n_ubatch,
            "logits_bytes": LOGITS_BYTES,
            "n_gpu_layers": self.n_gpu_layers,
            "flash_attention": self.flash_attention,
        }


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the weights of swapped tensors come from: ``weights`` is a GGUF (the unquantized source, or the base itself)."""

    weights: Path
    imatrix: Path | None = None


@dataclass(frozen=True, slots=True)
class WeightErrors:
    """What other types do to a tensor's weights: ``errors`` by type, the sum of importance · (stored - source)² over all its weights
    (estimated from a sample of rows where it is large); ``power`` is the sum of importance · source². ``cannot``: types that can't hold the
    values, which have no error."""

    tensor: str
    errors: Mapping[str, float]
    power: float
    cannot: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """Measuring a trial on a chunk begins. An engine that dies before its next event died of this work.

    ``trial``: the trial's number; ``chunk``: the chunk's id. ``base``: the work is the base's own pass, captured for this trial and the
    next ones. ``ahead``: label of another trial whose tensors are quantized meanwhile, "" for none; its quantization may be the cause as
    well.
    """

    trial: int
    chunk: int
    base: bool = False
    ahead: str = ""

    def told(self, label: str) -> str:
        """The work in words, for an error message; ``label`` is the trial's."""
        before = "the base, before " if self.base else ""
        beside = f" (while trial {self.ahead!r} was being quantized)" if self.ahead else ""
        return f"{before}trial {label!r}, chunk {self.chunk}{beside}"


@dataclass(frozen=True, slots=True)
class ChunkScored:
    """A trial's sums over a chunk."""

    trial: int
    score: ChunkScore


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class SpeedUse:
    """What is timed, as llama-bench does: ``n_prompt`` tokens read together and ``n_generate`` tokens one by one, each from an empty
    memory, ``repetitions`` times after one that doesn't count. 0 tokens: not timed. ``repack``: weights may be laid out anew for faster
    kernels, as llama.cpp's own programs do."""

    n_prompt: int = 512
    n_generate: int = 128
    repetitions: int = 5
    repack: bool = True


@dataclass(frozen=True, slots=True)
class Timed:
    """One repetition: of the prompt, or of the ``generation``."""

    generation: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Collected:
    """The first ``n_chunks`` chunks are summed. ``importance``: the sums so far, given every few seconds and at the end, else None."""

    n_chunks: int
    importance: Importance | None = None


SweepEvent = TrialStarted | ChunkScored | Note


class Engine(Protocol):
    """One opened model."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What llama.cpp warned of when it opened the file, as far as it can change figures; the file is named."""
        ...

    @property
    def unused(self) -> frozenset[str]:
        """Tensors of the file that no forward pass reads: swapping one can change nothing."""
        ...

    def quantized_sha256(self, tensor_types: TensorTypes) -> Mapping[str, str]:
        """``tensor=type`` → sha256 of the bytes that a tensor has in that type, as a trial would hold them. Raises `EngineError`."""
        ...

    def corpus(self, name: str, text: str, n_ctx: int) -> Corpus:
        """Tokenize as llama-perplexity does. Raises `TextError` where the text has no two chunks of ``n_ctx``."""
        ...

    def chat_corpus(self, conversations: Conversations, n_ctx: int) -> Corpus:
        """Render with the model's own chat template and tokenize: a chunk a conversation, the assistant's turns scored.

        Raises `TextError` where the model has no template, or it refuses a conversation, or nothing scored fits ``n_ctx``.
        """
        ...

    def score(
        self,
        tensor_types: TensorTypes,
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        label: str = "",
    ) -> Iterator[ChunkScore]:
        """Scores of ``chunks``, in their order, with ``tensor_types`` in force. Raises `EngineError` naming ``label``."""
        ...

    def sweep(
        self,
        trials: Sequence[Trial],
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        settings: Settings | None = None,
    ) -> Iterator[SweepEvent]:
        """Every trial on every chunk, in an order that is good for speed; each `ChunkScored` follows its `TrialStarted`.

        The sums are those of `score`. Raises `EngineError`; what began last is what failed: a trial, or the base before it.

        ``settings``, where they aren't the engine's own: their ``n_batch``, ``n_ubatch`` and ``n_threads`` are in force for this call
        alone, and every trial is computed whole; all else stays as the model was opened.
        """
        ...

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        """Keep this model's rows of ``chunks`` in ``store`` as a reference; yields each chunk's id when it's safe."""
        ...

    def reopen(self) -> None:
        """Open the same model anew where the engine has died; do nothing where it lives. Raises `EngineError` on a closed engine."""
        ...

    def importance(
        self, chunks: Sequence[Chunk], *, begin: Importance | None = None, with_output: bool = False
    ) -> Iterator[Collected]:
        """Sum the squares of what enters each matrix product of the blocks, and of the output matrix where ``with_output``.

        The sums are llama-imatrix's, bit for bit where the device computes as its own does: its batches, its order. ``begin``: sums to go
        on from. Chunks are of one length, or conversations, which are decoded one by one. Raises `EngineError` where an input isn't
        finite.
        """
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """Opens models and writes files."""

    @property
    def id(self) -> str:
        """Identity of the build: two results are comparable only if it is the same."""
        ...

    @property
    def devices(self) -> tuple[str, ...]:
        """GPUs that an engine can be given for its own, by llama.cpp's names: ``CUDA0``. Raises `EngineError`."""
        ...

    def build(self, settings: Settings) -> str:
        """`id`, as an engine that is opened with ``settings`` has it: the devices that it sees are part of it."""
        ...

    def native(self) -> Native:
        """What this build of llama.cpp is made for. Raises `EngineError`."""
        ...

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> Engine:
        """Open a GGUF. Raises `ModelFileError` or `EngineError`."""
        ...

    def respond(self, model: Path, settings: Settings, n_ctx: int | None = None) -> Responder:
        """Open a GGUF to be asked, with contexts of ``n_ctx`` tokens; None: what ``settings`` says, at most what the model was trained on.

        Raises `ModelFileError` or `EngineError`.
        """
        ...

    def types(
        self, source: Path, ftype: str, overrides: Sequence[tuple[str, str]], imatrix: Path | None
    ) -> Mapping[str, str]:
        """The type each tensor would really get (a dry run): tensor name → type name."""
        ...

    def quantize(
        self,
        source: Path,
        out: Path,
        ftype: str,
        overrides: Sequence[tuple[str, str]] = (),
        imatrix: Path | None = None,
    ) -> None:
        """Write ``out`` with llama.cpp's own quantizer. Raises `EngineError` or `OutputError`; leaves nothing half-written."""
        ...

    def weight_errors(
        self,
        source: Path,
        imatrix: Path | None,
        wanted: Sequence[tuple[str, Sequence[str]]],
        sampled: int,
        judge: Path | None = None,
    ) -> Iterator[WeightErrors]:
        """The weight errors of each (tensor, types), in this order; about ``sampled`` weights of a tensor are looked at. ``judge``: the
        importance matrix that weighs the errors where that isn't the one that quantizes.

        Raises a `CerebellumError`.
        """
        ...

    def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Iterator[Timed]:
        """The repetitions of the prompt, then those of the generation, each as it is done, with the kernels and the memory layout that
        llama.cpp itself takes. Raises `ModelFileError` or `EngineError`."""
        ...
