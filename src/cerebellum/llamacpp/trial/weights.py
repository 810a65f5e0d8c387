"""The weights of an opened model: found once, and stored in other types and put back while the model stays open.

New data for a tensor lives in a buffer of the old buffer's type (``ggml_backend_buffer_get_type``). It is allocated and filled through
ggml's backend calls, so the same code serves CPU and GPU. An exchange copies no data: it writes the type, strides, buffer and data pointer
of the public struct. A tied embedding can be several structs of one name, on the CPU and on a GPU; all of them are exchanged.

Data in other types stays in a cache of bounded size. Trials run over the same list of tensors again and again. When the cache is full, a
least-recently-used rule would evict each entry just before its next use. So of the entries that are still expected, the most recently used
one is evicted first, and a part of the list stays in the cache for every round.

Recipes that are measured together differ in few tensors. A recipe can be larger than the cache. Its data stays until the next swap, which
keeps what both have and evicts the rest before it stores more: no more memory is taken at a time than the larger one needs.
"""

from __future__ import annotations

import collections
import ctypes as C
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cerebellum.domain import TensorTypes
from cerebellum.errors import EngineError
from cerebellum.gguf.types import quant_type
from cerebellum.llamacpp import native
from cerebellum.llamacpp.trial.quantizer import Bytes

_FIELDS = ("type", "buffer", "data", "extra")


class WeightFinder:
    """An eval callback that notes every tensor a graph's nodes read, by name."""

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = {}
        self._seen: set[int] = set()

    def __call__(self, pointer: int, ask: bool, _user: Any) -> bool:
        if ask:
            self._note(native.tensor_at(pointer))
        return False

    def _note(self, node: native.GgmlTensor) -> None:
        for address in (*node.src, node.view_src):
            if address and address not in self._seen:
                self._seen.add(address)
                leaf = native.tensor_at(address)
                if leaf.op == native.OP_NONE and not leaf.view_src:
                    self.found.setdefault(leaf.name.decode("utf-8", "replace"), []).append(address)


@dataclass(slots=True)
class Stored:
    """A tensor's data in another type, in a buffer of its own."""

    struct: native.GgmlTensor
    buffer: int
    context: int
    n_bytes: int

    def free(self) -> None:
        native.ggml().ggml_backend_buffer_free(self.buffer)
        native.ggml().ggml_free(self.context)


def store_like(old: native.GgmlTensor, type_id: int, data: Bytes) -> Stored:
    """Allocate and fill a tensor of ``old``'s shape and buffer type. Raises `EngineError` where memory runs out."""
    library = native.ggml()
    size = library.ggml_tensor_overhead() + 1024
    context = library.ggml_init(native.InitParams(size, None, True))
    shape = (C.c_int64 * native.MAX_DIMS)(*old.ne)
    pointer = library.ggml_new_tensor(context, type_id, native.MAX_DIMS, shape)
    if library.ggml_nbytes(pointer) != data.nbytes:
        needed = library.ggml_nbytes(pointer)
        library.ggml_free(context)
        raise EngineError(f"{old.name.decode()} takes {needed} bytes, {data.nbytes} were given")
    kind = library.ggml_backend_buffer_get_type(old.buffer)
    buffer = library.ggml_backend_alloc_ctx_tensors_from_buft(context, kind)
    if not buffer:
        library.ggml_free(context)
        raise EngineError(f"no memory for {data.nbytes} bytes of {old.name.decode()} in another type")
    library.ggml_backend_buffer_set_usage(buffer, native.USAGE_WEIGHTS)
    library.ggml_backend_tensor_set(pointer, data.ctypes.data, 0, data.nbytes)
    return Stored(native.tensor_at(pointer), buffer, context, data.nbytes)


def _buffer_type(t: native.GgmlTensor) -> int:
    return int(native.ggml().ggml_backend_buffer_get_type(t.buffer))


def _store_like_all(likes: Sequence[native.GgmlTensor], type_id: int, data: Bytes) -> dict[int, Stored]:
    """Once in each of their types of buffers. Raises as `store_like`, and then nothing is kept."""
    stored: dict[int, Stored] = {}
    try:
        for like in likes:
            if (buffer_type := _buffer_type(like)) not in stored:
                stored[buffer_type] = store_like(like, type_id, data)
    except BaseException:
        for each in stored.values():
            each.free()
        raise
    return stored


