"""Up to which context a model fits into a memory, checked with llama.cpp's own figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cerebellum.domain import Model
from cerebellum.errors import EngineError, InputError, ModelFileError
from cerebellum.gguf.memory import (
    Allocated,
    ContextUse,
    device_layers,
    file_bytes_for,
    footprint,
    largest_context,
)
from cerebellum.gguf.model_file import read_model
from cerebellum.results.fit import Fit, FitRow, FitSize

#: Contexts that are listed, and where the metadata name no trained context the most that is tried.
LISTED = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
_UNKNOWN = 131072
#: Where llama.cpp's own figure is off by more than this share, it is the one that counts.
TOLERANCE = 0.03

#: What llama.cpp itself would allocate for a file and a use (`LlamaBackend.memory`).
Asked = Callable[[Path, ContextUse], Allocated]


def fit_model(path: Path, limit: int, use: ContextUse | None, ask: Asked | None) -> Fit:
    """The table and the largest context for a device with ``limit`` bytes. ``use.n_ctx`` 0: none is asked for in particular.

    ``ask`` None: llama.cpp isn't asked. Raises `ModelFileError`, `InputError`.
    """
    model = read_model(path)
    use = use or ContextUse(0)
    trained = model.context_length
    most = max(trained or _UNKNOWN, use.n_ctx)
    needed = _needed(model)
    largest = largest_context(model, limit, use, most, needed)
    checked: Allocated | None = None
    notes: list[str] = []
    checked_ctx = largest or LISTED[0]
    if ask is not None:
        try:
            checked = ask(path, _host(replace(use, n_ctx=checked_ctx)))
            largest, notes = _settled(model, limit, use, most, largest, checked, ask)
        except (EngineError, ModelFileError) as error:
            notes = [f"llama.cpp could not be asked: {error}"]
    contexts = sorted({c for c in (*LISTED, use.n_ctx, largest, most) if 0 < c <= most})
    rows = tuple(_row(model, replace(use, n_ctx=c), limit) for c in contexts)
    basis = replace(use, n_ctx=use.n_ctx or contexts[0])
    return Fit(
        path.name, model.architecture, model.file_bytes, limit, use, rows, largest, trained, device_layers(model, -1),
        layers_that_fit(model, limit, basis), checked, checked_ctx, tuple(notes),
    )  # fmt: skip


def _needed(model: Model) -> Callable[[ContextUse], int]:
    """Bytes of the memory that is limited: the device's, or with no layer on a device the host's."""
    return lambda use: _limited(model, use)


def _limited(model: Model, use: ContextUse) -> int:
    parts = footprint(model, use)
    return parts.device.total if device_layers(model, use.n_gpu_layers) else parts.host.total


def _row(model: Model, use: ContextUse, limit: int) -> FitRow:
    return FitRow(use.n_ctx, footprint(model, use), _limited(model, use) <= limit)


def _host(use: ContextUse) -> ContextUse:
    """As asked of llama.cpp: on the host, where every build can say it."""
    return replace(use, n_gpu_layers=0)


def _settled(
    model: Model, limit: int, use: ContextUse, most: int, largest: int, checked: Allocated, ask: Asked
) -> tuple[int, list[str]]:
    """(largest context, notes): by llama.cpp's figures where ours are off by more than `TOLERANCE`."""
    at = _host(replace(use, n_ctx=largest or LISTED[0]))
    ours, theirs = footprint(model, at).host, checked.cache + checked.device_compute + checked.output
    error = (ours.total - ours.weights - theirs) / (ours.weights + theirs)
    if abs(error) <= TOLERANCE:
        return largest, []
    asked = {at.n_ctx: checked}

    def needed(each: ContextUse) -> int:
        if each.n_ctx not in asked:
            asked[each.n_ctx] = ask(model.path, _host(each))
        answer, parts = asked[each.n_ctx], footprint(model, each).both
        return _limited(model, each) + answer.cache + answer.device_compute - parts.cache - parts.compute

    note = f"the formulas are off by {error:+.1%} for {model.architecture}: the largest context is by llama.cpp's own figures"
    return largest_context(model, limit, use, most, needed), [note]


def layers_that_fit(model: Model, limit: int, use: ContextUse) -> int:
    """The most layers (`-ngl`) that fit into ``limit`` bytes with this context; 0 for none."""
    layers = range(device_layers(model, -1), 0, -1)
    return next((n for n in layers if footprint(model, replace(use, n_gpu_layers=n)).device.total <= limit), 0)


def size_for(path: Path, limit: int, use: ContextUse) -> FitSize:
    """The size of the file to make of the model at ``path``, so that it runs whole on a device of ``limit`` bytes with this context.

    Raises `ModelFileError`, or `InputError` where the context is more than the model was trained for or leaves the weights no room.
    """
    model = read_model(path)
    if model.context_length and use.n_ctx > model.context_length:
        raise InputError(
            f"{path.name} was trained for {model.context_length:,} tokens; give a context of at most that (--fit-ctx)"
        )
    n_bytes = file_bytes_for(model, limit, use)
    parts = footprint(model, replace(use, n_gpu_layers=-1)).device
    return FitSize(path.name, limit, use.n_ctx, parts.cache, parts.compute + parts.output, n_bytes)
