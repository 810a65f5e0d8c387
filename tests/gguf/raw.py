"""GGUFs byte by byte, whatever they say of themselves."""

from __future__ import annotations

import struct
from pathlib import Path

UINT8, UINT32, FLOAT32, STRING, ARRAY = 0, 4, 6, 8, 9


def spelled(text: str | bytes) -> bytes:
    """A string of the format: its length and its bytes."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A metadata pair."""
    return spelled(key) + struct.pack("<I", kind) + value


def entry(name: str, shape: tuple[int, ...], offset: int) -> bytes:
    """A float32 tensor of the table."""
    return spelled(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, offset)


def strings(n: int) -> bytes:
    """An array of so many empty strings."""
    return struct.pack("<IQ", STRING, n) + bytes(8 * n)


ARCHITECTURE = pair("general.architecture", STRING, spelled("llama"))
ONE = [entry("a.weight", (8,), 0)]


def gguf_bytes(pairs: list[bytes], tensors: list[bytes], data: bytes = bytes(32)) -> bytes:
    """A GGUF of these pairs and entries, with ``data`` behind them."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return head + bytes(-len(head) % 32) + data


def gguf(path: Path, pairs: list[bytes], tensors: list[bytes], n_bytes: int = 32) -> Path:
    """The same as a file, with so many bytes of zeros as data."""
    path.write_bytes(gguf_bytes(pairs, tensors, bytes(n_bytes)))
    return path
