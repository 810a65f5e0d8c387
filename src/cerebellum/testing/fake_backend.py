"""A backend without llama.cpp, for tests of whatever stands on the seam: planted effects, planted failures, real files.

`FakeBackend` keeps the promises of `cerebellum.llamacpp.protocol`. A score depends on the text of the chunk and on the realized type
of every tensor, and on nothing else; so a written file scores exactly as its types do in memory, and no call remembers the calls before it.
`write_fake_model` writes a small GGUF (its weights are zeros) to start from::

    source = write_fake_model(tmp_path / "model.gguf")
    backend = FakeBackend({TensorType("blk.1.ffn_gate.weight", "Q2_K"): Effect(nll=-0.02, kld=0.05)})
    engine = backend.open(source, Settings(n_ctx=64), Sources(source))
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Chunk, ChunkScore, Corpus, Model, Tensor, TensorType, TensorTypes, Tokens, Trial
from cerebellum.errors import EngineDied, EngineError, TensorChoiceError, TypeChoiceError
from cerebellum.gguf.importance import Importance, Sums, added
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.overrides import Override, requested_types, resolve
from cerebellum.gguf.types import FTYPES, STORED, TYPES, fallback_type, ftype_name, quant_type
from cerebellum.keys import content_key, sha256_bytes
from cerebellum.llamacpp.one_stream import OneStream
from cerebellum.llamacpp.protocol import (
    ChunkScored,
    Collected,
    Settings,
    Sources,
    SpeedUse,
    SweepEvent,
    Timed,
    TrialStarted,
    WeightErrors,
)
from cerebellum.results.health import Native
from cerebellum.scoring.metrics import INVERSE_TEMPERATURES, ReferenceRows
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.testing.fake_responder import AnswerFault, FakeResponder, Knowledge
from cerebellum.text.chat import TEMPLATE, ChatTemplate, Conversations, all_tokenized
from cerebellum.text.corpus import check_length, cut, cut_conversations

__all__ = [
    "AnswerFault",
    "Effect",
    "FakeBackend",
    "FakeEngine",
    "FakeResponder",
    "Fault",
    "Knowledge",
    "write_fake_model",
]

#: Words outside 3 … `N_VOCAB` - 1 don't exist; 1 is BOS, written `<s>` in a chat template.
N_VOCAB = 1000
BOS, BOS_WORD = 1, "<s>"
#: Mean NLL of a token with every tensor at a type that has no effect, nats.
PLAIN_NLL = 3.0
#: Standard deviation of a chunk's own mean NLL, and the relative one of an effect from chunk to chunk.
CHUNK_SPREAD, EFFECT_SPREAD = 0.3, 0.2


@dataclass(frozen=True, slots=True)
class Effect:
    """What one tensor at one type does, nats per token on the average chunk; ``kld`` is at least 0."""

    nll: float = 0.0
    kld: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Where an engine fails: trials that hold ``swap`` (None: any, the base too), at ``chunk`` (None: the first they meet).

    ``dies``: the engine is gone until it is reopened, as after a native abort; else only the call fails.
    """

    swap: TensorType | None = None
    chunk: int | None = None
    dies: bool = False

    def hits(self, tensor_types: TensorTypes, chunk: int) -> bool:
        return (self.swap is None or self.swap in tensor_types) and self.chunk in (None, chunk)


