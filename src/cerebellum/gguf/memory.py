"""Memory that a model takes in llama.cpp, from its file's metadata: weights, key/value cache, recurrent states, compute buffers. Pure.

The rules are llama.cpp's: how many cells a cache has (``llama-kv-cache-iswa.cpp``), how wide a layer's keys and values are and which layers
have a window or a state (``llama-hparams.cpp``, the models' own loaders), which layers go to a device (``llama-model.cpp``). The cache and
the weights are exact. Compute buffers are the largest of a few moments of a forward pass; ``benchmarks/memory_figures.py`` compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from cerebellum.domain import ByValue, Model, Tensor
from cerebellum.errors import InputError
from cerebellum.gguf.memory_layers import F32, Layer, Metadata, layers_of
from cerebellum.gguf.types import STORED, TYPES, QuantType

#: Cells of a cache are a multiple of this.
CELLS = 256
#: The fewest bits a weight that a table on the host is counted with, where its type isn't chosen yet (IQ1_S).
_FEWEST_BITS = 1.5625
_BLOCK = re.compile(r"blk\.(\d+)\.")
#: Tensors that llama.cpp only looks up in: they stay in the host's memory.
_LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")


@dataclass(frozen=True, slots=True)
class ContextUse:
    """How a model is opened: ``n_ctx`` tokens of context, types of the cached keys and values, layers on the device (below 0: all),
    flash attention (llama.cpp's own default where the device can), tokens decoded at a time."""

    n_ctx: int
    type_k: str = "F16"
    type_v: str = "F16"
    n_gpu_layers: int = -1
    flash_attention: bool = True
    n_ubatch: int = 512


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of one memory. ``cache``: keys, values and recurrent states."""

    weights: int = 0
    cache: int = 0
    compute: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.cache + self.compute + self.output

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            self.weights + other.weights,
            self.cache + other.cache,
            self.compute + other.compute,
            self.output + other.output,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Footprint(ByValue):
    """What goes to the device (a GPU) and what to the host's memory."""

    device: Bytes
    host: Bytes

    @property
    def both(self) -> Bytes:
        """As one: what a machine without a GPU, or with one memory for both, needs."""
        return self.device + self.host


@dataclass(frozen=True, slots=True)
class Allocated:
    """What llama.cpp reports that it allocates, weights aside; ``compute`` by device name."""

    cache: int
    output: int
    compute: Mapping[str, int]

    @property
    def device_compute(self) -> int:
        """Of the largest compute buffer: the device's, or the only one."""
        return max(self.compute.values(), default=0)


def footprint(model: Model, use: ContextUse) -> Footprint:
    """Bytes that llama.cpp allocates for one sequence. Raises `InputError` for a cache type or a context that it refuses."""
    check_use(model, use)
    meta, n_device = Metadata(model), device_layers(model, use.n_gpu_layers)
    weights, cache = _weights(model, n_device), _caches(layers_of(model), use, n_device)
    compute, output = compute_bytes(model, use), F32 * meta.n_vocab
    if n_device == 0:
        return Footprint(Bytes(), Bytes(weights[1], cache[1], compute, output))
    inputs = F32 * min(use.n_ubatch, use.n_ctx) * meta.width
    is_whole = n_device > meta.n_blocks
    host = Bytes(weights[1], cache[1], inputs if is_whole else compute, output)
    return Footprint(Bytes(weights[0], cache[0], compute), host)


def check_use(model: Model, use: ContextUse) -> None:
    """Raise `InputError` for what llama.cpp refuses."""
    head = Metadata(model).head_width
    for kind in (cache_type(use.type_k), cache_type(use.type_v)):
        if head % kind.block_size:
            raise InputError(
                f"heads of {head} numbers can't be cached as {kind.name}, which has blocks of {kind.block_size}: use F16"
            )
    if use.n_ctx < 1:
        raise InputError(f"a context of {use.n_ctx} tokens has no room; give a larger one (--ctx)")
    if cache_type(use.type_v).quantized and not use.flash_attention:
        raise InputError(f"values can be cached as {use.type_v} only with flash attention: leave out one of the two")


def cache_type(name: str) -> QuantType:
    """A type that keys and values can be cached in (`--cache-type-k` of llama.cpp's programs). Raises `InputError`."""
    allowed = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1")
    if name.upper() not in allowed:
        raise InputError(f"keys and values can't be cached as {name}; llama.cpp has {', '.join(allowed)}")
    return (TYPES | STORED)[name.upper()]


def device_layers(model: Model, n_gpu_layers: int) -> int:
    """Layers on the device, the output counted as one more than the blocks."""
    most = Metadata(model).n_blocks + 1
    return most if n_gpu_layers < 0 else min(n_gpu_layers, most)


# -- weights -----------------------------------------------------------------------------------------------------------


def _weights(model: Model, n_device: int) -> tuple[int, int]:
    """(on the device, on the host). With a tied embedding and the output on the device, the embedding is in both."""
    n_blocks = Metadata(model).n_blocks
    device = sum(t.n_bytes for t in model.tensors if _is_on_device(t, n_blocks, n_device))
    host = model.tensor_bytes - device
    if n_device > n_blocks and _is_tied(model):
        device += next(t.n_bytes for t in model.tensors if t.name == _LOOKED_UP[0])
    return device, host


def _is_on_device(tensor: Tensor, n_blocks: int, n_device: int) -> bool:
    block = _BLOCK.match(tensor.name)
    if block:
        return int(block[1]) > n_blocks - n_device
    return n_device > n_blocks and tensor.name not in _LOOKED_UP


def _is_tied(model: Model) -> bool:
    names = {t.name for t in model.tensors}
    return "output.weight" not in names and _LOOKED_UP[0] in names


# -- cache -------------------------------------------------------------------------------------------------------------


def _caches(layers: tuple[Layer, ...], use: ContextUse, n_device: int) -> tuple[int, int]:
    """(on the device, on the host): each layer's cache is where its weights are."""
    device = host = 0
    for number, n_bytes in enumerate(_each_cache(layers, use)):
        if number > len(layers) - n_device:
            device += n_bytes
        else:
            host += n_bytes
    return (device, host) if n_device else (0, host)


def cache_bytes(model: Model, use: ContextUse) -> int:
    """Keys, values and recurrent states of all layers."""
    return sum(_each_cache(layers_of(model), use))


def _each_cache(layers: tuple[Layer, ...], use: ContextUse) -> Iterator[int]:
    kind_k, kind_v = cache_type(use.type_k), cache_type(use.type_v)
    #: Without flash attention values lie transposed, all as wide as the widest.
    widest = max((layer.values for layer in layers), default=0)
    for layer in layers:
        if not layer.keys:
            yield layer.state_bytes
            continue
        values = layer.values if use.flash_attention or not layer.values else widest
        row = kind_k.n_bytes(layer.keys) + kind_v.n_bytes(values)
        yield cells_of(layer, use) * row + layer.state_bytes


def cells_of(layer: Layer, use: ContextUse) -> int:
    """Tokens that the layer's cache has room for."""
    whole = _padded(use.n_ctx)
    return whole if layer.window is None else _padded(min(whole, layer.window + use.n_ubatch))


def _padded(n: int) -> int:
    return -(-n // CELLS) * CELLS


# -- compute buffers ---------------------------------------------------------------------------------------------------


def compute_bytes(model: Model, use: ContextUse) -> int:
    """The buffer that a forward pass over ``n_ubatch`` tokens computes in: the largest of its moments, which share it.

    Attention holds the mask (and without flash attention all scores of all heads), feed-forward its gate, product and result, the end the
    logits. Gemma's per-layer inputs are made of four arrays as large; its logits lie behind those, or behind the mask.
    """
    meta, layers, tokens = Metadata(model), layers_of(model), min(use.n_ubatch, _padded(use.n_ctx))
    row = F32 * tokens
    cells = {cells_of(layer, use) for layer in layers if layer.keys}
    mask = sum(cells) * tokens * (2 if use.flash_attention else F32)
    scores = 0 if use.flash_attention or not cells else max(cells) * row * meta.n_heads
    width, per_layer = meta.width, row * meta.n_blocks * meta.per_layer_width
    keys = max((layer.keys for layer in layers), default=0)
    moments = (
        row * (meta.n_vocab + 2 * width) + (max(mask, 4 * per_layer) if per_layer else 0),
        mask + scores + row * (3 * width + 2 * meta.query_width + 2 * keys) + per_layer,
        mask + row * (3 * width + 3 * meta.feed_forward) + per_layer,
        mask + row * 2 * width + 4 * per_layer,
        row * (width + 6 * meta.inner_width),
    )
    return max(moments)


# -- what fits ---------------------------------------------------------------------------------------------------------


def largest_context(model: Model, n_bytes: int, use: ContextUse, most: int, measured: Measure | None = None) -> int:
    """The largest context (a multiple of 256, at most ``most``) with which the device's part is at most ``n_bytes``; 0 where none is.

    ``measured``: what gives the bytes of a use, where not `footprint`.
    """
    needed = measured or (lambda each: footprint(model, each).device.total)
    low, high = 0, most // CELLS
    while low < high:
        middle = (low + high + 1) // 2
        if needed(replace(use, n_ctx=middle * CELLS)) <= n_bytes:
            low = middle
        else:
            high = middle - 1
    return low * CELLS


Measure = Callable[[ContextUse], int]


def file_bytes_for(model: Model, n_bytes: int, use: ContextUse) -> int:
    """The most bytes of a file made of ``model`` that a device of ``n_bytes`` holds whole, with the context of ``use``.

    Tables that are only looked up in are on the host. Their types aren't chosen yet, so they are counted with the fewest bits that a type
    has: the file that is made never needs more than this says. Raises `InputError` where the context alone is too large.
    """
    whole = replace(use, n_gpu_layers=-1)
    parts = footprint(model, whole).device
    room = n_bytes - parts.cache - parts.compute - parts.output
    tied = _LOOKED_UP[0] if _is_tied(model) else ""
    tables = sum(t.n_elements for t in model.tensors if t.name in _LOOKED_UP and t.name != tied)
    header = model.file_bytes - model.tensor_bytes
    size = room + int(tables * _FEWEST_BITS / 8) + header
    if room <= 0:
        raise InputError(
            f"a context of {use.n_ctx:,} tokens alone needs {n_bytes - room:,} bytes beside the weights, and {n_bytes:,} are there: give a "
            "smaller context (--fit-ctx), smaller cache types (--cache-type-k, --cache-type-v) or more memory (--vram)"
        )
    return size
