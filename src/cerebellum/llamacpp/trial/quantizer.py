"""Quantize one tensor exactly as `llama_model_quantize` would: its rows to floats, floats to blocks, rows in parallel.

ggml quantizes each row on its own, so splitting the rows over threads changes no byte. Expert tensors (3-D) take their own slice of the
importance matrix per expert, as llama.cpp does.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Tensor
from cerebellum.errors import EngineError, TypeChoiceError
from cerebellum.gguf.types import QuantType, needs_imatrix, quant_type
from cerebellum.llamacpp import native
from cerebellum.parallel import Threads

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: The fewest weights handed to a thread: 2 ms of Q2_K. Of the fastest types so few cost a few tenths of a millisecond more than alone.
_LEAST_WEIGHTS = 1 << 14
#: The most, which a thread has as floats at a time.
_MOST_WEIGHTS = 1 << 18


def to_floats(kind: QuantType, raw: Bytes, n_per_row: int) -> Floats:
    """``raw`` uint8 [rows, row bytes] → float32 [rows, n_per_row], by ggml's own conversion."""
    raw = np.ascontiguousarray(raw)
    if kind.name == "F32":
        return raw.view(np.float32).reshape(len(raw), n_per_row)
    out = np.empty((len(raw), n_per_row), np.float32)
    library = native.ggml()
    if kind.name == "F16":
        library.ggml_fp16_to_fp32_row(raw.ctypes.data, out.ctypes.data, out.size)
    elif kind.name == "BF16":
        library.ggml_bf16_to_fp32_row(raw.ctypes.data, out.ctypes.data, out.size)
    else:
        address = library.ggml_get_type_traits(kind.id).contents.to_float
        if not address:
            raise TypeChoiceError(f"ggml can't turn {kind.name} into floats, so it can't be quantized again")
        native.TO_FLOAT(address)(raw.ctypes.data, out.ctypes.data, out.size)
    return out


def imatrix_rows(tensor: Tensor, entry: Floats | None) -> Floats | None:
    """The importance rows [experts, row length] for a tensor, or None.

    Like llama.cpp, a wrong size is ignored for token embeddings (it always happens there) and an error elsewhere.
    """
    if entry is None:
        return None
    experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
    if entry.size == tensor.row_length * experts:
        return np.ascontiguousarray(entry, np.float32).reshape(experts, tensor.row_length)
    if tensor.name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return None
    raise TypeChoiceError(
        f"the importance matrix has {entry.size} values for {tensor.name}, which needs {tensor.row_length * experts}: "
        "it was made from another model"
    )


def check_fits(tensor: Tensor, kind: QuantType, has_imatrix: bool) -> None:
    """Raises `TypeChoiceError` where ``tensor`` can't be stored as ``kind``."""
    if not kind.fits(tensor.row_length):
        raise TypeChoiceError(
            f"{tensor.name} can't be {kind.name}: its rows hold {tensor.row_length} weights, not a multiple of {kind.block_size}"
        )
    if needs_imatrix(kind.name, tensor.name) and not has_imatrix:
        raise TypeChoiceError(
            f"{tensor.name} can't be {kind.name} without an importance matrix's entry for it: give a matrix that has one with --imatrix"
        )


def quantize_rows(tensor: Tensor, raw: Bytes, target: str, importance: Floats | None, threads: Threads) -> Bytes:
    """Store ``raw`` (uint8 [rows, row bytes] in the tensor's own type) as ``target``: uint8 [rows, row bytes].

    ``importance`` is float32 [experts, row length] or None. Raises `TypeChoiceError` or `EngineError`.
    """
    kind, source = quant_type(target), quant_type(tensor.type)
    check_fits(tensor, kind, importance is not None)
    if kind == source:
        return raw
    width = tensor.row_length
    per_expert = tensor.shape[1] if len(tensor.shape) > 1 else 1
    out = np.empty((len(raw), kind.n_bytes(width)), np.uint8)
    native.ggml().ggml_quantize_init(kind.id)

    def store_part(first: int, last: int) -> None:
        floats = to_floats(source, raw[first:last], width)
        row = None if importance is None else importance[first // per_expert].ctypes.data
        written = native.ggml().ggml_quantize_chunk(
            kind.id, floats.ctypes.data, out[first:last].ctypes.data, 0, last - first, width, row
        )
        valid = native.ggml().ggml_validate_row_data(kind.id, out[first:last].ctypes.data, C.c_size_t(written))
        if written != out[first:last].nbytes or not valid:
            raise EngineError(f"ggml could not store rows {first} to {last - 1} of {tensor.name} as {kind.name}")

    def store(first: int, last: int) -> None:
        for piece in _of_one_expert(first, last, per_expert):
            store_part(*piece)

    threads.run(store, len(raw), least=_LEAST_WEIGHTS // width, most=max(1, _MOST_WEIGHTS // width))
    return out


def _of_one_expert(first: int, last: int, per_expert: int) -> Iterator[tuple[int, int]]:
    """Rows ``first`` … ``last`` − 1 as (first, last + 1), cut at the experts' boundaries."""
    while first < last:
        end = min(last, (first // per_expert + 1) * per_expert)
        yield first, end
        first = end
