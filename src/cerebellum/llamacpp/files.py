"""Whole files through llama.cpp's own quantizer: what each tensor would become (a dry run), and the file itself."""

from __future__ import annotations

import contextlib
import ctypes as C
import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc

from cerebellum.errors import EngineError, ModelFileError, OutputError, TypeChoiceError
from cerebellum.gguf import model_file
from cerebellum.gguf.types import FTYPES, ftype_name, quant_type
from cerebellum.keys import partial_of
from cerebellum.llamacpp import native

#: Bytes of a tensor's rows that llama.cpp holds at a time; its default, 8 GiB, holds the largest tensor whole several times.
BUFFER_BYTES = 256 << 20

Overrides = Sequence[tuple[str, str]]

_LINE = re.compile(
    r"\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s+- \[[^\]]*\], type =\s*(?P<old>\w+),\s+"
    r"size =\s+[\d.]+ MiB(?: ->\s+[\d.]+ MiB \((?P<new>\w+)\))?"
)


def realized_types(source: Path, ftype: str, overrides: Overrides, imatrix: Path | None) -> dict[str, str]:
    """Tensor name → type llama.cpp would store, fallbacks and shifted mixes included; nothing is written.

    Read from the log of a dry run, and complete or an error: every tensor of the file must be in it.
    """
    native.native_log().lines.clear()
    _run(source, "", ftype, overrides, imatrix, dry_run=True)
    types: dict[str, str] = {}
    for line in native.native_log().lines:
        if found := _LINE.search(line):
            types[found["name"]] = quant_type(found["new"] or found["old"]).name
    expected = {t.name for t in model_file.read_model(source).tensors}
    if set(types) != expected:
        missing = ", ".join(sorted(expected ^ set(types))[:3])
        raise EngineError(
            f"llama.cpp's dry run on {source} did not say what becomes of {missing}; is it the pinned build?"
        )
    return types


def write_file(source: Path, out: Path, ftype: str, overrides: Overrides, imatrix: Path | None) -> None:
    """Quantize ``source`` into ``out``: under a temporary name first, and checked to be whole. Raises `OutputError`."""
    wanted = realized_types(source, ftype, overrides, imatrix)
    partial = partial_of(out)
    try:
        _check_writable(partial)
        _run(source, os.fspath(partial), ftype, overrides, imatrix, dry_run=False)
        _check_whole(partial, out, wanted)
        partial.replace(out)
    except OSError as error:
        raise OutputError(f"can't write {out}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be what is wrong
            partial.unlink(missing_ok=True)


def _check_writable(partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb"):
        pass


def _check_whole(partial: Path, out: Path, wanted: dict[str, str]) -> None:
    """llama.cpp doesn't notice every failed write (its stream only throws on failbit), so the file is read again."""
    try:
        types = model_file.read_model(partial).types
    except ModelFileError as error:
        raise OutputError(f"{out} could not be written whole; is the disk full? ({error})") from error
    if types != wanted:
        name = next(n for n in wanted if types.get(n) != wanted[n])
        raise EngineError(f"llama.cpp stored {name} as {types.get(name)} where its dry run said {wanted[name]}")


def _run(source: Path, out: str, ftype: str, overrides: Overrides, imatrix: Path | None, *, dry_run: bool) -> None:
    log = native.native_log()
    params = lc.llama_model_quantize_default_params()
    params.ftype = FTYPES[ftype_name(ftype)][0]
    params.allow_requantize = True
    params.dry_run = dry_run
    params.max_buf_size = BUFFER_BYTES
    keep = [_set_overrides(params, overrides), _set_imatrix(params, imatrix)]
    status = lc.llama_model_quantize(os.fsencode(source), os.fsencode(out), C.byref(params))
    del keep
    if status != 0:
        message = log.errors().rpartition("failed to quantize: ")[2]
        if "iostream error" in message:
            raise OSError(errno.ENOSPC, "llama.cpp could not write all of it; is the disk full?")
        if "importance matrix" in message.lower() or "imatrix" in message.lower():
            raise TypeChoiceError(f"{ftype} needs an importance matrix: give one with --imatrix ({message})")
        if "unknown model architecture" in message:
            raise ModelFileError(f"{source} has an architecture that this build of llama.cpp doesn't know ({message})")
        raise EngineError(f"llama.cpp could not quantize {source}: {message}")


def _set_overrides(params: Any, overrides: Overrides) -> Any:
    if not overrides:
        return None
    table = (lc.llama_model_tensor_override * (len(overrides) + 1))()
    for row, (pattern, kind) in zip(table, overrides, strict=False):
        row.pattern, row.type = pattern.encode(), quant_type(kind).id
    params.tt_overrides = table
    return table


def _set_imatrix(params: Any, imatrix: Path | None) -> Any:
    if imatrix is None:
        return None
    entries = model_file.load_imatrix(imatrix).entries
    table = (lc.llama_model_imatrix_data * (len(entries) + 1))()
    for row, (name, values) in zip(table, entries.items(), strict=False):
        row.name = name.encode()
        row.data = values.ctypes.data_as(C.POINTER(C.c_float))
        row.size = values.size
    params.imatrix = table
    return table, entries
