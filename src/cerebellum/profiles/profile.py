"""Profiles: how much each tensor of a role hurts, by block, as the published tables of single tensors say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebellum.domain import block_of, role_of
from cerebellum.errors import InputError, TypeChoiceError
from cerebellum.gguf.header import MAX_NAME_BYTES

#: Damage by block: mean KL divergence, nats a token, with that one tensor at the table's type.
RoleProfile = Mapping[int, float]

#: What the figures of a published table are.
PUBLISHED = "mean KL divergence of one tensor at a time, as published; intervals are not known"
#: The largest figure that sums of figures can hold beside others.
LARGEST = 1e100
_FORM = '{"model": "…", "by_type": {"q2_k": {"blk.0.ffn_gate.weight": 0.0123, …}, …}}'


@dataclass(frozen=True, slots=True)
class SensitivityTable:
    """A model's table: type → role → `RoleProfile`. ``n_blocks`` counts the blocks of the whole model, not of a role.

    ``told``: what its figures are. ``single``: roles outside the blocks (an embedding), of which there is nothing to choose. ``missing``:
    type → role → how many of its tensors the table names without a figure (null); they are left out.
    """

    model: str
    n_blocks: int
    by_type: Mapping[str, Mapping[str, RoleProfile]]
    single: tuple[str, ...] = ()
    missing: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    told: str = PUBLISHED


def parse_table(data: Any, label: str) -> SensitivityTable:
    """A table in the form of ``*.kld.json``. Raises `InputError` that names ``label``, the tensor and what is wrong."""
    tables = data.get("by_type") if isinstance(data, Mapping) else None
    if not isinstance(tables, Mapping) or not tables:
        raise InputError(f"{label} is not a table of sensitivities: it must look like {_FORM}")
    by_type: dict[str, dict[str, dict[int, float]]] = {}
    single, missing, n_blocks = set[str](), dict[str, dict[str, int]](), 0
    for kind, table in tables.items():
        if table == {} and any(tables.values()):
            continue  # another type has figures
        if not isinstance(table, Mapping) or not table:
            raise InputError(f"{label}: by_type has no table of tensors for {kind!r}; it must look like {_FORM}")
        roles, absent = by_type.setdefault(str(kind), {}), missing.setdefault(str(kind), {})
        for name, value in table.items():
            figure = _figure(name, value, kind, label)
            block, role = block_of(name), role_of(name)
            n_blocks = max(n_blocks, -1 if block is None else block + 1)
            if block is None:
                single.add(role)
            elif figure is None:
                absent[role] = absent.get(role, 0) + 1
            elif roles.setdefault(role, {}).setdefault(block, figure) != figure:
                raise InputError(f"{label}, {kind}: block {block} of {role} has two figures, one by the name {name!r}")
    if not any(by_type.values()):
        what = "has a figure" if n_blocks else "is in a block (blk.0.ffn_gate.weight, …)"
        raise InputError(f"{label}: no tensor {what}, so there is no depth to compare")
    return SensitivityTable(str(data.get("model") or label), n_blocks, by_type, tuple(sorted(single)), missing)


def _figure(name: str, value: Any, kind: str, label: str) -> float | None:
    """The figure of a tensor, None where there is none. What is too small for any sum is nothing."""
    if len(name) > MAX_NAME_BYTES:
        raise InputError(f"{label}, {kind}: {name[:40]!r}… is too long for the name of a tensor")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise InputError(
            f"{label}, {kind}: {name!r} has the damage {_short(value)}; it must be a finite number up to {LARGEST:g}, "
            "or null where there is none"
        )
    return 0.0 if abs(value) < 1.0 / LARGEST else float(value)


def _short(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else str(value)[:40]


def common_types(old: SensitivityTable, new: SensitivityTable, wanted: str | None = None) -> tuple[str, str]:
    """The types whose tables are compared: ``wanted``; else the first that both tables have; else the two nearest in bits.

    Raises `TypeChoiceError` where neither table has ``wanted``.
    """
    if wanted is not None:
        return _named(old, wanted, new), _named(new, wanted, old)
    names = {kind.lower(): kind for kind in new.by_type}
    for kind in old.by_type:
        if kind.lower() in names:
            return kind, names[kind.lower()]
    pairs = [(a, b) for a in old.by_type for b in new.by_type]
    return min(pairs, key=lambda pair: abs(_bits(pair[0]) - _bits(pair[1])))


def _named(table: SensitivityTable, wanted: str, other: SensitivityTable) -> str:
    """The table's own spelling of a type; its nearest one where only the other table has the type."""
    names = {kind.lower(): kind for kind in table.by_type}
    if wanted.lower() in names:
        return names[wanted.lower()]
    if wanted.lower() not in {kind.lower() for kind in other.by_type}:
        if table is other:
            raise TypeChoiceError(
                f"{table.model} has no table of the type {wanted!r}; it has {', '.join(table.by_type)}"
            )
        raise TypeChoiceError(
            f"neither table has the type {wanted!r}: {table.model} has {', '.join(table.by_type)}; "
            f"{other.model} has {', '.join(other.by_type)}"
        )
    return min(table.by_type, key=lambda kind: abs(_bits(kind) - _bits(wanted)))


def _bits(kind: str) -> float:
    """Bits that a type's name says (``iq2_xxs`` → 2), 16 where it says none."""
    digits = re.search(r"[0-9]{1,2}", kind)
    return float(digits[0]) if digits else 16.0