class Weights:
    """The swappable weights of one model and a bounded cache of their data in other types."""

    def __init__(self, pointers: dict[str, list[int]], make: Callable[[str, str], Bytes], cache_bytes: int) -> None:
        """``make(tensor, type)`` gives the bytes; ``cache_bytes`` bounds what is kept of them after a swap ends."""
        self.found = pointers
        self._make = make
        self._limit = cache_bytes
        self._cache: collections.OrderedDict[tuple[str, str], dict[int, Stored]] = collections.OrderedDict()
        self._expected: frozenset[tuple[str, str]] = frozenset()
        self._in_force: TensorTypes = ()
        self._maker = ThreadPoolExecutor(1)
        self._coming: dict[tuple[str, str], Future[Bytes]] = {}

    def expect(self, trials: Iterable[TensorTypes]) -> None:
        """Say which tensors the coming trials will need in which types. `trim` evicts other entries first."""
        self._expected = frozenset((swap.tensor, swap.type) for tensor_types in trials for swap in tensor_types)

    def ahead(self, tensor_types: TensorTypes) -> None:
        """Begin to quantize the tensors of the next trial in the background, as many as the cache may hold."""
        wanted = [(swap.tensor, swap.type) for swap in tensor_types if swap.tensor in self.found]
        for key in self._coming.keys() - wanted:
            self._coming.pop(key).cancel()
        size = sum(map(self._size, self._coming))
        for key in wanted:
            if key not in self._cache and key not in self._coming and size + self._size(key) <= self._limit:
                size += self._size(key)
                self._coming[key] = self._maker.submit(self._make, *key)

    def _size(self, key: tuple[str, str]) -> int:
        """How many bytes a tensor of another type takes, in all buffers together."""
        tensor, kind = key
        structs = [native.tensor_at(pointer) for pointer in self.found[tensor]]
        n_places = len({_buffer_type(struct) for struct in structs})
        return n_places * quant_type(kind).n_bytes(math.prod(map(int, structs[0].ne)))

    @property
    def makes_ahead(self) -> bool:
        """Whether a tensor is still being quantized in the background."""
        return any(not coming.done() for coming in self._coming.values())

    @contextmanager
    def swapped(self, tensor_types: TensorTypes) -> Iterator[None]:
        """The model with ``tensor_types`` in force; the base's weights are back when the block ends, however it ends."""
        if self._in_force:
            raise EngineError("swaps are already in force")
        kept: list[tuple[native.GgmlTensor, tuple[Any, ...], list[int]]] = []
        wanted = {(swap.tensor, swap.type) for swap in tensor_types if swap.tensor in self.found}
        room = max(self._limit, sum(map(self._size, wanted)))
        self.trim(room - sum(map(self._size, wanted - self._cache.keys())), wanted)
        self._in_force = tensor_types
        try:
            for swap in tensor_types:
                targets = [native.tensor_at(pointer) for pointer in self.found.get(swap.tensor, ())]
                stored = self._stored(swap.tensor, swap.type, targets) if targets else {}
                for target in targets:
                    new = stored[_buffer_type(target)].struct
                    kept.append((target, tuple(getattr(target, name) for name in _FIELDS), list(target.nb)))
                    _put(target, tuple(getattr(new, name) for name in _FIELDS), list(new.nb))
            yield
        finally:
            for target, values, strides in reversed(kept):
                _put(target, values, strides)
            self._in_force = ()
            self.trim(room)

    def rest(self) -> None:
        """Between sweeps no more is cached than asked for."""
        self.trim(self._limit)

    def _stored(self, tensor: str, kind: str, likes: Sequence[native.GgmlTensor]) -> dict[int, Stored]:
        """The tensor's data in type ``kind``, by type of buffer: quantized once, stored once in each type of buffer."""
        key = (tensor, kind)
        if key not in self._cache:
            coming = self._coming.pop(key, None)
            data = coming.result() if coming else self._make(tensor, kind)
            self._cache[key] = _store_like_all(likes, quant_type(kind).id, data)
        self._cache.move_to_end(key)
        return self._cache[key]

    def trim(self, limit: int, wanted: Collection[tuple[str, str]] = ()) -> None:
        """Evict entries, none that is ``wanted``, until at most ``limit`` bytes are cached: first those not expected, least recently used
        first; then expected ones, most recently used first (the module says why)."""
        size = sum(stored.n_bytes for by_type in self._cache.values() for stored in by_type.values())
        others = [key for key in self._cache if key not in self._expected and key not in wanted]
        expected = [key for key in reversed(self._cache) if key in self._expected and key not in wanted]
        for key in others + expected:
            if size <= limit:
                return
            for stored in self._cache.pop(key).values():
                size -= stored.n_bytes
                stored.free()

    def close(self) -> None:
        """Free every cached buffer."""
        self._maker.shutdown(cancel_futures=True)
        self.trim(0)


def _put(target: native.GgmlTensor, values: tuple[Any, ...], strides: list[int]) -> None:
    for name, value in zip(_FIELDS, values, strict=True):
        setattr(target, name, value)
    target.nb[:] = strides