@dataclass(frozen=True)
class FakeBackend:
    """See `cerebellum.llamacpp.protocol.Backend`. ``effects`` is the planted truth: (tensor, type) → its effect; others have none.

    ``unused`` are tensors that no forward pass reads: their effects are ignored. ``knowledge`` is what its responders know.
    ``rounding``: another number is a processor whose last bits differ, in sums and in quantized bytes.
    ``devices``: GPUs that its engines may be given.
    """

    effects: Mapping[TensorType, Effect] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    unused: frozenset[str] = frozenset()
    id: str = "fake 1"
    rounding: int = 0
    knowledge: Knowledge = field(default_factory=Knowledge)
    answer_faults: tuple[AnswerFault, ...] = ()
    devices: tuple[str, ...] = ()

    def build(self, settings: Settings) -> str:
        """With so many devices of its own as the settings name."""
        return self.id if settings.devices is None else f"{self.id}, {len(settings.devices)} devices"

    def native(self) -> Native:
        return Native("fake", (), (), can_offload=False)

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        return FakeEngine(self, read_model(model), settings, sources)

    def respond(self, model: Path, settings: Settings, n_ctx: int | None = None) -> FakeResponder:
        """As damaged as the file's types: the sum of their planted divergences."""
        opened = read_model(model)
        effects = [
            effect.kld
            for swap, effect in self.effects.items()
            if opened.types.get(swap.tensor) == swap.type and swap.tensor not in self.unused
        ]
        length = n_ctx or min(settings.n_ctx, opened.context_length)
        return FakeResponder(opened, length, math.fsum(effects), self.knowledge, self.answer_faults)

    def types(
        self, source: Path, ftype: str, overrides: Sequence[tuple[str, str]] = (), imatrix: Path | None = None
    ) -> Mapping[str, str]:
        """Every quantizable tensor at the file type's default type or as overridden, with llama.cpp's fallbacks; no mix, no counters."""
        model, default = read_model(source), FTYPES[ftype_name(ftype)][1]
        lines = [Override(pattern, quant_type(kind).name) for pattern, kind in overrides]
        asked = requested_types(resolve(lines, model, strict=False))
        changed = {
            t.name: fallback_type(asked.get(t.name, default), t.row_length).name for t in quantizable_tensors(model)
        }
        return {**model.types, **changed}

    def weight_errors(
        self,
        source: Path,
        imatrix: Path | None,
        wanted: Sequence[tuple[str, Sequence[str]]],
        sampled: int,
        judge: Path | None = None,
    ) -> Iterator[WeightErrors]:
        """As if an error fell four times with each bit: 4^(−bits) a weight, none at the type that a tensor has; the same whoever judges."""
        model = read_model(source)
        for name, types in wanted:
            tensor = model.tensor(name)
            assert tensor is not None
            errors = {
                kind: 0.0 if kind == tensor.type else tensor.n_elements * 4.0 ** -TYPES[kind].bits_per_weight
                for kind in types
            }
            yield WeightErrors(name, errors, float(tensor.n_elements))

    def quantize(
        self,
        source: Path,
        out: Path,
        ftype: str,
        overrides: Sequence[tuple[str, str]] = (),
        imatrix: Path | None = None,
    ) -> None:
        types = self.types(source, ftype, overrides, imatrix)
        partial = out.with_name(f".{out.name}.partial")
        _write(partial, read_model(source), types, FTYPES[ftype_name(ftype)][0])
        partial.replace(out)

    def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Iterator[Timed]:
        """As if a token of the prompt took a nanosecond a byte of the file and a written one four, each repetition a hundredth more."""
        n_bytes = read_model(model).file_bytes
        for generation, n_tokens in ((False, use.n_prompt), (True, use.n_generate)):
            for number in range(use.repetitions if n_tokens else 0):
                yield Timed(generation, n_tokens * n_bytes * (4e-9 if generation else 1e-9) * (1.0 + number / 100.0))


