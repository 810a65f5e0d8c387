"""What each layer of a model keeps of the tokens before: width of its keys and values, its window, its recurrent state. Pure.

Read from the file's metadata as llama.cpp reads them. Where the metadata leave a pattern out that an architecture has all the same, its
loader's own is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cerebellum.domain import Model
from cerebellum.errors import InputError

#: Bytes of a float.
F32 = 4

#: Architectures that have windows without saying in which layers: every n-th layer sees all; "first": that one comes first.
_WINDOWS: dict[str, tuple[int, bool]] = {
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gemma-embedding": (6, False),
    "cohere2": (4, False),
    "exaone4": (4, False),
    "exaone-moe": (4, False),
    "gpt-oss": (2, False),
    "llama4": (4, False),
    "olmo2": (4, False),
    "afmoe": (4, False),
    "smallthinker": (4, True),
    "modern-bert": (3, True),
}
_WINDOW_OF = {"llama4": 8192}
#: Every n-th layer has attention, the others a state.
_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
#: Layers with keys and values of their own, where the metadata don't say how many share.
_OWN_KEYS = {"gemma3n": 20}
#: Attention and a state in every layer.
_BOTH = ("falcon-h1",)


@dataclass(frozen=True, slots=True)
class Layer:
    """``keys`` and ``values``: numbers a token that the layer caches, 0 where it has none of its own; ``window``: tokens it looks back,
    None for all; ``state_bytes``: its recurrent state."""

    keys: int
    values: int
    window: int | None = None
    state_bytes: int = 0


#: More blocks than any llama.cpp opens (512 today): a file that says so would take memory in proportion.
MOST_BLOCKS = 4096


class Metadata:
    """The numbers of an architecture that memory depends on. Raises `InputError` for more blocks than `MOST_BLOCKS`."""

    def __init__(self, model: Model) -> None:
        self._model, self._prefix = model, f"{model.architecture}."
        self.n_blocks = model.n_blocks - self.number("nextn_predict_layers")
        if self.n_blocks > MOST_BLOCKS:
            raise InputError(
                f"{model.path.name} says that it has {self.n_blocks:,} blocks, more than llama.cpp opens; convert it again"
            )

    def value(self, key: str) -> Any:
        """The value under the architecture's name."""
        return self._model.metadata.get(self._prefix + key)

    def number(self, key: str, default: int = 0) -> int:
        """One number; of a list the largest."""
        value = self.value(key)
        if isinstance(value, tuple):
            value = max((v for v in value if isinstance(v, int)), default=default)
        return value if isinstance(value, int) else default

    def each(self, key: str, default: int = 0) -> list[int]:
        """One number a block: the metadata have a list or one for all."""
        value = self.value(key)
        if isinstance(value, tuple) and len(value) >= self.n_blocks and all(isinstance(v, int) for v in value):
            return [int(v) for v in value[: self.n_blocks]]
        return [self.number(key, default)] * self.n_blocks

    @property
    def width(self) -> int:
        """Numbers that go from layer to layer."""
        return self.number("embedding_length")

    @property
    def n_heads(self) -> int:
        return self.number("attention.head_count")

    @property
    def head_width(self) -> int:
        """Of a query or key; the metadata may leave it out."""
        return self.number("attention.key_length", self.width // max(1, self.n_heads))

    @property
    def query_width(self) -> int:
        return self.n_heads * max(self.head_width, self.number("attention.key_length_mla"))

    @property
    def n_vocab(self) -> int:
        """Rows of the output matrix or of the embedding."""
        for name in ("output.weight", "token_embd.weight"):
            if (tensor := self._model.tensor(name)) is not None and len(tensor.shape) > 1:
                return tensor.shape[1]
        return self.number("vocab_size")

    @property
    def feed_forward(self) -> int:
        """The widest: dense, or that of the experts that a token uses."""
        dense = self.number("feed_forward_length")
        used = self.number("expert_used_count")
        if not used:
            return dense
        experts = used * self.number("expert_feed_forward_length", dense)
        shared = self.number("expert_shared_feed_forward_length")
        return max(experts, shared, dense if self.number("leading_dense_block_count") else 0)

    @property
    def per_layer_width(self) -> int:
        """Gemma's inputs of each layer."""
        return self.number("embedding_length_per_layer_input")

    @property
    def inner_width(self) -> int:
        """Of a state-space layer."""
        return self.number("ssm.inner_size")


def layers_of(model: Model) -> tuple[Layer, ...]:
    """What each layer keeps, from the first to the last."""
    meta = Metadata(model)
    heads, windows, states = (
        meta.each("attention.head_count_kv", meta.n_heads),
        _windows(model, meta),
        _states(model, meta),
    )
    n_with_cache = meta.n_blocks - n_shared(model)
    return tuple(
        Layer(0, 0, None, states[block])
        if (states[block] and model.architecture not in _BOTH) or not heads[block] or block >= n_with_cache
        else Layer(*_widths(meta, heads[block], windows[block] is not None), windows[block], states[block])
        for block in range(meta.n_blocks)
    )  # fmt: skip


def n_shared(model: Model) -> int:
    """How many layers, the last ones, read the keys and values of an earlier one."""
    meta = Metadata(model)
    usual = meta.n_blocks - _OWN_KEYS.get(model.architecture, meta.n_blocks)
    return meta.number("attention.shared_kv_layers", usual)


def windows_of(model: Model) -> list[int | None]:
    """How many tokens each layer looks back, None for all; of layers that share keys and values too."""
    return _windows(model, Metadata(model))


def _widths(meta: Metadata, heads: int, has_window: bool) -> tuple[int, int]:
    """(keys, values) a token. With latent attention the values are a view of the keys."""
    key = meta.head_width
    value = meta.number("attention.value_length", key)
    if has_window:
        key, value = meta.number("attention.key_length_swa", key), meta.number("attention.value_length_swa", value)
    if meta.number("attention.key_length_mla") and meta.number("attention.value_length_mla"):
        return heads * key, 0
    return heads * key, heads * value


def _windows(model: Model, meta: Metadata) -> list[int | None]:
    """Each layer's window."""
    window = meta.number("attention.sliding_window", _WINDOW_OF.get(model.architecture, 0))
    pattern = meta.value("attention.sliding_window_pattern")
    if not window or (pattern is None and model.architecture not in _WINDOWS):
        return [None] * meta.n_blocks
    if isinstance(pattern, tuple) and len(pattern) >= meta.n_blocks:
        return [window if pattern[block] else None for block in range(meta.n_blocks)]
    period, is_first = _WINDOWS.get(model.architecture, (1, False))
    if isinstance(pattern, int) and pattern > 0:
        period = pattern
    full = 0 if is_first else period - 1
    return [None if block % period == full else window for block in range(meta.n_blocks)]


def _states(model: Model, meta: Metadata) -> list[int]:
    """Bytes of each layer's recurrent state: what a convolution still sees, and the state itself."""
    n_bytes = F32 * (_rolling(meta) + _state(meta))
    if not n_bytes:
        return [0] * meta.n_blocks
    interval = meta.number("full_attention_interval", _INTERVALS.get(model.architecture, 0))
    if interval:
        return [0 if (block + 1) % interval == 0 else n_bytes for block in range(meta.n_blocks)]
    if model.architecture in _BOTH:
        return [n_bytes] * meta.n_blocks
    heads = meta.each("attention.head_count_kv")
    return [0 if heads[block] else n_bytes for block in range(meta.n_blocks)]


def _rolling(meta: Metadata) -> int:
    if meta.number("wkv.head_size"):
        return meta.number("token_shift_count", 2) * meta.width
    if short := meta.number("shortconv.l_cache"):
        return meta.width * (short - 1)
    kernel = meta.number("ssm.conv_kernel")
    return max(0, kernel - 1) * (meta.inner_width + 2 * meta.number("ssm.group_count") * meta.number("ssm.state_size"))


def _state(meta: Metadata) -> int:
    if head := meta.number("wkv.head_size"):
        return meta.width * head
    return meta.number("ssm.state_size") * meta.inner_width
