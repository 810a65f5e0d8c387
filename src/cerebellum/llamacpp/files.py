"""Whole files through llama.cpp's own quantizer: what each tensor would become (a dry run), and the file itself."""

from __future__ import annotations

import contextlib
import ctypes as C
import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cerebellum.errors import EngineError, ModelFileError, OutputError, TensorStoreError, TypeChoiceError
from cerebellum.files import FileState, check_unchanged, create_new, publish
from cerebellum.gguf import model_file
from cerebellum.gguf.types import FTYPES, STORED, ftype_name, quant_type
from cerebellum.keys import partial_of
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.metadata import added, as_overrides

#: Bytes of a tensor's rows that llama.cpp holds at a time; its default, 8 GiB, holds the largest tensor whole several times.
BUFFER_BYTES = 256 << 20

#: Written to a file that could not be written whole, to be told why.
_PROBE_BYTES = 1 << 20

Overrides = Sequence[tuple[str, str]]

_LINE = re.compile(
    r"\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s+- \[[^\]]*\], type =\s*(?P<old>\w+),\s+"
    r"size =\s+[\d.]+ MiB(?: ->\s+[\d.]+ MiB \((?P<new>\w+)\))?"
)

_BEGUN = re.compile(r"\[\s*\d+/\s*\d+\]\s+(?P<name>\S+)\s+- \[")
_CONVERTING = re.compile(r"converting to (?P<new>\w+)")


def realized_types(source: Path, ftype: str, overrides: Overrides, imatrix: Path | None) -> dict[str, str]:
    """Tensor name → type llama.cpp would store, fallbacks and shifted mixes included; nothing is written.

    Read from the log of a dry run, and complete or an error: every tensor of the file must be in it.
    """
    tensors = model_file.read_model(source).tensors
    if empty := next((t for t in tensors if not t.n_elements), None):
        raise ModelFileError(
            f"{source.name} holds {empty.name} of shape {empty.shape}, without a weight: llama.cpp can't quantize that"
        )
    native.native_log().clear()
    _run(source, "", ftype, overrides, imatrix, dry_run=True)
    types: dict[str, str] = {}
    for line in native.native_log().lines:
        if match := _LINE.search(line):
            types[match["name"]] = STORED[(match["new"] or match["old"]).upper()].name
    expected = {t.name for t in tensors}
    if set(types) != expected:
        missing = ", ".join(sorted(expected ^ set(types))[:3])
        raise EngineError(
            f"llama.cpp's dry run on {source} did not say what becomes of {missing}; is it the pinned build?"
        )
    return types


def write_file(source: Path, out: Path, ftype: str, overrides: Overrides, imatrix: Path | None) -> None:
    """Quantize ``source`` into ``out``: under a temporary name first, and checked to be whole.

    Raises `OutputError`, or `InputError` where the source or the importance matrix changed meanwhile.
    """
    states = [FileState.of(path) for path in (*model_file.model_files(source), imatrix) if path is not None]
    wanted = realized_types(source, ftype, overrides, imatrix)
    partial = partial_of(out)
    try:
        _check_writable(partial)
        _run(source, os.fspath(partial), ftype, overrides, imatrix, dry_run=False)
        _check_whole(partial, out, wanted)
        check_unchanged(states)
        publish(partial, out)
    except OSError as error:
        raise OutputError(f"can't write {out}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be what is wrong
            partial.unlink(missing_ok=True)


def _check_writable(partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    create_new(partial).close()  # llama.cpp opens what is there, by name


def _check_whole(partial: Path, out: Path, wanted: dict[str, str]) -> None:
    """llama.cpp doesn't notice every failed write (its stream only throws on failbit), so the file is read again."""
    try:
        types = model_file.read_model(partial).types
    except ModelFileError as error:
        raise OutputError(
            f"{out} could not be written whole: {_write_error(partial).strerror}. What llama.cpp left: {error}"
        ) from error
    if types != wanted:
        name = next(n for n in wanted if types.get(n) != wanted[n])
        raise EngineError(f"llama.cpp stored {name} as {types.get(name)} where its dry run said {wanted[name]}")


def _write_error(partial: Path) -> OSError:
    """Why a file could not be written, as the system says it when more is written to the same file: llama.cpp only knows that it failed."""
    try:
        with partial.open("ab") as stream:
            stream.write(bytes(_PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return OSError(error.errno, os.strerror(error.errno) if error.errno else str(error))
    return OSError(errno.EIO, "llama.cpp could not write all of it, and the system doesn't say why")


def _run(source: Path, out: str, ftype: str, overrides: Overrides, imatrix: Path | None, *, dry_run: bool) -> None:
    log = native.native_log()
    log.clear()
    params = lc.llama_model_quantize_default_params()
    params.ftype = FTYPES[ftype_name(ftype)][0]
    params.allow_requantize = True
    params.dry_run = dry_run
    params.max_buf_size = BUFFER_BYTES
    loaded = model_file.load_imatrix(imatrix) if imatrix else None
    keep = [_set_overrides(params, overrides), _set_imatrix(params, loaded)]
    table = as_overrides(added(model_file.read_model(source), loaded, imatrix))
    if table is not None:
        params.kv_overrides = table
    status = lc.llama_model_quantize(os.fsencode(source), os.fsencode(out), C.byref(params))
    del keep, table
    if status != 0:
        message = log.errors().rpartition("failed to quantize: ")[2]
        if "iostream error" in message:
            raise _write_error(Path(out))
        if (stopped_at := _stopped_at(log.lines)) and (
            "validation failed" in message or "Missing importance" in message
        ):
            name, kind = stopped_at
            why = (
                "its values are too large or not finite"
                if "validation" in message
                else "the importance matrix has no entry for it"
            )
            raise TensorStoreError(f"{name} can't be stored as {kind}: {why}", name, kind)
        if imatrix is not None and "imatrix size" in message:
            raise ModelFileError(
                f"the importance matrix {imatrix} was made for another model than {source} ({message})"
            )
        if "importance matrix" in message.lower() or "imatrix" in message.lower():
            raise TypeChoiceError(f"{ftype} needs an importance matrix: give one with --imatrix ({message})")
        if "unknown model architecture" in message:
            raise ModelFileError(f"{source} has an architecture that this build of llama.cpp doesn't know ({message})")
        raise EngineError(f"llama.cpp could not quantize {source}: {message}")


def _stopped_at(lines: Iterable[str]) -> tuple[str, str] | None:
    """(tensor, type it was to become) where llama.cpp's log of a file that it gave up ends; None where that can't be told."""
    last = None
    for line in lines:
        if begun := _BEGUN.search(line):
            last = begun
    if last is None:
        return None
    kind = _CONVERTING.search(last.string)
    return last["name"], kind["new"].upper() if kind else "that type"


def _set_overrides(params: Any, overrides: Overrides) -> Any:
    if not overrides:
        return None
    table = (lc.llama_model_tensor_override * (len(overrides) + 1))()
    for row, (pattern, kind) in zip(table, overrides, strict=False):
        row.pattern, row.type = pattern.encode(), quant_type(kind).id
    params.tt_overrides = table
    return table


def _set_imatrix(params: Any, imatrix: model_file.Imatrix | None) -> Any:
    if imatrix is None:
        return None
    entries = imatrix.entries
    table = (lc.llama_model_imatrix_data * (len(entries) + 1))()
    for row, (name, values) in zip(table, entries.items(), strict=False):
        row.name = name.encode()
        row.data = values.ctypes.data_as(C.POINTER(C.c_float))
        row.size = values.size
    params.imatrix = table
    return table, entries
