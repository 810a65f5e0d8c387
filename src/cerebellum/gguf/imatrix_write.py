"""Importance matrices with their sums and counts: read to be continued or joined, written in both of llama.cpp's forms.

`gguf.imatrix` reads the means, which quantizing needs. This module reads and writes the sums and counts behind them (``save_imatrix``,
``save_imatrix_legacy`` and ``load_imatrix`` in tools/imatrix/imatrix.cpp).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cerebellum.errors import ModelFileError, OutputError
from cerebellum.files import create_new, publish
from cerebellum.gguf.header import MAGIC, Buffer, Header, mapped, read_header
from cerebellum.gguf.imatrix import CHUNK_SIZE, CHUNKS, COUNTS, DATASETS, SUMS, Imatrix, load_imatrix
from cerebellum.gguf.importance import Floats, Importance, Sums

#: Our own keys in a file's metadata; llama.cpp passes over them.
OURS = "cerebellum.imatrix."
LEGACY = ".dat"
#: Rows that a matrix may have seen of a tensor: a thousand times what a year of tokens gives.
MOST_COUNT = 1 << 52
#: Stands where no text is known.
UNKNOWN = "unknown"


def read_importance(path: Path, chunk_size: int) -> Importance:
    """The sums and counts in ``path``. A ``.dat`` has means and a number of chunks: they count as chunks of ``chunk_size`` tokens, as
    for llama-imatrix. Raises `ModelFileError` where it isn't an importance matrix, is cut, or holds what isn't finite."""
    imatrix = load_imatrix(path)
    with mapped(path) as (buffer, size):
        if bytes(buffer[:4]) == MAGIC:
            return _from_gguf(path, imatrix, buffer, read_header(buffer, size, str(path)))
    n_rows = max(1, imatrix.n_chunks) * chunk_size
    entries = {n: Sums(means * np.float32(n_rows), np.array([n_rows])) for n, means in imatrix.entries.items()}
    return Importance(entries, imatrix.datasets, chunk_size)


def _from_gguf(path: Path, imatrix: Imatrix, buffer: Buffer, header: Header) -> Importance:
    lengths = {t.name: t.n_elements for t in header.tensors}

    def floats(name: str) -> Floats:
        return np.frombuffer(buffer, "<f4", lengths[name], header.offsets[name]).astype(np.float32)

    for name in imatrix.entries:
        if (floats(name + COUNTS) > MOST_COUNT).any():
            raise ModelFileError(
                f"the importance matrix {path} can't be used: it counts more rows for {name} than can be; compute it again"
            )
    entries = {n: Sums(floats(n + SUMS), np.round(floats(n + COUNTS)).astype(np.int64)) for n in imatrix.entries}
    for name, sums in entries.items():
        if not np.isfinite(sums.values).all() or (sums.counts < 0).any():
            raise ModelFileError(
                f"the importance matrix {path} can't be used: its sums or counts for {name} are negative or not finite; compute it again"
            )
    origin = {key.removeprefix(OURS): value for key, value in header.metadata.items() if key.startswith(OURS)}
    tokens = header.metadata[CHUNK_SIZE]
    if not isinstance(tokens, int) or tokens < 1:
        raise ModelFileError(f"the importance matrix {path} can't be used: its {CHUNK_SIZE} is not a number of tokens")
    return Importance(entries, imatrix.datasets, tokens, origin)


def write_importance(importance: Importance, out: Path, partial: Path) -> None:
    """Write ``out``: GGUF, or the older form where its name ends in ``.dat``; whole or not at all, by way of ``partial``.

    Raises `OutputError`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == LEGACY:
            with create_new(partial) as stream:
                _write_legacy(importance, stream)
        else:
            create_new(partial).close()  # the writer opens what is there, by name
            _write_gguf(importance, partial)
        publish(partial, out)
    except OSError as error:
        raise OutputError(f"can't write {out}: {error.strerror or error}") from error


def _write_gguf(importance: Importance, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array(DATASETS, list(importance.datasets) or [UNKNOWN])  # the writer knows no empty array
    writer.add_uint32(CHUNKS, importance.n_chunks)
    writer.add_uint32(CHUNK_SIZE, importance.chunk_size)
    for key, value in importance.origin.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(OURS + key, value)  # type: ignore[arg-type]
    for name, sums in sorted(importance.entries.items()):
        n = len(sums.counts)
        writer.add_tensor(name + SUMS, _matrices(sums.values, n))
        writer.add_tensor(name + COUNTS, _matrices(sums.counts.astype(np.float32), n))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrices(values: Floats, n: int) -> Floats:
    """[n, values of each], without a dimension of one, as llama.cpp writes it."""
    return np.ascontiguousarray(values.reshape(n, -1) if n > 1 else values.reshape(-1))


def _write_legacy(importance: Importance, stream: BinaryIO) -> None:
    """Means times chunks; an entry that saw no row is left out, an expert that saw none is 1."""
    stored = {n: sums for n, sums in sorted(importance.entries.items()) if sums.counts.any()}
    stream.write(_int32(len(stored)))
    for name, sums in stored.items():
        spelled = name.encode()
        n_calls = -(-int(sums.counts.max()) // importance.chunk_size)
        values = sums.means() * np.float32(n_calls)
        stream.write(_int32(len(spelled)) + spelled + _int32(n_calls) + _int32(values.size) + values.tobytes())
    text = (importance.datasets[-1] if importance.datasets else "").encode()
    stream.write(_int32(importance.n_chunks) + _int32(len(text)) + text)


def _int32(value: int) -> bytes:
    return struct.pack("<i", value)