class FakeEngine:
    """See `Engine` of `cerebellum.llamacpp.protocol` and `FakeBackend`. ``n_scored`` counts the chunks it has scored."""

    n_vocab = N_VOCAB

    def __init__(self, backend: FakeBackend, model: Model, settings: Settings, sources: Sources | None) -> None:
        self._backend = backend
        self._model = model
        self._settings = settings
        self._sources = sources
        self._gone = ""
        self._closed = False
        self._turns = OneStream()
        self._rows: dict[Path, ReferenceRows] = {}
        self.n_scored = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @property
    def unused(self) -> frozenset[str]:
        self._check_open("finding the weights")
        return self._backend.unused & frozenset(self._model.types)

    def quantized_sha256(self, tensor_types: TensorTypes) -> dict[str, str]:
        self._check_open("hashing quantized tensors")
        self._check_swaps(tensor_types, "hashing quantized tensors")
        of = self._backend.rounding
        return {f"{s.tensor}={s.type}": sha256_bytes(f"{s.tensor} {s.type} {of}".encode()) for s in tensor_types}

    def corpus(self, name: str, text: str, n_ctx: int) -> Corpus:
        """A token a word: equal words are equal tokens."""
        self._check_open(f"tokenizing {name}")
        tokens = np.append(np.int32(BOS), _words(text))
        check_length(name, len(tokens), n_ctx)
        return cut(name, text, tokens, n_ctx, BOS)

    def chat_corpus(self, conversations: Conversations, n_ctx: int) -> Corpus:
        self._check_open(f"tokenizing {conversations.name}")
        template = ChatTemplate(self._model, BOS_WORD, "</s>")
        parts, refused = all_tokenized(template, conversations, _words, BOS)
        return cut_conversations(conversations.name, conversations.text_sha256, parts, n_ctx, refused)

    def score(
        self,
        tensor_types: TensorTypes,
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        label: str = "",
    ) -> Iterator[ChunkScore]:
        self._check_open(label)
        with self._turns.stream(label):
            self._rows.clear()
            yield from self._scores(tensor_types, chunks, reference, label)

    def _scores(
        self, tensor_types: TensorTypes, chunks: Sequence[Chunk], reference: ReferenceStore | None, label: str
    ) -> Iterator[ChunkScore]:
        self._check_swaps(tensor_types, label)
        types = {**self._model.types, **{swap.tensor: swap.type for swap in tensor_types}}
        for chunk in chunks:
            self._check_fault(tensor_types, chunk, label)
            rows = self._read(reference, chunk.id) if reference else None
            self.n_scored += 1
            yield self._score(types, chunk, rows)

    def sweep(
        self,
        trials: Sequence[Trial],
        chunks: Sequence[Chunk],
        *,
        reference: ReferenceStore | None = None,
        settings: Settings | None = None,
    ) -> Iterator[SweepEvent]:
        self._check_open("sweeping")
        for trial in trials:
            self._check_swaps(trial.tensor_types, trial.label)
        with self._turns.stream("a sweep"):
            self._rows.clear()
            for number, trial in enumerate(trials):
                for chunk in chunks:
                    yield TrialStarted(number, chunk.id)
                    for score in self._scores(trial.tensor_types, [chunk], reference, f"trial {trial.label!r}"):
                        yield ChunkScored(number, score)

    def capture(self, chunks: Sequence[Chunk], store: ReferenceStore) -> Iterator[int]:
        """Of the reference its NLL is kept and, for "top", a mark of its types: enough to know a model from itself."""
        self._check_open("keeping the reference")
        with self._turns.stream("keeping the reference"):
            for chunk in chunks:
                if not store.has(chunk.id):
                    self._keep(chunk, store)
                yield chunk.id

    def _keep(self, chunk: Chunk, store: ReferenceStore) -> None:
        nothing, score = np.zeros((0, 0), np.float32), self._score(self._model.types, chunk, None)
        nll = np.full(score.n_tokens, score.nll / score.n_tokens)
        store.write(chunk.id, ReferenceRows(nothing, np.zeros(0), nll, self._mark(self._model.types)))

    def die(self) -> None:
        """Be gone, as a process that was killed."""
        self._gone = "died"

    def reopen(self) -> None:
        if self._closed:
            raise EngineError(f"opening {self._model.path.name}: the engine is closed")
        self._gone = ""

    def importance(
        self, chunks: Sequence[Chunk], *, begin: Importance | None = None, with_output: bool = False
    ) -> Iterator[Collected]:
        """Each chunk adds its tokens' mean to every column of every matrix of a block: enough to see what is added, and that it is once."""
        self._check_open("collecting activations")
        entries = dict(begin.entries) if begin else {}
        for done, chunk in enumerate(chunks, 1):
            self._check_fault((), chunk, "collecting activations")
            for tensor in quantizable_tensors(self._model):
                if tensor.name.startswith("blk.") or (with_output and tensor.name == "output.weight"):
                    n = tensor.row_length
                    new = Sums(np.full(n, chunk.tokens.mean(), np.float32), np.array([len(chunk.tokens)]))
                    entries[tensor.name] = (
                        added(tensor.name, entries[tensor.name], new) if tensor.name in entries else new
                    )
            self.n_scored += 1
            yield Collected(done, Importance(dict(entries), (), len(chunk.tokens)))

    def close(self) -> None:
        self._closed = True

    # -- truth -------------------------------------------------------------------------------------------------------

    def _score(self, types: Mapping[str, str], chunk: Chunk, reference: ReferenceRows | None) -> ChunkScore:
        n = int(chunk.wanted().sum())
        parts = [(self._backend.effects[s], self._vary(chunk, s)) for s in self._effective(types)]
        mean = (
            self._backend.rounding * 1e-9
            + PLAIN_NLL
            + CHUNK_SPREAD * _normal(chunk, "")
            + math.fsum(e.nll * v for e, v in parts)
        )
        tempered = tuple(n * mean * (1.0 + (1.0 - beta) ** 2) for beta in INVERSE_TEMPERATURES)
        if reference is None:
            return ChunkScore(chunk.id, n, n * mean, n * (mean**2 + 1.0), tempered)
        same = np.array_equal(reference.top, self._mark(types))
        kld = 0.0 if same else math.fsum(e.kld * v for e, v in parts)
        return ChunkScore(
            chunk=chunk.id,
            n_tokens=n,
            nll=n * mean,
            nll2=n * (mean**2 + 1.0),
            tempered=tempered,
            kld=n * kld,
            kld2=n * kld**2,
            kld_var=0.0,
            same_top=round(n * math.exp(-kld)),
            dp=-n * kld / 10.0,
            dp2=n * kld / 10.0,
            dp4=n * kld / 100.0,
            kld_tokens=np.full(n, kld, np.float32).tobytes(),
        )

    def _effective(self, types: Mapping[str, str]) -> list[TensorType]:
        unused = self._backend.unused
        effects = (s for s in self._backend.effects if types.get(s.tensor) == s.type and s.tensor not in unused)
        return sorted(effects)

    def _read(self, store: ReferenceStore, chunk: int) -> ReferenceRows:
        """The rows of a chunk, read once in a sweep."""
        path = store.path(chunk)
        if path not in self._rows:
            self._rows[path] = store.read(chunk)
        return self._rows[path]

    def _vary(self, chunk: Chunk, swap: TensorType) -> float:
        """How large an effect is on this chunk, relative to the planted one: at least 0, 1 on average."""
        return max(0.0, 1.0 + EFFECT_SPREAD * _normal(chunk, f"{swap.tensor}={swap.type}"))

    def _mark(self, types: Mapping[str, str]) -> npt.NDArray[np.int64]:
        effective = {s.tensor: s.type for s in self._effective(types)}
        return np.frombuffer(hashlib.sha256(content_key("types", effective).encode()).digest(), np.int64)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _check_open(self, label: str) -> None:
        if self._closed:
            raise EngineError(f"{label or self._model.path.name}: the engine is closed")
        if self._gone:
            raise EngineDied(f"{label or self._model.path.name}: the engine {self._gone}")
        self._turns.check(label)

    def _check_swaps(self, tensor_types: TensorTypes, label: str) -> None:
        for swap in tensor_types:
            tensor = self._model.tensor(swap.tensor)
            if tensor is None:
                raise TensorChoiceError(f"{self._model.path.name} has no tensor {swap.tensor}")
            if not quant_type(swap.type).fits(tensor.row_length):
                raise TypeChoiceError(f"{swap.tensor} can't be {swap.type}: its rows hold {tensor.row_length} weights")
            if self._sources is None:
                raise EngineError(f"{label}: no weights to make {swap.tensor} from: open the engine with sources")

    def _check_fault(self, tensor_types: TensorTypes, chunk: Chunk, label: str) -> None:
        if self._closed:
            raise EngineError(f"{label or self._model.path.name}: the engine is closed")
        if fault := next((f for f in self._backend.faults if f.hits(tensor_types, chunk.id)), None):
            if fault.dies:
                self._gone = "died as planted"
                raise EngineDied(f"{label}: died as planted")
            raise EngineError(f"{label}: failed as planted")


