"""What enters each matrix product, squared and summed: the eval callback of an importance matrix, and the decoding around it.

Products, rows, their order and the batches of chunks are those of llama-imatrix (``collect_imatrix`` and ``compute_imatrix`` in
tools/imatrix/imatrix.cpp). So the sums are the same to the last bit. Two differences change no sum: the product with the output matrix is
left out unless it is asked for, and one graph's tokens are decoded at a time, which takes less memory for logits.
"""

from __future__ import annotations

import ctypes as C
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Chunk
from cerebellum.errors import EngineError
from cerebellum.gguf.importance import GRAPH_TOKENS, Floats, Importance, Sums, n_side_by_side
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.protocol import Collected, Settings
from cerebellum.llamacpp.trial.decoding import Batch, decode, new_context
from cerebellum.scoring.loops.squares import add_squares

#: Fewer rows than these are no batch of text for llama-imatrix.
LEAST_ROWS = 16
#: What was collected is handed out, to be kept, after so many seconds, and after so many times what the last handing out took.
HAND_OUT, SHARE = 2.0, 30.0
OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"
_OP = native.GgmlTensor.op.offset
_F32 = 0

Offsets = npt.NDArray[np.int64]


def weight_name(name: str) -> str:
    """The weight that a product's first source is, or is a copy of on another device (``CUDA0#NAME#0``)."""
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name


