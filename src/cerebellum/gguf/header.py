"""A GGUF's metadata and tensor table, read strictly: what is wrong with a file is found here, before llama.cpp sees it.

Layout (little endian): magic, version, counts, key-value pairs, tensor table, padding, data. The checks are llama.cpp's
own (``gguf_init_from_reader`` in ggml/src/gguf.cpp), plus the one it leaves to later: that the data really is as long as
the table says. There are bounds too, far beyond any model's, on what is counted and spelled, so that no file takes long to read.
Read by hand because the `gguf` package builds an object for every vocabulary entry (seconds), trusts
counts that a damaged file makes up (it can loop for ever) and doesn't notice cut data. Nothing is copied; long arrays are
passed over.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum.domain import Tensor
from cerebellum.errors import ModelFileError
from cerebellum.gguf.types import TYPES_BY_ID
from cerebellum.text.untrusted import open_regular

Buffer = Any  # bytes, or a read-only mmap: anything struct and slices can read

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NAME_BYTES = 64
#: Bytes of a key (the format's own bound) and of a string: the longest chat templates have some hundred thousand.
MAX_KEY_BYTES, MAX_STRING_BYTES = 65_535, 16 << 20
#: Tensors and metadata pairs of a file, and elements of its arrays that are read one by one: the largest vocabularies have 800,000 with
#: their merges.
MAX_TENSORS, MAX_PAIRS, MAX_ELEMENTS = 1 << 16, 1 << 16, 1 << 22
#: Arrays longer than this are passed over (vocabularies): `LongArray` stands in their place.
LONG_ARRAY = 1024

_STRING, _ARRAY, _UINT32 = 8, 9, 4
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS = {number: struct.Struct("<" + code) for number, code in _CODES.items()}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array too long to keep: its GGUF element type and length, and the byte of the file at which its first element begins."""

    element_type: int
    length: int
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data. ``offsets``: tensor name → first byte of its data in the file; ``data_end``: one past the last."""

    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    offsets: Mapping[str, int]
    data_end: int


class HeaderIncomplete(ModelFileError):
    """Only the first bytes of a file are at hand, and the header needs ``n_bytes`` of them at least."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(f"the header needs {n_bytes} bytes")
        self.n_bytes = n_bytes


class _Cursor:
    """Reads values one after the other; running off the end is a `ModelFileError` that says where. Of a file of ``size`` bytes the
    buffer may hold the first ones only: `HeaderIncomplete` where more are needed."""

    def __init__(self, buffer: Buffer, size: int, label: str) -> None:
        self._buffer, self._size, self._label = buffer, size, label
        self.position = 0
        self._n_elements = 0
        self._at_hand = min(size, len(buffer))

    def fail(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self._label} is not a GGUF that can be used: {problem}; fetch or convert it again")

    def need(self, n_bytes: int, what: str) -> None:
        if n_bytes > self._size - self.position:
            raise ModelFileError(
                f"{self._label} is truncated: it ends after {self._size} bytes, inside {what}; fetch or copy it again"
            )
        if n_bytes > self._at_hand - self.position:
            raise HeaderIncomplete(self.position + n_bytes)

    def scalar(self, kind: struct.Struct, what: str) -> Any:
        self.need(kind.size, what)
        value = kind.unpack_from(self._buffer, self.position)[0]
        self.position += kind.size
        return value

    def count(self, n: int, most: int, what: str) -> int:
        """``n``, if that many can be."""
        if n > most:
            raise self.fail(f"it says that it has {n:,} {what}, where {most:,} is the most that a model has")
        return n

    def walk(self, n_elements: int) -> None:
        """Before so many elements are read one by one."""
        self._n_elements += n_elements
        self.count(self._n_elements, MAX_ELEMENTS, "elements in its metadata")

    def string(self, what: str, most: int = MAX_STRING_BYTES) -> bytes:
        length = self.scalar(_U64, what)
        self.need(length, what)
        self.count(length, most, f"bytes in a string of {what}")
        self.position += length
        return bytes(self._buffer[self.position - length : self.position])

    def text(self, what: str, most: int = MAX_STRING_BYTES) -> str:
        try:
            return self.string(what, most).decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8") from error

    def skip_strings(self, count: int, what: str) -> None:
        unpack, buffer, size, position = _U64.unpack_from, self._buffer, self._at_hand, self.position
        for _ in range(count):
            if position + 8 > size:
                position += 8
                break
            position += 8 + unpack(buffer, position)[0]
        else:
            if position <= size:
                self.position = position
                return
        self.need(position - self.position, what)


