"""The nouns of the package: frozen, comparable dataclasses that touch neither files nor llama.cpp."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.gguf.types import STORED, QuantType
from cerebellum.keys import content_key

Tokens = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_BLOCK_NAME = re.compile(r"^blk\.(\d+)\.(.+)$")


def role_of(name: str) -> str:
    """A tensor's role: its name without block number and ``.weight`` (``blk.3.ffn_gate.weight`` → ``ffn_gate``)."""
    match = _BLOCK_NAME.match(name)
    return (match[2] if match else name).removesuffix(".weight")


def block_of(name: str) -> int | None:
    """The block number in a tensor's name, or None for tensors outside the blocks."""
    match = _BLOCK_NAME.match(name)
    return int(match[1]) if match else None


class ByValue:
    """Equality and hash of a dataclass (``eq=False``) that holds arrays: two arrays are equal in type, shape and every value."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[Any, ...]:
        compared = (getattr(self, f.name) for f in fields(self) if f.compare)  # type: ignore[arg-type]
        return tuple((v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in compared)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a GGUF. ``shape`` is ggml's order: the row length comes first."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def role(self) -> str:
        return role_of(self.name)

    @property
    def block(self) -> int | None:
        return block_of(self.name)

    @property
    def row_length(self) -> int:
        return self.shape[0]

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.bytes_as(STORED[self.type])

    def bytes_as(self, quant: QuantType) -> int:
        """Bytes this tensor takes when stored as ``quant``."""
        return quant.n_bytes(self.n_elements)


@dataclass(frozen=True, slots=True)
class Model:
    """What a GGUF file says of itself: enough to plan with, no weights. ``files``: its files, of which ``path`` is the first, and
    ``file_bytes`` the bytes of all."""

    path: Path
    architecture: str
    name: str
    n_blocks: int
    ftype: str | None
    context_length: int
    tensors: tuple[Tensor, ...]
    file_bytes: int
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    files: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    @property
    def types(self) -> dict[str, str]:
        """Tensor name → type name, for every tensor."""
        return {t.name: t.type for t in self.tensors}

    @property
    def tensor_bytes(self) -> int:
        return sum(t.n_bytes for t in self.tensors)

    @property
    def n_weights(self) -> int:
        return sum(t.n_elements for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.tensor_bytes / max(1, self.n_weights)

    @property
    def is_quantized(self) -> bool:
        """Whether any matrix is stored in a quantized type: such a file can only be quantized a second time."""
        return any(STORED[t.type].quantized for t in self.tensors)

    def tensor(self, name: str) -> Tensor | None:
        return next((t for t in self.tensors if t.name == name), None)


@dataclass(frozen=True, order=True, slots=True)
class TensorType:
    """One tensor stored in another type. ``type`` is the type really stored, never one that falls back."""

    tensor: str
    type: str


TensorTypes = tuple[TensorType, ...]


def tensor_types_of(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> TensorTypes:
    """TensorTypes in canonical order from ``{tensor: type}``."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return tuple(sorted(TensorType(tensor, kind) for tensor, kind in items))


class TrialKind(enum.StrEnum):
    """What a trial is for."""

    BASE = "base"
    SINGLE = "single"
    RECIPE = "recipe"
    BLANKET = "blanket"
    RANDOM = "random"
    REQUANTIZED = "requantized"
    REFERENCE = "reference"
    FILE = "file"
    RUNG = "rung"


@dataclass(frozen=True, slots=True)
class Trial:
    """A named set of swaps away from the base: one thing that can be measured."""

    label: str
    kind: TrialKind
    tensor_types: TensorTypes = ()

    def types(self, base: Mapping[str, str]) -> dict[str, str]:
        """Every tensor's realized type in this trial, given the base file's."""
        return {**base, **{s.tensor: s.type for s in self.tensor_types}}

    def key(self, base: Mapping[str, str]) -> str:
        """Content key of the realized types: two labels that store the same types are one trial."""
        return content_key("types", self.types(base))


