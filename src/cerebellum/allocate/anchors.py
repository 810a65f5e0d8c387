"""Which types are measured: one or two a tensor, near where the decisions are, each a change from the source itself."""

from __future__ import annotations

from collections.abc import Mapping

from cerebellum.allocate.candidates import undominated
from cerebellum.allocate.table import Table
from cerebellum.gguf.types import TYPES

#: Bits a weight under which proportionality ends: no anchor goes there if another type does.
LEAST_BITS = 2.3


def anchor_types(table: Table) -> dict[str, tuple[str, ...]]:
    """Tensor → the types that it is measured at alone: the base's, and the smallest one that is usual."""
    return {
        name: tuple(dict.fromkeys(k for k in (usual(table, name), smallest(table, name)) if k)) for name in table.names
    }


def _by_error(table: Table, name: str) -> list[str]:
    """Types that no other beats, smallest first; errors fall."""
    types = table.types[name]
    return list(undominated(types, {k: table.n_bytes(name, k) for k in types}, table.errors[name]))


def usual(table: Table, name: str) -> str | None:
    """The base's type, where it has an error; else the largest type that has one."""
    base = table.base_types[name]
    if table.errors[name][base] > 0.0:
        return base
    return next((k for k in reversed(_by_error(table, name)) if table.errors[name][k] > 0.0), None)


def smallest(table: Table, name: str) -> str | None:
    """The smallest type with an error, of those above `LEAST_BITS` if there is one."""
    found = [k for k in _by_error(table, name) if table.errors[name][k] > 0.0]
    usual = [k for k in found if TYPES[k].bits_per_weight >= LEAST_BITS]
    return next(iter(usual or found[-1:]), None)


def neighbours(table: Table, types: Mapping[str, str], name: str) -> tuple[str | None, str | None]:
    """The next smaller and the next larger type of a tensor in a recipe; None where there is none."""
    order = _by_error(table, name)
    now = types[name]
    if now not in order:
        return None, None
    at = order.index(now)
    return (order[at - 1] if at else None), (order[at + 1] if at + 1 < len(order) else None)
