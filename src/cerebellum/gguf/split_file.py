"""A model written as several files: what `llama-gguf-split` writes, byte for byte.

The first file has the model's metadata, every file the keys of `cerebellum.gguf.split_set`. A file's size counts its tensors, not its
metadata, as there.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cerebellum.domain import Tensor
from cerebellum.errors import InputError, OutputError
from cerebellum.files import create_new, publish_set
from cerebellum.gguf.header import DEFAULT_ALIGNMENT, MAGIC, mapped, read_sections
from cerebellum.gguf.model_file import WeightSource, open_weights
from cerebellum.gguf.split_set import COUNT, MOST_FILES, NUMBER, TENSORS, SplitName
from cerebellum.gguf.types import STORED
from cerebellum.keys import partial_of, stem_of

_VERSION = 3
_UINT16, _INT32 = 2, 5
_COPIED = 1 << 24


@dataclass(frozen=True, slots=True)
class SplitLimit:
    """What one file may hold: so many bytes of tensors, or so many tensors. A tensor that is larger has a file of its own."""

    max_bytes: int | None = None
    max_tensors: int | None = None

    def groups(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """The tensors of each file, in order."""
        groups: list[list[Tensor]] = [[]]
        n_bytes = 0
        for number, tensor in enumerate(tensors):
            more = _padded(tensor.n_bytes, DEFAULT_ALIGNMENT)
            full = self.max_bytes is not None and n_bytes + more > self.max_bytes
            full |= self.max_tensors is not None and number % self.max_tensors == 0
            if full and groups[-1]:
                groups.append([])
                n_bytes = 0
            groups[-1].append(tensor)
            n_bytes += more
        return groups

    def most_added(self, n_bytes: int, n_tensors: int) -> int:
        """The most bytes that splitting adds to a file of ``n_bytes``: every two files in a row hold more than one may."""
        by_size = 0 if self.max_bytes is None else 2 * n_bytes // self.max_bytes + 1
        by_count = 0 if self.max_tensors is None else -(-n_tensors // self.max_tensors)
        return max(by_size, by_count) * (len(_start(0, 3)) + len(b"".join(_keys(0, 0, 0))) + DEFAULT_ALIGNMENT - 1)


def write_set(source: Path, out: Path, limit: SplitLimit) -> tuple[Path, ...]:
    """Write the model at ``source`` as ``OUT-00001-of-….gguf`` and so on beside ``out``; nothing, and (), where one file holds all.

    Every file has a hidden name until all are written. Raises `ModelFileError`, `InputError` or `OutputError`.
    """
    weights = open_weights(source)
    groups = limit.groups(weights.model.tensors)
    if len(groups) > MOST_FILES:
        raise InputError(
            f"{source.name} would be {len(groups):,} files, where {MOST_FILES:,} are the most; give a larger limit"
        )
    if len(groups) == 1:
        return ()
    paths = [out.with_name(name) for name in SplitName(stem_of(out), 1, len(groups)).all()]
    partials = [partial_of(path) for path in paths]
    try:
        for number, (partial, group) in enumerate(zip(partials, groups, strict=True)):
            with create_new(partial) as stream:
                _write(stream, weights, group, number, len(groups))
        publish_set(list(zip(partials, paths, strict=True)))
    except OSError as error:
        raise OutputError(f"can't write {out}: {error.strerror or error}") from error
    finally:
        for partial in partials:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    return tuple(paths)


def joined_bytes(path: Path) -> int:
    """Bytes of the one file that the model at ``path`` is without being split. Raises `ModelFileError`."""
    model = open_weights(path).model
    alignment = model.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    head = len(_start(0, 0)) + sum(map(len, _pairs(path))) + len(_table(model.tensors, alignment))
    return _padded(head, alignment) + sum(_padded(tensor.n_bytes, alignment) for tensor in model.tensors)


def _write(stream: BinaryIO, weights: WeightSource, tensors: Sequence[Tensor], number: int, count: int) -> None:
    model = weights.model
    pairs = [*(_pairs(model.path) if number == 0 else ()), *_keys(number, len(model.tensors), count)]
    alignment = model.metadata.get("general.alignment", DEFAULT_ALIGNMENT) if number == 0 else DEFAULT_ALIGNMENT
    stream.write(b"".join([_start(len(tensors), len(pairs)), *pairs, _table(tensors, alignment)]))
    stream.write(bytes(-stream.tell() % alignment))
    for tensor in tensors:
        data = weights.raw(tensor.name).reshape(-1).data
        for first in range(0, len(data), _COPIED):
            stream.write(data[first : first + _COPIED])
        stream.write(bytes(-len(data) % alignment))


def _start(n_tensors: int, n_pairs: int) -> bytes:
    return MAGIC + struct.pack("<IQQ", _VERSION, n_tensors, n_pairs)


def _pairs(path: Path) -> list[bytes]:
    """The metadata of the file at ``path`` as stored, without what says that it is split."""
    with mapped(path) as (buffer, size):
        spans = read_sections(buffer, size, str(path)).pairs
        return [
            bytes(buffer[first:last]) for key, (first, last) in spans.items() if key not in (NUMBER, COUNT, TENSORS)
        ]


def _keys(number: int, n_tensors: int, count: int) -> list[bytes]:
    """In the order in which llama-gguf-split leaves them."""
    return [
        _string(NUMBER) + struct.pack("<IH", _UINT16, number),
        _string(TENSORS) + struct.pack("<Ii", _INT32, n_tensors),
        _string(COUNT) + struct.pack("<IH", _UINT16, count),
    ]


def _table(tensors: Iterable[Tensor], alignment: int) -> bytes:
    rows, offset = [], 0
    for tensor in tensors:
        n_dims = max((i + 1 for i, n in enumerate(tensor.shape) if n > 1), default=1)
        shape = tensor.shape[:n_dims]
        rows.append(
            _string(tensor.name) + struct.pack(f"<I{n_dims}QIQ", n_dims, *shape, STORED[tensor.type].id, offset)
        )
        offset += _padded(tensor.n_bytes, alignment)
    return b"".join(rows)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment
