"""Keys of ours in a GGUF's metadata: where the file comes from, and hashes by which that can be proven.

The tensors' hashes are of names, shapes, types and stored bytes, not of the file: they survive every edit of metadata.
They are no signature: who changes tensors can change hashes too. A rebuild from the source tells then.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from pathlib import Path

from cerebellum.errors import OutputError
from cerebellum.gguf import model_file
from cerebellum.gguf.header import MAGIC, mapped, read_sections
from cerebellum.keys import canonical_json, content_key, partial_of, sha256_bytes

#: All keys of ours begin so.
PREFIX = "cerebellum."
#: Hex digits kept of each tensor's sha256.
DIGITS = 16

Value = str | int | float

_STRING, _UINT64, _FLOAT64 = 8, 10, 12
_COPIED = 1 << 22
#: Bytes before the first key: magic, version and two counts.
_FIXED = len(MAGIC) + struct.calcsize("<IQQ")


def tensor_digests(path: Path) -> dict[str, str]:
    """Tensor → the first `DIGITS` hex digits of a sha256 of its name, shape, type and bytes. Raises `ModelFileError`."""
    weights = model_file.open_weights(path)
    digests = {}
    for tensor in weights.model.tensors:
        data = weights.raw(tensor.name)
        what = canonical_json([tensor.name, list(tensor.shape), tensor.type, sha256_bytes(data.reshape(-1).data)])
        digests[tensor.name] = sha256_bytes(what.encode())[:DIGITS]
    return digests


def tensors_key(digests: Mapping[str, str]) -> str:
    """One key for all tensors, whatever their order."""
    return content_key("tensors", dict(digests))


def joined(digests: Mapping[str, str]) -> str:
    """The digests in the order of names, without anything between: small enough to be carried along."""
    return "".join(digests[name] for name in sorted(digests))


def changed_tensors(path_digests: Mapping[str, str], carried: str) -> tuple[str, ...]:
    """Tensors whose digest isn't among those that were carried along; a digest is of the name too."""
    known = {carried[i : i + DIGITS] for i in range(0, len(carried), DIGITS)}
    return tuple(name for name in sorted(path_digests) if path_digests[name] not in known)


def grown_by(path: Path, values: Mapping[str, Value]) -> int:
    """Bytes that `stamp` with values of these lengths adds to the file at ``path``. Raises `ModelFileError`."""
    with mapped(path) as (buffer, size):
        sections = read_sections(buffer, size, str(path))
        kept = (span for key, span in sections.pairs.items() if not key.startswith(PREFIX))
        first, last = sections.table
        n = _FIXED + sum(b - a for a, b in kept) + sum(len(_pair(k, v)) for k, v in values.items()) + last - first
        return n + -n % sections.alignment - sections.data


def stamp(path: Path, values: Mapping[str, Value]) -> None:
    """Put ``values`` (full keys) into the file's metadata in place of all keys of ours; tensors keep their bytes.

    The file is copied once, under a hidden name, and replaced when it is whole. Raises `ModelFileError` or `OutputError`.
    """
    partial = partial_of(path)
    try:
        with mapped(path) as (buffer, size), partial.open("wb") as out:
            sections = read_sections(buffer, size, str(path))
            kept = [span for key, span in sections.pairs.items() if not key.startswith(PREFIX)]
            out.write(MAGIC + struct.pack("<IQQ", sections.version, sections.n_tensors, len(kept) + len(values)))
            for first, last in kept:
                out.write(buffer[first:last])
            for key, value in values.items():
                out.write(_pair(key, value))
            out.write(buffer[slice(*sections.table)])
            out.write(b"\0" * (-out.tell() % sections.alignment))
            for first in range(sections.data, size, _COPIED):
                out.write(buffer[first : min(first + _COPIED, size)])
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _pair(key: str, value: Value) -> bytes:
    head = _text(key)
    if isinstance(value, str):
        return head + struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, int):
        return head + struct.pack("<IQ", _UINT64, value)
    return head + struct.pack("<Id", _FLOAT64, value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
