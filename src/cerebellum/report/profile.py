"""Sensitivity by role over relative depth, drawn in characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cerebellum.profiles.check import logs
from cerebellum.profiles.depth import relative_depth
from cerebellum.profiles.profile import RoleProfile, SensitivityTable
from cerebellum.report.grids import Grid

#: Columns that a profile is drawn in, at most, and the steps of its height.
WIDTH, STEPS = 60, "▁▂▃▄▅▆▇█"


def profile_grid(table: SensitivityTable, kind: str, roles: Mapping[str, RoleProfile]) -> Grid:
    """A row a role: the curve, its range, the blocks of least and most damage."""
    rows = tuple(_row(role, roles[role], table.n_blocks) for role in sorted(roles))
    notes = (
        f"{table.model} at {kind}: {table.told}.",
        f"First to last of {table.n_blocks} blocks, by relative depth. Height: log damage, from the role's least to its most. A gap: no "
        "such tensor there.",
        *((f"Not in the blocks: {', '.join(table.single)}.",) if table.single else ()),
    )
    return Grid("Profile", ("role", "over depth 0 … 1", "least", "at block", "most", "at block"), rows, notes)


def _row(role: str, profile: RoleProfile, n_blocks: int) -> tuple[str, ...]:
    low, high = min(profile, key=lambda b: (profile[b], b)), max(profile, key=lambda b: (profile[b], -b))
    return role, curve(profile, n_blocks), f"{profile[low]:.4g}", str(low), f"{profile[high]:.4g}", str(high)


def curve(profile: RoleProfile, n_blocks: int) -> str:
    """One character a block, or a column of depth the largest of its blocks where they are more than `WIDTH`."""
    width, values = min(n_blocks, WIDTH), logs(profile)
    columns: list[float | None] = [None] * width
    for block, value in values.items():
        column = round(relative_depth(block, n_blocks) * (width - 1))
        known = columns[column]
        columns[column] = value if known is None else max(known, value)
    low, high = min(values.values()), max(values.values())
    return "".join(" " if v is None else _step(v, low, high) for v in columns)


def _step(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.0
    return STEPS[min(int(share * len(STEPS)), len(STEPS) - 1)]


def profile_json(table: SensitivityTable, kind: str, roles: Mapping[str, RoleProfile]) -> dict[str, Any]:
    """Depth, block and damage by role."""
    return {
        "model": table.model,
        "blocks": table.n_blocks,
        "type": kind,
        "roles": {
            role: [
                {"block": b, "depth": round(relative_depth(b, table.n_blocks), 4), "damage": profile[b]}
                for b in sorted(profile)
            ]
            for role, profile in sorted(roles.items())
        },
    }
