"""Importance matrices on disk, in both forms llama.cpp writes: GGUF (``*.in_sum2``, ``*.counts``) and the older ``.dat``.

The values are those llama-quantize works with, bit for bit: float32 sums divided by the count as a float32
(``load_imatrix`` in tools/quantize/quantize.cpp, ``common_imatrix_load`` in common/imatrix-loader.cpp).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Tensor
from cerebellum.errors import ModelFileError
from cerebellum.gguf.header import MAGIC, Buffer, Header, LongArray, mapped, read_header
from cerebellum.keys import sha256_file

Floats = npt.NDArray[np.float32]

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix: tensor name → float32 [row length × experts], the mean squared input of each column.

    ``n_chunks`` is how many chunks of text it was made on (0: not said), ``datasets`` which texts.
    """

    entries: Mapping[str, Floats] = field(repr=False)
    datasets: tuple[str, ...]
    n_chunks: int
    sha256: str


def load_imatrix(path: Path) -> Imatrix:
    """The importance matrix at ``path``. Raises `ModelFileError` where it isn't one, is cut, or holds values that aren't finite."""
    path = Path(path)
    with mapped(path) as (buffer, size):
        is_gguf = bytes(buffer[:4]) == MAGIC
        entries, datasets, n_chunks = (_gguf if is_gguf else _legacy)(path, buffer, size)
    if n_chunks < 0:
        _refuse(path, f"it says that it was made on {n_chunks} chunks; compute it again")
    for name, values in entries.items():
        if (values < 0).any():
            _refuse(path, f"some values for {name} are below zero, where they are squares; compute it again")
        if not np.isfinite(values).all():
            _refuse(path, f"its values for {name} are not all finite, so llama.cpp would refuse it; compute it again")
    if not entries:
        _refuse(path, "it has no entries; compute it again")
    return Imatrix(entries, datasets, n_chunks, sha256_file(path))


Parts = tuple[dict[str, Floats], tuple[str, ...], int]


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ModelFileError(f"the importance matrix {path} can't be used: {problem}")


# -- GGUF --------------------------------------------------------------------------------------------------------------


def _gguf(path: Path, buffer: Buffer, size: int) -> Parts:
    header = read_header(buffer, size, str(path))
    metadata = header.metadata
    if any(key not in metadata for key in (DATASETS, CHUNKS, CHUNK_SIZE)):
        _refuse(path, f"it is a GGUF without {DATASETS}, {CHUNKS} and {CHUNK_SIZE}; give a file made by llama-imatrix")
    tensors = {t.name: t for t in header.tensors}
    names = sorted({t.name.removesuffix(end) for t in header.tensors for end in (SUMS, COUNTS) if t.name.endswith(end)})
    entries = {name: _entry(path, buffer, header, tensors, name) for name in names}
    datasets, chunks = metadata[DATASETS], metadata[CHUNKS]
    texts = () if isinstance(datasets, LongArray) or not isinstance(datasets, tuple) else tuple(map(str, datasets))
    return entries, texts, chunks if isinstance(chunks, int) else 0


def _entry(path: Path, buffer: Buffer, header: Header, tensors: Mapping[str, Tensor], name: str) -> Floats:
    """Sums [experts × row length] over the counts [experts], float32; 1 where an expert was never used."""
    sums, counts = (_floats(path, buffer, header, tensors.get(name + end), name + end) for end in (SUMS, COUNTS))
    if counts.size == 0 or sums.size == 0 or sums.size % counts.size:
        _refuse(path, f"{name} has {sums.size} sums for {counts.size} counts; compute it again")
    if not np.isfinite(counts).all() or (counts < 0).any():
        _refuse(path, f"the counts of {name} are not all finite, or some are below zero; compute it again")
    exact = counts.astype(np.float64)
    whole = (np.sign(exact) * np.floor(np.abs(exact) + 0.5)).astype(np.float32)  # lround: halves away from zero
    rows = sums.reshape(counts.size, -1)
    used = (whole > 0)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(used, rows / np.where(used, whole[:, None], np.float32(1)), np.float32(1)).reshape(-1)


def _floats(path: Path, buffer: Buffer, header: Header, tensor: Tensor | None, name: str) -> Floats:
    if tensor is None or tensor.type != "F32":
        _refuse(path, f"it has no float32 tensor {name}; compute it again")
    return np.frombuffer(buffer, dtype="<f4", count=tensor.n_elements, offset=header.offsets[name]).astype(np.float32)


# -- legacy ------------------------------------------------------------------------------------------------------------


class _Reader:
    """int32 and blobs one after the other; running off the end is an error that says where."""

    def __init__(self, path: Path, buffer: Buffer, size: int) -> None:
        self.path, self.buffer, self.size, self.position = path, buffer, size, 0

    def blob(self, n_bytes: int, what: str) -> bytes:
        if not 0 <= n_bytes <= self.size - self.position:
            _refuse(self.path, f"it is neither a GGUF nor a whole .dat file: it ends or makes no sense at {what}")
        self.position += n_bytes
        return bytes(self.buffer[self.position - n_bytes : self.position])

    def int32(self, what: str) -> int:
        return int(struct.unpack("<i", self.blob(4, what))[0])


def _legacy(path: Path, buffer: Buffer, size: int) -> Parts:
    reader = _Reader(path, buffer, size)
    n_entries = reader.int32("the number of entries")
    if n_entries < 1:
        _refuse(path, f"it is neither a GGUF nor a .dat file: it says it has {n_entries} entries")
    entries = dict(_legacy_entries(reader, n_entries))
    if reader.position == size:
        return entries, (), 0
    n_chunks = reader.int32("the number of chunks")
    if reader.position == size:
        return entries, (), n_chunks
    text = reader.blob(reader.int32("the text's name"), "the text's name").split(b"\0")[0]
    return entries, (text.decode(errors="replace"),) if text else (), n_chunks


def _legacy_entries(reader: _Reader, n_entries: int) -> Iterator[tuple[str, Floats]]:
    for number in range(1, n_entries + 1):
        what = f"entry {number} of {n_entries}"
        name = reader.blob(reader.int32(what), what).split(b"\0")[0].decode(errors="replace")
        n_calls, n_values = reader.int32(what), reader.int32(what)
        if n_values < 1 or n_calls < 0:
            _refuse(reader.path, f"{what}, {name!r}, has {n_values} values and a count of {n_calls}; compute it again")
        sums = np.frombuffer(reader.blob(4 * n_values, what), dtype="<f4").astype(np.float32)
        yield name, sums / np.float32(n_calls) if n_calls > 0 else sums