@contextmanager
def mapped(path: Path) -> Iterator[tuple[Buffer, int]]:
    """``path`` memory-mapped and its size. Raises `ModelFileError` where it isn't a readable file with something in it."""
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, 2)
            if size == 0:
                raise ModelFileError(f"{path} is empty; fetch or convert the model again")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
                yield view, size
    except OSError as error:
        raise ModelFileError(f"can't read the file {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the path"
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return "it is a folder; give the .gguf file inside it"
    return f"{error.strerror or error}" + ("; check its permissions" if isinstance(error, PermissionError) else "")


def read_header(buffer: Buffer, size: int, label: str) -> Header:
    """The header of the GGUF in ``buffer`` (``size`` bytes, of which it may hold the first ones only), called ``label`` in errors.

    Raises `ModelFileError`; `HeaderIncomplete` where the header is longer than the buffer.
    """
    cursor = _Cursor(buffer, size, label)
    n_tensors, n_pairs = _start(cursor, buffer, size, label)
    metadata = _metadata(cursor, n_pairs)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two")
    table = _tensor_table(cursor, n_tensors)
    start = _padded(cursor.position, alignment)
    offsets: dict[str, int] = {}
    expected = end = 0
    for tensor, offset in table:
        if offset != expected:
            raise cursor.fail(f"the data of {tensor.name} is said to start at {offset}, where {expected} is due")
        offsets[tensor.name] = start + offset
        end = offset + tensor.n_bytes
        expected = _padded(end, alignment)
        if start + end > size:
            raise ModelFileError(
                f"{label} is truncated: it has {size} bytes, the data of {tensor.name} ends at {start + end}; fetch or copy it again"
            )
    return Header(metadata, tuple(tensor for tensor, _ in table), offsets, start + end)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _start(cursor: _Cursor, buffer: Buffer, size: int, label: str) -> tuple[int, int]:
    if len(buffer) < len(MAGIC) <= size:
        raise HeaderIncomplete(len(MAGIC))
    if size < len(MAGIC) or bytes(buffer[:4]) != MAGIC:
        raise ModelFileError(
            f"{label} is not a GGUF: it starts with {bytes(buffer[:4])!r}, not {MAGIC!r}; give a .gguf file"
        )
    cursor.position = len(MAGIC)
    version = cursor.scalar(_U32, "the version")
    if version not in VERSIONS:
        big = version & 0xFFFF == 0 and version != 0
        form = "big-endian" if big else f"version {version}"
        raise ModelFileError(
            f"{label} is a {form} GGUF; only little-endian versions 2 and 3 can be read: convert the model again"
        )
    counts = cursor.scalar(_U64, "the number of tensors"), cursor.scalar(_U64, "the number of metadata pairs")
    return cursor.count(counts[0], MAX_TENSORS, "tensors"), cursor.count(counts[1], MAX_PAIRS, "metadata pairs")


def _metadata(cursor: _Cursor, n_pairs: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(n_pairs):
        key = cursor.text("the metadata", MAX_KEY_BYTES)
        if not key or key in metadata:
            raise cursor.fail(f"the metadata key {key!r} is {'there twice' if key else 'empty'}")
        kind = cursor.scalar(_U32, f"the metadata pair {key}")
        metadata[key] = _array(cursor, key) if kind == _ARRAY else _value(cursor, kind, key)
        if key == "general.alignment" and kind != _UINT32:
            raise cursor.fail(f"general.alignment has the value type {kind}, not {_UINT32}")
    return metadata


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind == _STRING:
        return cursor.string(f"the metadata pair {key}").decode(errors="replace")
    if kind not in _SCALARS:
        raise cursor.fail(f"the metadata key {key} has the unknown value type {kind}")
    return cursor.scalar(_SCALARS[kind], f"the metadata pair {key}")


def _array(cursor: _Cursor, key: str) -> tuple[Any, ...] | LongArray:
    what = f"the metadata pair {key}"
    kind, length = cursor.scalar(_U32, what), cursor.scalar(_U64, what)
    if length <= LONG_ARRAY:
        cursor.walk(length)
        return tuple(_value(cursor, kind, key) for _ in range(length))
    offset = cursor.position
    if kind == _STRING:
        cursor.need(_U64.size * length, what)
        cursor.walk(length)
        cursor.skip_strings(length, what)
    elif kind in _SCALARS:
        cursor.need(length * _SCALARS[kind].size, what)
        cursor.position += length * _SCALARS[kind].size
    else:
        raise cursor.fail(f"the metadata key {key} is an array of the unknown value type {kind}")
    return LongArray(kind, length, offset)


def elements(buffer: Buffer, array: LongArray) -> tuple[Any, ...]:
    """The elements of an array that was passed over in the GGUF in ``buffer``: strings as `str`, anything else as numbers."""
    if array.element_type != _STRING:
        return struct.unpack_from(f"<{array.length}{_CODES[array.element_type]}", buffer, array.offset)
    texts, position = [], array.offset
    for _ in range(array.length):
        start = position + _U64.size
        position = start + _U64.unpack_from(buffer, position)[0]
        texts.append(bytes(buffer[start:position]).decode(errors="replace"))
    return tuple(texts)


def _tensor_table(cursor: _Cursor, n_tensors: int) -> list[tuple[Tensor, int]]:
    """(tensor, offset of its data from the start of the data section) for every entry."""
    table: list[tuple[Tensor, int]] = []
    seen: set[str] = set()
    for _ in range(n_tensors):
        tensor, offset = _tensor(cursor)
        if tensor.name in seen:
            raise cursor.fail(f"the tensor {tensor.name} is there twice")
        seen.add(tensor.name)
        table.append((tensor, offset))
    return table


def _tensor(cursor: _Cursor) -> tuple[Tensor, int]:
    name = cursor.text("the tensor table")
    what = f"the tensor table, at {name}"
    n_dims = cursor.scalar(_U32, what)
    if len(name.encode()) >= MAX_NAME_BYTES or n_dims > MAX_DIMS:
        raise cursor.fail(
            f"the tensor {name[:MAX_NAME_BYTES]!r} has {n_dims} dimensions (at most {MAX_DIMS}) "
            f"and a name of {len(name.encode())} bytes (at most {MAX_NAME_BYTES - 1})"
        )
    shape = tuple(cursor.scalar(_U64, what) for _ in range(n_dims)) or (1,)
    type_id, offset = cursor.scalar(_U32, what), cursor.scalar(_U64, what)
    kind = TYPES_BY_ID.get(type_id)
    if kind is None:
        raise cursor.fail(f"the tensor {name} has the type number {type_id}, which is not one of {', '.join(_known())}")
    most = (
        math.prod(max(1, n) for n in shape) * kind.block_bytes
    )  # a dimension of 0 hides no size that can't be counted with
    if most >= 1 << 63 or not kind.fits(shape[0]):
        raise cursor.fail(f"the tensor {name} can't have the shape {shape} as {kind.name}")
    return Tensor(name, shape, kind.name), offset


def _known() -> list[str]:
    return [f"{number} ({kind.name})" for number, kind in sorted(TYPES_BY_ID.items())]


@dataclass(frozen=True, slots=True)
class Sections:
    """Where a GGUF's sections lie, in bytes from its start. ``pairs``: metadata key → (first byte, one past its last)."""

    version: int
    n_tensors: int
    pairs: Mapping[str, tuple[int, int]]
    table: tuple[int, int]
    data: int
    alignment: int


def read_sections(buffer: Buffer, size: int, label: str) -> Sections:
    """The sections of a GGUF that `read_header` reads. Raises `ModelFileError`."""
    header = read_header(buffer, size, label)
    cursor = _Cursor(buffer, size, label)
    n_tensors, n_pairs = _start(cursor, buffer, size, label)
    pairs: dict[str, tuple[int, int]] = {}
    for _ in range(n_pairs):
        start = cursor.position
        (key,) = _metadata(cursor, 1)
        pairs[key] = (start, cursor.position)
    table = cursor.position
    _tensor_table(cursor, n_tensors)
    alignment = header.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    data = _padded(cursor.position, alignment)
    version = _U32.unpack_from(buffer, len(MAGIC))[0]
    return Sections(version, n_tensors, pairs, (table, cursor.position), data, alignment)
