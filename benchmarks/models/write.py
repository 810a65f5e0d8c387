"""Writes a model of random weights tensor by tensor: a few megabytes in memory, whatever the model's size."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt

from benchmarks.models.shapes import ROPE_FREQS, Gemma4, Shape, TensorShape, rope_factors
from benchmarks.models.vocabulary import add_tokenizer

Values = npt.NDArray[Any]

#: Random values kept. A prime: a tensor reads them round and round, so no row begins where another did (fewer rows than this).
POOL = 4_194_301
#: What the last norm multiplies by: the deviation of the logits. Of 1, predictions are so flat that no 256 words hold their mass; of a
#: trained model, and of 4, they do.
SHARPNESS = 4.0
OUTPUT_NORM = "output_norm.weight"
TYPES = {"F16": gguf.GGMLQuantizationType.F16, "BF16": gguf.GGMLQuantizationType.BF16}
FILE_TYPES = {"F16": gguf.LlamaFileType.MOSTLY_F16, "BF16": gguf.LlamaFileType.MOSTLY_BF16}


class NoRoomError(OSError):
    """The folder's disk has too little room for the model; the message says how much is needed and how much there is."""


def write_model(path: Path, shape: Shape, seed: int = 0, sharpness: float = SHARPNESS) -> Path:
    """``path``, written whole or not at all; weights are Gaussian, their deviation 1 / √(row length). The same seed gives the same bytes.
    ``sharpness``: the deviation of the logits, see `SHARPNESS`.

    Raises NoRoomError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_room(path.parent, n_bytes(shape))
    partial = path.with_name(path.name + ".partial")
    try:
        _write(partial, shape, np.random.default_rng(seed), sharpness)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def n_bytes(shape: Shape) -> int:
    """Bytes of all tensors as stored."""
    return sum(_size(size) for _, size in shape.tensors())


def check_room(folder: Path, needed: int) -> None:
    """Raises NoRoomError where ``folder`` has less than ``needed`` bytes and a tenth left."""
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise NoRoomError(
            f"{folder} has {free / 1e9:.1f} GB left, the model takes {needed / 1e9:.1f} GB: name another folder"
        )


def _size(size: TensorShape) -> int:
    return int(np.prod(size)) * (4 if len(size) == 1 else 2)


def _write(path: Path, shape: Shape, rng: np.random.Generator, sharpness: float) -> None:
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_type("model")
    writer.add_name(f"random weights, {shape.architecture} of {shape.blocks} blocks")
    writer.add_file_type(int(FILE_TYPES[shape.stored_as]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    shape.describe(writer)
    add_tokenizer(writer, shape.vocabulary)
    for name, size in shape.tensors():
        kind = gguf.GGMLQuantizationType.F32 if len(size) == 1 else TYPES[shape.stored_as]
        writer.add_tensor_info(name, size, np.dtype(np.float32), _size(size), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file = writer.fout[0]
    pool = rng.standard_normal(POOL, np.float32)
    for name, size in shape.tensors():
        writer.write_padding(file, file.tell())
        if len(size) == 1:
            file.write(_factors(name, size, shape, sharpness).tobytes())
        else:
            _write_matrix(file, size, shape.stored_as, pool, int(rng.integers(POOL)))
    writer.write_padding(file, file.tell())
    writer.close()


def _factors(name: str, size: TensorShape, shape: Shape, sharpness: float) -> npt.NDArray[np.float32]:
    if name == ROPE_FREQS and isinstance(shape, Gemma4):
        return rope_factors(shape)
    return np.full(size, sharpness if name == OUTPUT_NORM else 1.0, np.float32)


def _write_matrix(file: BinaryIO, size: TensorShape, stored_as: str, pool: npt.NDArray[np.float32], start: int) -> None:
    """The pool's values, scaled, from ``start`` on and round, until the matrix is full."""
    left = int(np.prod(size))
    values = stored(pool[: min(POOL, start + left)] * np.float32(size[-1] ** -0.5), stored_as)
    while left:
        part = values[start : start + left]
        file.write(part.tobytes())
        left, start = left - len(part), 0


def stored(values: npt.NDArray[np.float32], kind: str) -> Values:
    """float32 → float16, or the upper halves of the floats, rounded to the nearest even (bfloat16 in uint16)."""
    if kind == "F16":
        return values.astype(np.float16)
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
