"""From single effects to a choice: the published rule, a plain greedy one, and what adding up the singles predicts.

A policy takes the single effects of a sweep and says which tensors to store in which type. It may look at nothing else, above all
not at the text that the result will be reported on. The best of many noisy numbers looks good by luck (winner's curse): the sum
of the chosen effects is too rosy a prediction, so it stands beside the measured combination, never in its place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cerebellum.allocation.effects import Effects, Objective, Prediction, SingleEffect, predict_additive
from cerebellum.domain import TensorTypes, tensor_types_of
from cerebellum.errors import InputError
from cerebellum.figures import significant
from cerebellum.stats.classes import Class, EffectClass, Thresholds, classify
from cerebellum.stats.verdicts import MILLI

__all__ = [
    "POLICIES",
    "Choice",
    "Class",
    "EffectClass",
    "Prediction",
    "Rules",
    "SingleEffect",
    "Thresholds",
    "choose",
    "choose_greedy",
    "choose_published",
    "classify",
    "predict_additive",
]


@dataclass(frozen=True, slots=True)
class Rules:
    """What policies can be told; each says which of these it heeds.

    ``max_gap``: largest step between block numbers in one cluster (2: 11 and 13 are neighbours). ``objective``, ``cautious``: what
    `SingleEffect.cost` is. ``allowed_damage``: nats per token that all demotions together may cost. ``max_growth_bytes``: how much
    larger than the base the result may be (None: any).
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    max_gap: int = 2
    objective: Objective = "kld"
    cautious: bool = True
    allowed_damage: float = 0.0
    max_growth_bytes: int | None = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy chose, in order of block; ``reason`` is one sentence for the report."""

    policy: str
    effects: tuple[SingleEffect, ...]
    reason: str

    @property
    def tensor_types(self) -> TensorTypes:
        return tensor_types_of((e.tensor, e.to_type) for e in self.effects)

    @property
    def blocks(self) -> tuple[int, ...]:
        return tuple(sorted({e.block for e in self.effects if e.block is not None}))

    @property
    def delta_bytes(self) -> int:
        return sum(e.delta_bytes for e in self.effects)


Policy = Callable[[Effects, Rules], Choice]


def check_policy(policy: str) -> None:
    """Raises `InputError` for a name that is no policy's."""
    if policy not in POLICIES:
        raise InputError(f"unknown policy {policy!r}; the policies are {', '.join(POLICIES)}")


def choose(policy: str, effects: Effects, rules: Rules | None = None) -> Choice:
    """The choice of the named policy. Raises `InputError` for an unknown name, listing those there are."""
    check_policy(policy)
    return POLICIES[policy](effects, rules or Rules())


def choose_published(effects: Effects, rules: Rules) -> Choice:
    """The published rule: the largest cluster of neighbouring blocks whose tensor regularizes.

    Blocks are neighbours if their numbers differ by at most ``rules.max_gap``. Among clusters of one role the largest wins; of
    equals that with the lowest sum of effects, then the earlier one. Each role has its own cluster, all of one type. Perplexity
    alone decides here, as published; `Rules.thresholds` is all else it heeds.
    """
    best: dict[str, tuple[SingleEffect, ...]] = {}
    for (role, _), members in sorted(_regularizing(effects, rules.thresholds).items()):
        for cluster in _clusters(members, rules.max_gap):
            best[role] = min(best.get(role, cluster), cluster, key=_rank)
    chosen = [effect for role in sorted(best) for effect in best[role]]
    if not chosen:
        return Choice(
            "published", (), f"no tensor regularizes ({rules.thresholds.regularization:+g} % or lower, shown)"
        )
    words = "; ".join(f"{role} blocks {', '.join(str(e.block) for e in best[role])}" for role in sorted(best))
    return Choice("published", _ordered(chosen), f"the largest cluster of neighbouring blocks that regularize: {words}")


def _regularizing(effects: Effects, thresholds: Thresholds) -> dict[tuple[str, str], list[SingleEffect]]:
    regularizing: dict[tuple[str, str], list[SingleEffect]] = defaultdict(list)
    for effect in effects:
        if effect.block is not None and effect.classify(thresholds).word is EffectClass.REGULARIZATION:
            regularizing[effect.role, effect.to_type].append(effect)
    return regularizing


def _clusters(members: Iterable[SingleEffect], max_gap: int) -> list[tuple[SingleEffect, ...]]:
    clusters: list[list[SingleEffect]] = []
    for effect in _ordered(members):
        if clusters and (effect.block or 0) - (clusters[-1][-1].block or 0) <= max_gap:
            clusters[-1].append(effect)
        else:
            clusters.append([effect])
    return [tuple(cluster) for cluster in clusters]