class Collector:
    """The eval callback. ``sums`` are what it has collected; ``begin`` is what it goes on from.

    ``with_output``: the output matrix's inputs too; else its product is left out. ``least_rows``: fewer rows are passed over."""

    def __init__(self, begin: Importance | None, *, with_output: bool, least_rows: int) -> None:
        self.sums: dict[str, Sums] = {n: Sums(s.values.copy(), s.counts.copy()) for n, s in _entries(begin)}
        self.error: Exception | None = None
        self.callback = lc.ggml_backend_sched_eval_callback(self._see)
        self._with_output, self._least_rows = with_output, least_rows
        self._dense, self._expert = native.op_number("MUL_MAT"), native.op_number("MUL_MAT_ID")

    def _see(self, pointer: int, ask: bool, _user: Any) -> bool:
        op = C.c_int32.from_address(pointer + _OP).value
        if op not in (self._dense, self._expert):
            return not ask
        try:
            if ask:
                return self._wants(native.tensor_at(pointer), op)
            self._take(native.tensor_at(pointer), op)
        except Exception as error:  # none passes through native code
            self.error = self.error or error
        return not ask

    def _wants(self, node: native.GgmlTensor, op: int) -> bool:
        name, inputs = _name(node), native.tensor_at(node.src[1])
        if not self._with_output and name in (OUTPUT, EMBEDDING):
            node.op = native.OP_NONE
            return False
        if op == self._expert:
            return True
        if inputs.ne[1] < self._least_rows or inputs.type != _F32:
            return False
        return name.startswith("blk.") or (self._with_output and name == OUTPUT)

    def _take(self, node: native.GgmlTensor, op: int) -> None:
        name, weight, inputs = _name(node), native.tensor_at(node.src[0]), native.tensor_at(node.src[1])
        if inputs.type != _F32 or inputs.nb[0] != 4:
            raise EngineError(f"the inputs of {name} are not rows of float32")
        if op == self._expert:
            rows, matrices = _expert_rows(native.tensor_at(node.src[2]), node.src[2], inputs)
            n_matrices, n_counts = int(weight.ne[2]), int(weight.ne[2])
            counted = np.bincount(matrices, minlength=n_counts)
        else:
            rows, matrices = _dense_rows(weight, inputs)
            n_matrices, n_counts = int(weight.ne[2] * weight.ne[3]), 1
            counted = np.array([len(rows) // n_matrices])
        width = int(inputs.ne[0])
        sums = self._entry(name, width * n_matrices, n_counts)
        add_squares(_floats(node.src[1], inputs), rows, matrices * width, width, sums.values)
        counts = sums.counts
        counts += counted  # of one count, or one for each expert; a weight used both ways has the latter
        if not np.isfinite(sums.values).all():
            raise EngineError(
                f"the inputs of {name} are not finite, so it has no importance: the model overflows on this text; use its BF16 or F32 file"
            )

    def _entry(self, name: str, n_values: int, n_counts: int) -> Sums:
        """The entry to add to, made where it is missing. Raises `EngineError` where what was begun with has another size."""
        sums = self.sums.get(name)
        if sums is None:
            sums = Sums(np.zeros(n_values, np.float32), np.zeros(n_counts, np.int64))
        elif n_counts > 1:
            sums = sums.spread(n_counts)
        elif len(sums.counts) > 1:
            sums = sums.gathered()
        if sums.values.size != n_values or (n_counts > 1 and len(sums.counts) != n_counts):
            raise EngineError(f"{name} needs {n_values} values, what was given has {sums.values.size}")
        self.sums[name] = sums
        return sums


def _entries(importance: Importance | None) -> Sequence[tuple[str, Sums]]:
    return tuple(importance.entries.items()) if importance else ()


def _name(node: native.GgmlTensor) -> str:
    return weight_name(native.tensor_at(node.src[0]).name.decode("utf-8", "replace"))


def _dense_rows(weight: native.GgmlTensor, inputs: native.GgmlTensor) -> tuple[Offsets, Offsets]:
    """Of each row of the inputs, in their order: its first value's place, and the matrix of the weight that it meets."""
    _, rows, inner, outer = map(int, inputs.ne)
    k, j, i = (index.reshape(-1) for index in np.indices((outer, inner, rows)))
    offset = i * inputs.nb[1] + j * inputs.nb[2] + k * inputs.nb[3]
    return offset // 4, (k % weight.ne[3]) * weight.ne[2] + j % weight.ne[2]


def _expert_rows(ids: native.GgmlTensor, pointer: int, inputs: native.GgmlTensor) -> tuple[Offsets, Offsets]:
    """The same where each token's row meets the experts that ``ids`` [used, tokens] chose, slot by slot."""
    n_used, n_tokens = int(ids.ne[0]), int(inputs.ne[2])
    raw = _bytes(pointer, ids)
    slot, token = (index.reshape(-1) for index in np.indices((n_used, n_tokens)))
    cell = (token * ids.nb[1] + slot * ids.nb[0]) // 4
    chosen = raw.view(np.int32)[cell].astype(np.int64)
    return ((slot % inputs.ne[1]) * inputs.nb[1] + token * inputs.nb[2]) // 4, chosen


def _floats(pointer: int, t: native.GgmlTensor) -> Floats:
    return _bytes(pointer, t).view(np.float32)


def _bytes(pointer: int, t: native.GgmlTensor) -> npt.NDArray[np.uint8]:
    """A tensor's memory, gaps of a view included: where it lies, or copied from a device."""
    library = native.ggml()
    n = library.ggml_nbytes(pointer)
    buffer = t.buffer or native.tensor_at(t.view_src).buffer
    if library.ggml_backend_buffer_is_host(buffer):
        return np.ctypeslib.as_array(C.cast(t.data, C.POINTER(C.c_uint8)), shape=(n,))
    out = np.empty(n, np.uint8)
    library.ggml_backend_tensor_get(pointer, out.ctypes.data, 0, n)
    return out


def collect(
    model: Any, settings: Settings, chunks: Sequence[Chunk], begin: Importance | None, *, with_output: bool
) -> Iterator[Collected]:
    """Decode ``chunks`` and sum up what enters the products; see `cerebellum.llamacpp.protocol.Engine.importance`."""
    collector = Collector(begin, with_output=with_output, least_rows=LEAST_ROWS if _is_plain(chunks) else 1)
    n_ctx = max(len(chunk.tokens) for chunk in chunks)
    together = n_side_by_side(n_ctx) if _is_plain(chunks) else 1
    context = new_context(
        model,
        settings,
        n_ctx=n_ctx,
        n_batch=GRAPH_TOKENS,
        n_graph=GRAPH_TOKENS,
        n_threads=settings.threads,
        n_seq=together,
        callback=collector.callback,
    )
    batch = Batch(GRAPH_TOKENS)
    try:
        due = 0.0  # the first sums are handed out at once: what is killed soon is continued too
        for first in range(0, len(chunks), together):
            _decode_together(context, batch, chunks[first : first + together], collector)
            done, now = min(first + together, len(chunks)), time.monotonic()
            if done < len(chunks) and now < due:
                yield Collected(done)
                continue
            yield Collected(done, _handed(collector, n_ctx))
            due = time.monotonic() + max(HAND_OUT, SHARE * (time.monotonic() - now))
    finally:
        lc.llama_free(context)


def _is_plain(chunks: Sequence[Chunk]) -> bool:
    """Whether the chunks are cut from one text, all of one length, and no conversations."""
    return all(chunk.scored is None for chunk in chunks)


def _handed(collector: Collector, n_ctx: int) -> Importance:
    return Importance(dict(sorted(collector.sums.items())), (), n_ctx)


def _decode_together(context: Any, batch: Batch, chunks: Sequence[Chunk], collector: Collector) -> None:
    """Some chunks of one length, each a sequence of its own, a graph at a time. Raises `EngineError`."""
    lc.llama_memory_clear(lc.llama_get_memory(context), True)
    n, step = len(chunks[0].tokens), GRAPH_TOKENS // len(chunks)
    for start in range(0, n, step):
        span = slice(start, min(n, start + step))
        everything = np.ones(span.stop - start, np.bool_)
        filled = batch.fill([chunk.tokens[span] for chunk in chunks], start, [everything] * len(chunks))
        decode(context, filled)
        lc.llama_synchronize(context)
        if collector.error:
            raise EngineError(f"chunks {chunks[0].id} to {chunks[-1].id}: {collector.error}") from collector.error
