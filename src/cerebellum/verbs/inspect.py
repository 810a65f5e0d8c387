"""What a GGUF is made of, as plain data and as tables."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

from rich.table import Table
from rich.text import Text

from cerebellum.domain import Model, Tensor
from cerebellum.figures import counted
from cerebellum.quoting import name, printable

#: Roles that the table shows: no model has more than some dozens.
MOST_ROLES = 100


def describe(model: Model) -> dict[str, Any]:
    """All that `inspect` says, ready for JSON."""
    return {
        "path": str(model.path),
        "architecture": model.architecture,
        "name": model.name,
        "blocks": model.n_blocks,
        "context_length": model.context_length,
        "file_type": model.ftype,
        "file_bytes": model.file_bytes,
        "tensor_bytes": model.tensor_bytes,
        "weights": model.n_weights,
        "bits_per_weight": round(model.bits_per_weight, 4),
        "roles": [_role(role, tensors) for role, tensors in by_role(model).items()],
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.n_bytes} for t in model.tensors
        ],
    }


def by_role(model: Model) -> dict[str, list[Tensor]]:
    """Tensors grouped by role, in the order of the file."""
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in model.tensors:
        groups[tensor.role].append(tensor)
    return dict(groups)


def _role(role: str, tensors: list[Tensor]) -> dict[str, Any]:
    n_bytes = sum(t.n_bytes for t in tensors)
    return {
        "role": role,
        "tensors": len(tensors),
        "types": dict(Counter(t.type for t in tensors).most_common()),
        "row_lengths": sorted({t.row_length for t in tensors}),
        "bytes": n_bytes,
        "bits_per_weight": round(8 * n_bytes / max(1, sum(t.n_elements for t in tensors)), 4),
    }


def tables(model: Model) -> list[Table | Text]:
    """A heading and a table of roles."""
    heading = (
        f"{name(model.path.name)}: {name(model.name) or 'unnamed'}, {name(model.architecture)}, {counted(model.n_blocks, 'block')}, "
        f"{model.n_weights / 1e6:,.1f} M weights, {model.file_bytes / 1e6:,.1f} MB, {model.bits_per_weight:.2f} bits a weight"
        f"{', ' + model.ftype if model.ftype else ''}"
    )
    table = Table("role", "tensors", "types", "row length", "MB", "bits a weight", box=None, pad_edge=False)
    roles = by_role(model)
    for role, tensors in itertools.islice(roles.items(), MOST_ROLES):
        row = _role(role, tensors)
        types = ", ".join(f"{kind} ×{n}" if n > 1 else kind for kind, n in row["types"].items())
        lengths = name(", ".join(map(str, row["row_lengths"])))
        table.add_row(
            Text(name(role)),
            str(len(tensors)),
            types,
            lengths,
            f"{row['bytes'] / 1e6:.3f}",
            f"{row['bits_per_weight']:.2f}",
        )
    shown: list[Table | Text] = [Text(printable(heading)), table]
    if len(roles) > MOST_ROLES:
        shown.append(Text(f"and {len(roles) - MOST_ROLES:,} roles more: --json lists all"))
    return shown