def _rank(cluster: tuple[SingleEffect, ...]) -> tuple[int, float, int]:
    return -len(cluster), math.fsum(e.estimate for e in cluster), cluster[0].block or 0


def choose_greedy(effects: Effects, rules: Rules) -> Choice:
    """Plain greedy by measured cost (`SingleEffect.cost`); every tensor ends at one type at most.

    1. Take what improves and doesn't grow the file (cost ≤ 0, bytes ≤ 0), of each tensor the lowest cost.
    2. Of all moves of a tensor to a smaller type (from the base's, or from the one that it has been given) take the one that saves most
       bytes per nat, as long as one fits: the costs of what is taken stay within ``allowed_damage`` together. So a tensor that was given a
       type goes on to a smaller one where that pays more than anything else. Gains of step 1 are not spent here.
    3. Likewise of the moves of the other tensors to a larger type that improves them, the one that gains most nats per byte, while the
       file's growth stays within ``max_growth_bytes``: what the demotions saved may be spent.

    Ties go to the tensor's name, then the type's, so the order of ``effects`` doesn't matter. Effects don't simply add: measure
    the result.
    """
    costs = {e.swap: e.cost(rules.objective, rules.cautious) for e in effects}
    taken: dict[str, SingleEffect] = {}
    for effect in sorted(effects, key=lambda e: (costs[e.swap], e.tensor, e.to_type)):
        if costs[effect.swap] <= 0.0 and effect.delta_bytes <= 0:
            taken.setdefault(effect.tensor, effect)
    smaller = [_Move(e, -e.delta_bytes, costs[e.swap]) for e in effects if e.delta_bytes < 0 and costs[e.swap] > 0.0]
    free = {tensor: _Move(e, -e.delta_bytes, 0.0) for tensor, e in taken.items()}
    demoted = _filled(smaller, rules.allowed_damage, free)
    taken = {tensor: move.effect for tensor, move in demoted.items()}
    larger = [
        _Move(e, -costs[e.swap], e.delta_bytes)
        for e in effects
        if e.delta_bytes > 0 and costs[e.swap] < 0.0 and e.tensor not in taken
    ]
    growth = math.inf if rules.max_growth_bytes is None else rules.max_growth_bytes
    room = growth - sum(e.delta_bytes for e in taken.values())
    taken |= {tensor: move.effect for tensor, move in _filled(larger, room, {}).items()}
    spent = math.fsum(move.weight for move in demoted.values())
    name = {"kld": "KL divergence", "nll": "perplexity"}[rules.objective]
    how = f"{len(taken)} of {len({e.tensor for e in effects})} tensors by {name}{', upper limits' if rules.cautious else ''}"
    return Choice(
        "greedy",
        _ordered(taken.values()),
        f"{how}; damage spent {significant(MILLI * spent)} of {significant(MILLI * rules.allowed_damage)} thousandths of a nat a token",
    )


@dataclass(frozen=True, slots=True)
class _Move:
    """A type for a tensor: what it is worth and what it weighs, both from the base."""

    effect: SingleEffect
    value: float
    weight: float


def _filled(moves: Iterable[_Move], room: float, taken: Mapping[str, _Move]) -> dict[str, _Move]:
    """Tensor → its move, beginning with ``taken``: again and again the move of most value per weight that still fits ``room``.

    Value and weight of a move are those beyond what its tensor has already; only moves that gain value are made, so this ends.
    """
    given = dict(taken)
    left = list(moves)
    nothing = (0.0, 0.0)
    while True:
        best: tuple[float, str, str] | None = None
        chosen: _Move | None = None
        spent = math.fsum(move.weight for move in given.values())
        for move in left:
            now = given.get(move.effect.tensor)
            value, weight = (now.value, now.weight) if now else nothing
            gain, more = move.value - value, move.weight - weight
            if gain > 0.0 and spent + more <= room:
                rank = (-gain / more if more > 0.0 else -math.inf, move.effect.tensor, move.effect.to_type)
                if best is None or rank < best:
                    best, chosen = rank, move
        if chosen is None:
            return given
        given[chosen.effect.tensor] = chosen


#: The policies by name: the one table that commands and reports look them up in.
POLICIES: dict[str, Policy] = {"published": choose_published, "greedy": choose_greedy}


def _ordered(effects: Iterable[SingleEffect]) -> tuple[SingleEffect, ...]:
    return tuple(sorted(effects, key=lambda e: (-1 if e.block is None else e.block, e.tensor, e.to_type)))