def _words(text: str) -> Tokens:
    """A token a word."""
    return np.array(
        [BOS if word == BOS_WORD else 3 + zlib.crc32(word.encode()) % (N_VOCAB - 3) for word in text.split()], np.int32
    )


def _normal(chunk: Chunk, what: str) -> float:
    """A standard normal number that depends on the chunk's tokens and ``what`` alone."""
    digest = hashlib.sha256(chunk.tokens.tobytes() + what.encode()).digest()
    return float(np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal())


def write_fake_model(
    path: Path, n_blocks: int = 4, width: int = 256, roles: Sequence[str] = (), chat_template: str = ""
) -> Path:
    """A GGUF of ``n_blocks`` blocks with one matrix a role (`attn_q` … `ffn_down` if none is given), F16, zeros: 8 rows each."""
    given = roles or ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors = [Tensor("token_embd.weight", (width, 8), "F16"), Tensor("output_norm.weight", (width,), "F32")]
    tensors += [Tensor(f"blk.{i}.{role}.weight", (width, 8), "F16") for i in range(n_blocks) for role in given]
    metadata = {TEMPLATE: chat_template} if chat_template else {}
    model = Model(path, "llama", path.stem, n_blocks, "F16", 4096, tuple(tensors), 0, metadata)
    _write(path, model, model.types, FTYPES["F16"][0])
    return path


def _write(path: Path, model: Model, types: Mapping[str, str], file_type: int) -> None:
    """A GGUF of zeros with the tensors of ``model`` at ``types``."""
    import gguf

    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_name(model.name)
    writer.add_block_count(model.n_blocks)
    writer.add_context_length(model.context_length)
    writer.add_file_type(file_type)
    if TEMPLATE in model.metadata:
        writer.add_chat_template(model.metadata[TEMPLATE])
    for tensor in model.tensors:
        kind = STORED[types[tensor.name]]
        row_bytes = kind.n_bytes(tensor.row_length)
        zeros = np.zeros((*reversed(tensor.shape[1:]), row_bytes), np.uint8)
        writer.add_tensor(tensor.name, zeros, raw_dtype=gguf.GGMLQuantizationType(kind.id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
