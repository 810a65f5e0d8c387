"""Exact bytes of a finished file: its header, and each tensor's data padded to the alignment, as llama.cpp writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cerebellum.domain import Model, Tensor
from cerebellum.errors import InputError
from cerebellum.gguf.types import TYPES, ftype_name

#: GGUF's alignment where the file doesn't name another.
ALIGNMENT = 32
LEAST_BYTES = 1000
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS |= {"M": 10**6, "G": 10**9}  # as llama-gguf-split has them
_SIZE = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*$")


@dataclass(frozen=True, slots=True)
class Target:
    """The size asked for: one of exact bytes of the file, bits a weight, or a stock file type whose size it is."""

    n_bytes: int | None = None
    bits: float | None = None
    like: str | None = None

    def __str__(self) -> str:
        if self.n_bytes is not None:
            return f"{self.n_bytes:,} bytes"
        return f"{self.bits:g} bits a weight" if self.bits is not None else f"the size of {self.like}"


def parse_target(size: str | int | None, bits: float | None, like: str | None, default: str) -> Target:
    """The one target of ``--size``, ``--bpw`` and ``--like``. Raises `InputError` for two of them, or nonsense."""
    if sum(x is not None for x in (size, bits, like)) > 1:
        raise InputError("give one of --size, --bpw and --like")
    if size is not None:
        return Target(n_bytes=_model_bytes(size))
    if bits is not None:
        if not 0.5 <= bits <= 32.0:
            raise InputError(f"{bits} bits a weight (--bpw) is no size of a model; give 3.9 for example")
        return Target(bits=float(bits))
    return Target(like=ftype_name(like or default))


def parse_ladder(words: Sequence[str]) -> tuple[Target, ...]:
    """The targets of ``--ladder``: stock file types, sizes (``3.0GB``) or bits a weight (``3.9bpw``). Raises `InputError`."""
    if len(words) < 2:
        raise InputError("--ladder takes several sizes: Q2_K,Q3_K_M,Q4_K_M for example")
    return tuple(map(_parse_rung, words))


def _parse_rung(word: str) -> Target:
    if word.lower().endswith("bpw"):
        try:
            return parse_target(None, float(word[:-3]), None, "")
        except ValueError as error:
            raise InputError(f"{word!r} is no number of bits a weight (--ladder); write 3.9bpw") from error
    if word[:1].isdigit() or word[:1] == ".":
        return parse_target(word, None, None, "")
    return parse_target(None, None, word, "")


def _model_bytes(size: str | int) -> int:
    """Bytes of a file that is asked for. Raises `InputError`, also where the unit was forgotten."""
    if (n := parse_bytes(size)) < LEAST_BYTES:
        raise InputError(f"--size {size} is {n:,} bytes, and no model is so small; did you mean {size}GB?")
    return n


def parse_bytes(text: str | int, option: str = "--size") -> int:
    """``3.0GB`` → 3,000,000,000 (``GiB`` are powers of two; a bare number is bytes). Raises `InputError`."""
    match = _SIZE.match(str(text))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or not (n := int(float(match[1]) * unit)):
        raise InputError(f"{text!r} is not a size ({option}); write 3.0GB, 900MB or a number of bytes")
    return n


def alignment_of(model: Model) -> int:
    """The alignment that the file's tensors are padded to."""
    value = model.metadata.get("general.alignment", ALIGNMENT)
    return value if isinstance(value, int) and value > 0 else ALIGNMENT


def padded_bytes(tensor: Tensor, kind: str, alignment: int = ALIGNMENT) -> int:
    """Bytes that the tensor takes in the file when stored as ``kind``, padding included."""
    return -(-tensor.bytes_as(TYPES[kind]) // alignment) * alignment


def file_bytes(written: Model, types: Mapping[str, str]) -> int:
    """Bytes of a file like ``written`` (which llama.cpp wrote of the same source) with other ``types``: a type's name takes no room."""
    alignment = alignment_of(written)
    changed = ((t, types[t.name]) for t in written.tensors if types.get(t.name, t.type) != t.type)
    more = sum(padded_bytes(t, kind, alignment) - padded_bytes(t, t.type, alignment) for t, kind in changed)
    return written.file_bytes + more


def target_bytes(target: Target, base: Model) -> int:
    """The most bytes that the finished file may have, header included. ``base``: the file of the stock mix in ``target.like``."""
    if target.n_bytes is not None:
        return target.n_bytes
    if target.bits is not None:
        return base.file_bytes - base.tensor_bytes + int(target.bits * base.n_weights / 8.0)
    return base.file_bytes
