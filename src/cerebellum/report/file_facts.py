"""What a written file is, apart from what was measured: details, memory by context, types block by block. Pure; for JSON and card alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cerebellum.errors import CerebellumError
from cerebellum.gguf.memory import ContextUse, footprint
from cerebellum.report.grids import Grid
from cerebellum.text.chat import TEMPLATE

if TYPE_CHECKING:
    from cerebellum.domain import Model
    from cerebellum.results import Base, Combination

#: Contexts that memory is told for, as far as the model was trained for them.
CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
#: With fewer bits a cached number than this is told too.
SMALL_CACHE = "Q8_0"


def as_written(base: Model, types: Mapping[str, str]) -> Model:
    """The model with its tensors at ``types``, as the written file has them."""
    return replace(base, tensors=tuple(replace(t, type=types[t.name]) for t in base.tensors))


def written_model(base: Base, combination: Combination) -> Model:
    """The header of the file that was written for a combination."""
    return as_written(base.model, combination.recipe.types(base.model.types))


def file_json(model: Model) -> dict[str, Any]:
    """What a card says of a file beside what was measured."""
    return {"details": details_of(model), "memory": memory_of(model)}


def details_of(model: Model) -> dict[str, Any]:
    """Numbers of the file's header."""
    return {
        "architecture": model.architecture,
        "parameters": model.n_weights,
        "blocks": model.n_blocks,
        "context_length": model.context_length,
        "tensor_bytes": model.tensor_bytes,
        "bits_per_weight": model.bits_per_weight,
        "has_chat_template": bool(model.metadata.get(TEMPLATE)),
    }


def memory_of(model: Model) -> list[dict[str, Any]]:
    """Bytes by context and cache type with all layers on a device, and ``host``, all of them with no device; nothing where the metadata
    don't tell."""
    rows = []
    contexts = [n for n in CONTEXTS if n <= (model.context_length or CONTEXTS[0])] or [model.context_length]
    for n_ctx in contexts:
        for kind in ("F16", SMALL_CACHE):
            use = ContextUse(n_ctx, kind, kind)
            try:
                parts, host = footprint(model, use).device, footprint(model, replace(use, n_gpu_layers=0)).host
            except (CerebellumError, ValueError, ArithmeticError):
                continue
            figures = {"weights": parts.weights, "cache": parts.cache, "compute": parts.compute, "total": parts.total}
            rows.append({"ctx": n_ctx, "cache_type": kind, **figures, "host": host.total})
    return rows


def memory_grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """A row a context."""
    shown: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        shown.setdefault(row["ctx"], {})[row["cache_type"]] = row
    cells = []
    for n_ctx, kinds in shown.items():
        full = kinds.get("F16")
        if full is None:
            continue
        small = kinds.get(SMALL_CACHE)
        figures = [_mb(full[name]) for name in ("weights", "cache", "compute", "total")]
        cells.append((f"{n_ctx:,}", *figures, _mb(small["total"]) if small else "", _mb(full["host"])))
    notes = (
        "MB on a GPU that holds all layers; the last column is for the processor alone. One sequence, 512 tokens at a time, flash "
        "attention. Computed from the metadata by llama.cpp's rules, not measured; cerebellum fit asks llama.cpp itself.",
    )
    columns = ("context", "weights", "cache F16", "compute", "in all", f"in all, cache {SMALL_CACHE}", "without a GPU")
    return Grid("Memory by context", columns, tuple(cells), notes)


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f}"


def blocks_grid(model: Model, names: Iterable[str]) -> Grid:
    """Each role's types with the blocks that have them."""
    held: dict[str, dict[str, list[int]]] = {}
    wanted = set(names)
    for tensor in model.tensors:
        if tensor.name in wanted:
            role = tensor.role if tensor.block is not None else tensor.name.removesuffix(".weight")
            held.setdefault(role, {}).setdefault(tensor.type, []).append(-1 if tensor.block is None else tensor.block)
    rows = [(role, kind, stretches(blocks)) for role, types in held.items() for kind, blocks in sorted(types.items())]
    return Grid("Types, tensor by tensor", ("role", "type", "blocks"), tuple(rows))


def stretches(blocks: Sequence[int]) -> str:
    """Numbers of blocks as stretches: 0–3, 7. Nothing for a tensor that is in none (-1)."""
    parts: list[list[int]] = []
    for block in sorted(set(blocks) - {-1}):
        if parts and block == parts[-1][-1] + 1:
            parts[-1].append(block)
        else:
            parts.append([block])
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
