"""A result's tensors, effects and commands as plain data: what `report.json` holds for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cerebellum.allocation.damage import Anchor
from cerebellum.allocation.sizes import alignment_of, padded_bytes
from cerebellum.quoting import shell_line
from cerebellum.scoring.summary import as_json

if TYPE_CHECKING:
    from cerebellum.domain import Tensor
    from cerebellum.results import RunResult, Written
    from cerebellum.results.allocation import Allocation


def tensors_json(result: Allocation) -> list[dict[str, Any]]:
    """Every tensor that could change: both types, bytes in both files, slope, and the damage that is expected at both, nats a token."""
    table, model = result.table, result.anchors.model
    types = result.recipe.types(result.base.model.types)
    rows = []
    for name in table.names:
        tensor, slope, errors = table.tensors[name], model.slopes[name], table.errors[name]
        rows.append(
            _tensor_json(tensor, types[name], table.n_bytes(name, types[name]), table.n_bytes(name, tensor.type))
            | {
                "slope": {"mean": slope.mean, "low": slope.low, "high": slope.high, "anchors": slope.n_anchors},
                "damage": as_json(slope.mean * errors[types[name]]),
                "stock_damage": as_json(slope.mean * errors[tensor.type]),
            }
        )
    return rows


def base_tensors_json(result: RunResult) -> list[dict[str, Any]]:
    """The base's matrices with the types that the choice gives them."""
    base, chosen = result.base.model, {t.tensor: t.type for t in result.choice.tensor_types}
    alignment = alignment_of(base)
    rows = []
    for tensor in base.tensors:
        if len(tensor.shape) > 1:
            kind = chosen.get(tensor.name, tensor.type)
            stock_bytes = -(-tensor.n_bytes // alignment) * alignment  # at any type that a file can have
            n_bytes = padded_bytes(tensor, kind, alignment) if tensor.name in chosen else stock_bytes
            rows.append(_tensor_json(tensor, kind, n_bytes, stock_bytes))
    return rows


def _tensor_json(tensor: Tensor, kind: str, n_bytes: int, stock_bytes: int) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "role": tensor.role,
        "block": tensor.block,
        "elements": tensor.n_elements,
        "type": kind,
        "stock_type": tensor.type,
        "bytes": n_bytes,
        "stock_bytes": stock_bytes,
    }


def effects_json(left_out: Sequence[tuple[Anchor, float]]) -> list[dict[str, Any]]:
    """Every measured effect of a tensor alone, beside what the model predicts for it without having seen it, nats a token."""
    return [
        {
            "tensor": anchor.tensor,
            "type": anchor.type,
            "effect": as_json(anchor.effect),
            "std_error": as_json(anchor.std_error),
            "predicted": as_json(predicted),
        }
        for anchor, predicted in left_out
    ]


def commands_json(facts: dict[str, Any], written: Written | None) -> dict[str, str | None]:
    """The command that made the result, and the stock one that makes the same tensors."""
    command = facts.get("command")
    return {
        "cerebellum": shell_line(command) if command else None,
        "llama_quantize": None if written is None else written.reproduce,
    }
