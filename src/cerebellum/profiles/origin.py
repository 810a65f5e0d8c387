"""What is carried over: one model's sensitivity by role and block, from a map of it or, as far as types tell, from a recipe.

A sensitivity is the log of a tensor's damage at a relative weight error of 1, a weight: slope · power ÷ weights. So models of other widths,
weights and importance matrices can be compared. A recipe has no damages, but one that was chosen well spends a bit more where damage is
four times as large: its sensitivities are bits · log 4, their common level unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cerebellum.allocation.sensitivity import SensitivityMap
from cerebellum.domain import block_of, role_of
from cerebellum.gguf.types import FTYPES, TYPES
from cerebellum.profiles.layout import Layout
from cerebellum.profiles.profile import SensitivityTable
from cerebellum.recipes.recipe import Recipe

MAP, RECIPE = "sensitivity map", "recipe"


@dataclass(frozen=True, slots=True)
class Origin:
    """``profiles``: role → block → log sensitivity; roles outside the blocks have none. ``misfit``: of the map's damage model."""

    label: str
    form: str
    architecture: str
    layout: Layout
    profiles: Mapping[str, Mapping[int, float]]
    sha256: str | None = None
    misfit: float | None = None


def origin_of_map(map: SensitivityMap, label: str) -> Origin:
    """What a map says: slopes that were measured, or that its role and its own source say."""
    table, profiles = map.table, dict[str, dict[int, float]]()
    for name in table.names:
        tensor, block = table.tensors[name], block_of(name)
        size = map.model.slopes[name].mean * table.power[name] / tensor.n_elements
        if block is not None and size > 0.0:
            profiles.setdefault(tensor.role, {})[block] = math.log(size)
    layout = Layout(table.base.n_blocks, map.kinds)
    sha256 = map.facts["model"]["sha256"]
    return Origin(label, MAP, table.base.architecture, layout, profiles, sha256, map.model.misfit)


def origin_of_recipe(recipe: Recipe, layout: Layout, label: str) -> Origin:
    """What a recipe's types say of the roles of which it names a tensor; unnamed tensors of theirs have the base's usual type."""
    usual = TYPES[FTYPES[recipe.base][1]].bits_per_weight
    profiles: dict[str, dict[int, float]] = {}
    for name, kind in recipe.types.items():
        if (block := block_of(name)) is not None and block < layout.n_blocks:
            blocks = dict.fromkeys(range(layout.n_blocks), usual * math.log(4.0))
            profiles.setdefault(role_of(name), {} if recipe.complete else blocks)[block] = TYPES[
                kind
            ].bits_per_weight * math.log(4.0)
    return Origin(label, RECIPE, recipe.model.architecture, layout, profiles)


def table_of_map(map: SensitivityMap, label: str) -> SensitivityTable:
    """What the map's damage model expects of one tensor at a time, in the form of a published table: nats a token at every type that
    tensors may take. Types that most tensors may take come first, of those the smallest."""
    table, slopes = map.table, map.model.slopes
    by_type: dict[str, dict[str, dict[int, float]]] = {}
    for name in table.names:
        if (block := block_of(name)) is None:
            continue
        for kind in table.types[name]:
            profile = by_type.setdefault(kind, {}).setdefault(table.tensors[name].role, {})
            profile[block] = slopes[name].mean * table.errors[name][kind]
    counts = {kind: sum(len(profile) for profile in roles.values()) for kind, roles in by_type.items()}
    ordered = sorted(by_type, key=lambda kind: (-counts[kind], TYPES[kind].bits_per_weight))
    single = sorted({table.tensors[name].role for name in table.names if block_of(name) is None})
    n = sum(slopes[name].n_anchors > 0 for name in table.names)
    known = f"{n} of its {len(table.names)} tensors were measured, the others are predicted"
    told = f"mean KL divergence that its damage model expects of one tensor at a time; {known}"
    model = str(map.facts["model"].get("name") or label)
    return SensitivityTable(
        model, table.base.n_blocks, {kind: by_type[kind] for kind in ordered}, tuple(single), {}, told
    )
