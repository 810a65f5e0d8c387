"""`fit` as a table, as lines and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cerebellum.gguf.memory import Bytes
from cerebellum.report.grids import Grid
from cerebellum.results.fit import Fit, FitRow, FitSize


def fit_grid(fit: Fit) -> Grid:
    """A row a context, in MB."""
    with_device = fit.use.n_gpu_layers != 0
    columns = ("context", "weights", "cache", "compute", "in all", *(("host besides",) if with_device else ()), "fits")
    where = "on the device" if with_device else "in the host's memory"
    title = f"Memory of {fit.model} by context, MB {where} (limit {_mb(fit.limit)} MB)"
    return Grid(title, columns, tuple(_cells(row, with_device) for row in fit.rows))


def _cells(row: FitRow, with_device: bool) -> tuple[str, ...]:
    parts = row.footprint.device if with_device else row.footprint.host
    compute = parts.compute + parts.output
    figures = [f"{row.n_ctx:,}", *map(_mb, (parts.weights, parts.cache, compute, parts.total))]
    return (*figures, *([_mb(row.footprint.host.total)] if with_device else []), "yes" if row.fits else "no")


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f}"


def fit_lines(fit: Fit) -> list[str]:
    """The answer first."""
    lines = [_answer(fit)]
    if fit.use.n_ctx and fit.use.n_gpu_layers != 0:
        lines.append(_asked(fit))
    if fit.checked is not None:
        n_bytes = fit.checked.cache + fit.checked.device_compute
        lines.append(
            f"llama.cpp itself, asked without loading the weights: {_mb(n_bytes)} MB of cache and compute buffers at {fit.checked_ctx:,} "
            "tokens"
        )
    return [*lines, *fit.notes]


def _answer(fit: Fit) -> str:
    types = f"keys as {fit.use.type_k}, values as {fit.use.type_v}"
    trained = f" of the {fit.trained:,} that it was trained for" if fit.trained else ""
    if fit.largest:
        return f"fits with a context of up to {fit.largest:,} tokens{trained} ({types})"
    if fit.use.n_gpu_layers < 0 and fit.layers_that_fit:
        share = f"{fit.layers_that_fit} of {fit.n_layers} layers fit (-ngl {fit.layers_that_fit})"
        return f"does not fit whole; {share}, the others stay on the host"
    return f"does not fit with any context ({types})"


def _asked(fit: Fit) -> str:
    row = next(r for r in fit.rows if r.n_ctx == fit.use.n_ctx)
    left = fit.limit - row.footprint.device.total
    if row.fits:
        return f"{row.n_ctx:,} tokens fit, with {_mb(left)} MB to spare"
    return (
        f"{row.n_ctx:,} tokens need {_mb(-left)} MB more; {fit.layers_that_fit} of {fit.n_layers} layers fit with them"
    )


def size_line(size: FitSize) -> str:
    """How a size was found."""
    host = f", and {_mb(size.host)} MB of the file stay in the host's memory" if size.host > 0 else ""
    return (
        f"size by --vram: of {_mb(size.limit)} MB the cache (F16) takes {_mb(size.cache)} MB and the buffers {_mb(size.compute)} MB with a "
        f"context of {size.n_ctx:,} tokens; {_mb(size.weights)} MB are left for weights{host}: a file of at most {size.file_bytes:,} bytes"
    )


def fit_json(fit: Fit) -> dict[str, Any]:
    """All of it."""
    return {
        **asdict(fit),
        "rows": [
            {"n_ctx": r.n_ctx, "fits": r.fits, "device": _plain(r.footprint.device), "host": _plain(r.footprint.host)}
            for r in fit.rows
        ],
        "checked": None if fit.checked is None else asdict(fit.checked),
    }


def _plain(parts: Bytes) -> dict[str, int]:
    return {**asdict(parts), "total": parts.total}