@dataclass(frozen=True, slots=True, eq=False)
class Chunk(ByValue):
    """``tokens`` int32 [n], first one already BOS where the vocabulary wants it; ``id`` is its place in the text.

    ``scored`` bool [n] says which tokens' predictions are scored; None: those of the second half, as ``llama-perplexity`` does.
    """

    id: int
    tokens: Tokens
    scored: Mask | None = None

    def wanted(self) -> Mask:
        """Positions whose logits are scored, bool [n]: each predicts the token after it."""
        n = len(self.tokens)
        if self.scored is None:
            return (np.arange(n) >= n // 2) & (np.arange(n) < n - 1)
        return np.append(self.scored[1:], False)


@dataclass(frozen=True, slots=True, eq=False)
class Turns(ByValue):
    """How conversations lie in a `Corpus`, one after the other, each of them a chunk.

    Chunk i is tokens ``bounds[i]`` … ``bounds[i + 1]`` − 1 (int64 [n_chunks + 1]); ``scored`` bool [n] marks the assistant's tokens.
    ``n_cut`` of them lost what is past ``n_ctx`` tokens; ``n_dropped`` others had nothing to score before that. ``refused``: why
    others still were left out, which the model's template can't show.
    """

    bounds: npt.NDArray[np.int64]
    scored: Mask
    n_cut: int
    n_dropped: int
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Corpus:
    """A tokenized text, cut into consecutive chunks of ``n_ctx`` tokens as ``llama-perplexity`` does.

    With ``turns`` it holds conversations: chunks of at most ``n_ctx`` tokens, of which the assistant's are scored.
    """

    name: str
    text_sha256: str
    tokens_sha256: str
    n_ctx: int
    tokens: Tokens = field(repr=False, compare=False)
    bos: int | None
    turns: Turns | None = field(default=None, repr=False, compare=False)

    @property
    def n_chunks(self) -> int:
        return len(self.tokens) // self.n_ctx if self.turns is None else len(self.turns.bounds) - 1

    def span(self, number: int) -> slice:
        """Where chunk ``number`` lies in ``tokens``."""
        if self.turns is None:
            return slice(number * self.n_ctx, (number + 1) * self.n_ctx)
        return slice(int(self.turns.bounds[number]), int(self.turns.bounds[number + 1]))

    def chunk(self, number: int) -> Chunk:
        """Chunk ``number`` with its first token replaced by BOS where the vocabulary wants one."""
        if not 0 <= number < self.n_chunks:
            raise IndexError(f"{self.name} has {self.n_chunks} chunks of {self.n_ctx} tokens, no chunk {number}")
        tokens = self.tokens[self.span(number)].copy()
        if self.bos is not None:
            tokens[0] = self.bos
        return Chunk(number, tokens, None if self.turns is None else self.turns.scored[self.span(number)])

    def chunks(self, numbers: Sequence[int]) -> list[Chunk]:
        return [self.chunk(number) for number in numbers]


@dataclass(frozen=True, slots=True)
class ChunkScore:
    """Sums over the scored tokens of one chunk, in nats; divide once, at the end.

    ``tempered`` holds the NLL sums at `cerebellum.scoring.metrics.INVERSE_TEMPERATURES`. The KL fields are None where no
    reference was given: ``kld`` is the sum of KL(reference ‖ trial), ``kld_var`` the variance that drawing part of the
    reference's words adds to it (0 where its rows are complete), ``same_top`` counts tokens whose most likely next token
    agrees, ``dp``, ``dp2`` and ``dp4`` are sums of powers of the change in the true token's probability, ``kld_tokens`` the
    per-token values (float32) for the tail.
    """

    chunk: int
    n_tokens: int
    nll: float
    nll2: float
    tempered: tuple[float, ...] = ()
    kld: float | None = None
    kld2: float | None = None
    kld_var: float | None = None
    same_top: int | None = None
    dp: float | None = None
    dp2: float | None = None
    dp4: float | None = None
    kld_tokens: bytes | None = field(default=None, repr=False)
