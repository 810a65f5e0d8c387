"""Tensors that get one type together: some backends join them into one matrix (gate and up, query, key and value)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cerebellum.allocation.table import Table
from cerebellum.errors import InputError, TensorChoiceError


def with_groups(table: Table, same_type: Sequence[Sequence[str]]) -> Table:
    """``table`` with the groups that ``same_type`` names by their roles; each group keeps the types that all its tensors may take.

    Raises `TensorChoiceError` for roles that give no group, `InputError` where a group has no type in common.
    """
    groups = tuple(group for roles in same_type for group in groups_of(table, roles))
    twice = {name for name in table.names if sum(name in group for group in groups) > 1}
    if twice:
        raise TensorChoiceError(
            f"--same-type names the role of {min(twice)} twice; name all roles of its group at once"
        )
    types = dict(table.types)
    for group in groups:
        common = tuple(kind for kind in types[group[0]] if all(kind in types[name] for name in group))
        if not common:
            raise InputError(f"--same-type: no allowed type can be held by all of {', '.join(group)}")
        types |= dict.fromkeys(group, common)
    return replace(table, types=types, groups=groups)


def groups_of(table: Table, roles: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """For each block its tensors of ``roles``, where it has at least two that may change. Raises `TensorChoiceError`."""
    known = sorted(set(table.roles.values()))
    if len(set(roles)) < 2 or any(role not in known for role in roles):
        raise TensorChoiceError(
            f"--same-type {'+'.join(roles)}: name two or more roles, joined by +; the roles that can change are {', '.join(known)}"
        )
    blocks: dict[int, list[str]] = defaultdict(list)
    for name, role in table.roles.items():
        if role in roles and (block := table.tensors[name].block) is not None:
            blocks[block].append(name)
    groups = [tuple(blocks[block]) for block in sorted(blocks) if len(blocks[block]) > 1]
    if not groups:
        raise TensorChoiceError(f"--same-type {'+'.join(roles)}: no block has two of these tensors")
    yield from groups
