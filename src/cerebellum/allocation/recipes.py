"""Candidate recipes of one size: what different beliefs about damage would choose. Measuring decides among them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cerebellum.allocation.anchors import LEAST_BITS
from cerebellum.allocation.damage import DamageModel
from cerebellum.allocation.solver import Constraint, Offers, Solution, solve
from cerebellum.allocation.table import Table
from cerebellum.errors import InputError
from cerebellum.gguf.types import TYPES

#: Name of the control and candidate that knows no measurement.
WEIGHT_ERROR = "weight error alone"
#: Share of a block's tensors that may have its lowest class of types in the recipe that spreads them.
SPREAD_SHARE = 0.34
#: Types under this many bits a weight are the ones that the spread recipe spreads.
SPREAD_BITS = 3.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe with the name of the belief that chose it; ``predicted`` is the mean KL divergence from the source that the
    damage model expects, nats a token."""

    name: str
    types: Mapping[str, str]
    n_bytes: int
    predicted: float


def predicted_kld(table: Table, model: DamageModel, types: Mapping[str, str]) -> float:
    """What the model expects of a recipe: where the source itself stands, the damages of its tensors added up and, if there are any, the
    floor; nats a token."""
    damage = math.fsum(model.damage(n, table.errors[n][kind]) for n, kind in types.items())
    return model.start + damage + (model.floor if damage > 0.0 else 0.0)


def weight_error_recipe(table: Table, budget: int) -> Solution:
    """The least weight error within ``budget`` bytes of the tensors in the table."""
    return table.best(lambda _, error: error, budget)


def candidates(table: Table, model: DamageModel, budget: int) -> list[Candidate]:
    """Recipes of at most ``budget`` bytes (of the table's tensors), no two alike: the measured slopes' first, weight error alone last."""
    beliefs: dict[str, Callable[[], Solution]] = {
        "measured slopes": lambda: table.best(model.damage, budget),
        "slopes half-way to their role's": lambda: table.best(_halfway(model), budget),
        "slopes of roles alone": lambda: table.best(_roles(model), budget),
        "lowest types spread over the blocks": lambda: spread(table, model, budget),
        "no type far below the anchors": lambda: solve(above_anchors(table, model), budget, (), table.groups),
        WEIGHT_ERROR: lambda: weight_error_recipe(table, budget),
    }
    by_types: dict[tuple[tuple[str, str], ...], Candidate] = {}
    for name, belief in beliefs.items():
        try:
            solution = belief()
        except InputError:  # a constraint that this size can't keep
            continue
        key = tuple(sorted(solution.types.items()))
        if key not in by_types or name == WEIGHT_ERROR:
            by_types[key] = Candidate(
                name, solution.types, solution.n_bytes, predicted_kld(table, model, solution.types)
            )
    return list(by_types.values())


def _halfway(model: DamageModel) -> Callable[[str, float], float]:
    return lambda name, error: math.sqrt(model.slopes[name].mean * model.slopes[name].prior) * error


def _roles(model: DamageModel) -> Callable[[str, float], float]:
    return lambda name, error: model.slopes[name].prior * error


def above_anchors(table: Table, model: DamageModel) -> Offers:
    """Offers without types under the bits that anchors have at least, where there are others."""
    offers = {}
    for name, of_tensor in table.offers(model.damage).items():
        kept = tuple(o for o in of_tensor if TYPES[o.type].bits_per_weight >= LEAST_BITS)
        offers[name] = kept or of_tensor[-1:]
    return offers


def spread(table: Table, model: DamageModel, budget: int) -> Solution:
    """The measured slopes' choice where at most `SPREAD_SHARE` of a block's tensors are under `SPREAD_BITS` bits."""
    offers = table.offers(model.damage)
    return solve(offers, budget, tuple(spread_rows(table, offers)), table.groups)


def spread_rows(table: Table, offers: Offers) -> Iterator[Constraint]:
    """A row for each block: so many of its tensors may be under `SPREAD_BITS` bits."""
    blocks: dict[int, list[str]] = defaultdict(list)
    for name in offers:
        if (block := table.tensors[name].block) is not None:
            blocks[block].append(name)
    for names in blocks.values():
        low = {(n, o.type): 1.0 for n in names for o in offers[n] if TYPES[o.type].bits_per_weight < SPREAD_BITS}
        if low:
            yield Constraint(low, high=float(max(1, math.floor(SPREAD_SHARE * len(names)))))


def shuffles(table: Table, types: Mapping[str, str], n: int, seed: int) -> list[dict[str, str]]:
    """Up to ``n`` other recipes with the same types (so the same bytes) as ``types``, shuffled among tensors of one role that have
    the same shape and the same choice of types; the tensors of a group together. Draw i depends on ``seed`` and i alone."""
    grouped = {name for group in table.groups for name in group}
    alike: dict[tuple[object, ...], list[tuple[str, ...]]] = defaultdict(list)
    for unit in sorted([*table.groups, *((name,) for name in table.names if name not in grouped)]):
        alike[tuple((table.tensors[n].role, table.tensors[n].shape, table.types[n]) for n in unit)].append(unit)
    shuffled: list[dict[str, str]] = []
    for i in range(4 * n):
        rng = np.random.default_rng([seed, i])
        drawn = dict(types)
        for units in (alike[key] for key in sorted(alike, key=str)):
            for unit, j in zip(units, rng.permutation(len(units)), strict=True):
                drawn |= {name: types[other] for name, other in zip(unit, units[j], strict=True)}
        if drawn != dict(types) and drawn not in shuffled:
            shuffled.append(drawn)
        if len(shuffled) == n:
            break
    return shuffled


def uniform(table: Table, budget: int) -> dict[str, dict[str, str]]:
    """All tensors at one K-quant (or what their rows hold instead): the next below ``budget`` bytes and the next above."""
    from cerebellum.gguf.types import fallback_type

    sets = {}
    for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"):
        types = {n: fallback_type(kind, table.tensors[n].row_length).name for n in table.names}
        sets[kind] = (sum(table.n_bytes(n, k) for n, k in types.items()), types)
    below = max((k for k in sets if sets[k][0] <= budget), key=lambda k: sets[k][0], default=None)
    above = min((k for k in sets if sets[k][0] > budget), key=lambda k: sets[k][0], default=None)
    return {f"uniform {kind}": sets[kind][1] for kind in (below, above) if kind}
