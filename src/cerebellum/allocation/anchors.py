"""Which types are measured, and on which tensors more: near where the decisions are, each a change from the source itself."""

from __future__ import annotations

from collections.abc import Mapping

from cerebellum.allocation.candidates import undominated
from cerebellum.allocation.damage import DamageModel
from cerebellum.allocation.solver import price
from cerebellum.allocation.table import Table
from cerebellum.gguf.types import TYPES

#: Bits a weight under which proportionality ends, and over which an effect is small against its noise: anchors lie between.
LEAST_BITS, MOST_BITS = 2.3, 3.5
#: Share of the predicted damage that open decisions may cost together before they are measured no further.
OPEN_SHARE = 0.08
#: At most this share of the tensors gets more chunks in a round, and this share a second type at all.
MORE_SHARE, SECOND_SHARE = 1 / 4, 1 / 12


def first_anchors(table: Table, budget: int) -> dict[str, str]:
    """Tensor → the type that it is measured at alone: the nearest to the bits a weight that ``budget`` bytes give on average.

    Tensors that no type damages have none.
    """
    average = 8.0 * budget / sum(table.tensors[name].n_elements for name in table.names)
    bits = min(max(average, LEAST_BITS), MOST_BITS)
    types = {}
    for name in table.names:
        usual = [kind for kind in damaging(table, name) if TYPES[kind].bits_per_weight >= LEAST_BITS]
        if kinds := usual or damaging(table, name)[-1:]:
            types[name] = min(kinds, key=lambda kind: (abs(TYPES[kind].bits_per_weight - bits), kind))
    return types


def damaging(table: Table, name: str) -> list[str]:
    """The types that change the tensor and that no other type beats, smallest first."""
    return [kind for kind in by_error(table, name) if table.errors[name][kind] > 0.0]


def by_error(table: Table, name: str) -> list[str]:
    """Types that no other beats, smallest first; errors fall."""
    types = table.types[name]
    return list(undominated(types, {k: table.n_bytes(name, k) for k in types}, table.errors[name]))


def second_anchors(table: Table, model: DamageModel, budget: int, measured: Mapping[str, str]) -> dict[str, str]:
    """Tensor → the type that it would get, where that isn't the one it was measured at, of the tensors that do most damage."""
    chosen = table.best(model.damage, budget).types
    damage = {name: model.damage(name, table.errors[name][chosen[name]]) for name in measured}
    others = [name for name in measured if chosen[name] != measured[name] and damage[name] > 0.0]
    ranked = sorted(others, key=lambda name: (-damage[name], name))
    return {name: chosen[name] for name in ranked[: round(SECOND_SHARE * len(measured))]}


def doubts(table: Table, model: DamageModel, budget: int) -> dict[str, float]:
    """Tensor → nats a token that its choice loses on average where its slope lies at either end of its 90 % interval.

    A byte's price is that of the last one bought, so tensors are looked at one by one.
    """
    offers = table.offers(model.damage)
    rate = price(offers, budget)
    losses = {}
    for name, of_tensor in offers.items():
        slope = model.slopes[name]
        chosen = min(of_tensor, key=lambda offer: offer.cost + rate * offer.n_bytes)
        lost = 0.0
        for limit in (slope.low, slope.high):
            costs = {o.type: limit / slope.mean * o.cost + rate * o.n_bytes for o in of_tensor}
            lost += 0.5 * (costs[chosen.type] - min(costs.values()))
        losses[name] = lost
    return losses


def open_tensors(table: Table, model: DamageModel, budget: int) -> list[str]:
    """The tensors whose decision is open, the costliest doubt first: what the others may lose together is small."""
    losses = doubts(table, model, budget)
    allowed = OPEN_SHARE * table.best(model.damage, budget).cost
    ranked = sorted(losses, key=lambda name: (-losses[name], name))
    rest, chosen = sum(losses.values()), []
    for name in ranked[: round(MORE_SHARE * len(ranked))]:
        if rest <= allowed or losses[name] == 0.0:
            break
        chosen.append(name)
        rest -= losses[name]
    return chosen


def neighbours(table: Table, types: Mapping[str, str], name: str) -> tuple[str | None, str | None]:
    """The next smaller and the next larger type of a tensor in a recipe; None where there is none."""
    order = by_error(table, name)
    now = types[name]
    if now not in order:
        return None, None
    at = order.index(now)
    return (order[at - 1] if at else None), (order[at + 1] if at + 1 < len(order) else None)
