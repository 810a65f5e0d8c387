"""From single effects to a choice: the published rule, a plain greedy one, and what adding up the singles predicts.

A policy takes the single effects of a sweep and says which tensors to store in which type. It may look at nothing else, above all
not at the text that the result will be reported on. The best of many noisy numbers looks good by luck (winner's curse): the sum
of the chosen effects is too rosy a prediction, so it stands beside the measured combination, never in its place.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cerebellum.allocate.effects import Effects, Objective, Prediction, SingleEffect, predict_additive
from cerebellum.domain import TensorTypes, tensor_types_of
from cerebellum.errors import InputError
from cerebellum.stats.classes import Class, Thresholds, Word, classify
from cerebellum.stats.verdicts import MILLI

__all__ = [
    "POLICIES",
    "Choice",
    "Class",
    "Prediction",
    "Rules",
    "SingleEffect",
    "Thresholds",
    "Word",
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
    said = "; ".join(f"{role} blocks {', '.join(str(e.block) for e in best[role])}" for role in sorted(best))
    return Choice("published", _ordered(chosen), f"the largest cluster of neighbouring blocks that regularize: {said}")


def _regularizing(effects: Effects, thresholds: Thresholds) -> dict[tuple[str, str], list[SingleEffect]]:
    found: dict[tuple[str, str], list[SingleEffect]] = defaultdict(list)
    for effect in effects:
        if effect.block is not None and effect.classify(thresholds).word is Word.REGULARIZATION:
            found[effect.role, effect.to_type].append(effect)
    return found


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
    """Plain greedy by measured cost (`SingleEffect.cost`); every tensor is taken at most once.

    1. Take what improves and doesn't grow the file (cost ≤ 0, bytes ≤ 0), lowest cost first.
    2. Take demotions with a cost by bytes saved per nat, highest first, while the sum of their costs stays within
       ``allowed_damage``; one that doesn't fit is passed over, a cheaper one may still. Gains of step 1 are not spent here.
    3. Take promotions that improve by nats gained per byte, highest first, while the file's growth stays within
       ``max_growth_bytes``: what the demotions saved may be spent.

    Ties go to the tensor's name, then the type's, so the order of ``effects`` doesn't matter. Effects don't simply add: measure
    the result.
    """
    costs = {e.swap: e.cost(rules.objective, rules.cautious) for e in effects}
    taken: dict[str, SingleEffect] = {}
    spent = 0.0
    for effect in sorted(effects, key=lambda e: _greedy_key(e, costs[e.swap])):
        cost = costs[effect.swap]
        if effect.tensor in taken:
            continue
        if effect.delta_bytes > 0:
            growth = effect.delta_bytes + sum(e.delta_bytes for e in taken.values())
            fits = cost < 0.0 and (rules.max_growth_bytes is None or growth <= rules.max_growth_bytes)
        else:
            fits = cost <= 0.0 or (effect.delta_bytes < 0 and spent + cost <= rules.allowed_damage)
            spent += cost if fits and cost > 0.0 else 0.0
        if fits:
            taken[effect.tensor] = effect
    name = {"kld": "KL divergence", "nll": "perplexity"}[rules.objective]
    how = f"{len(taken)} of {len({e.tensor for e in effects})} tensors by {name}{', upper limits' if rules.cautious else ''}"
    return Choice(
        "greedy",
        _ordered(taken.values()),
        f"{how}; damage spent {MILLI * spent:.3g} of {MILLI * rules.allowed_damage:.3g} thousandths of a nat a token",
    )


def _greedy_key(effect: SingleEffect, cost: float) -> tuple[int, float, str, str]:
    """(step, what is best first within it, ties) as `choose_greedy` says."""
    if effect.delta_bytes > 0:
        step, value = 3, cost / effect.delta_bytes
    elif cost <= 0.0:
        step, value = 1, cost
    else:
        step, value = 2, effect.delta_bytes / cost
    return step, value, effect.tensor, effect.to_type


#: The policies by name: the one table that commands and reports look them up in.
POLICIES: dict[str, Policy] = {"published": choose_published, "greedy": choose_greedy}


def _ordered(effects: Iterable[SingleEffect]) -> tuple[SingleEffect, ...]:
    return tuple(sorted(effects, key=lambda e: (-1 if e.block is None else e.block, e.tensor, e.to_type)))
