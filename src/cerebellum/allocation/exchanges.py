"""Refinement: small steps from a measured recipe, weighed by what the model expects of them and by what was measured.

From a recipe that already errs, a step's effect is its own damage and a cross term with all the other errors, of either sign:
|cross| is at most 2 · sqrt(KLD of the recipe · damage of the step). No sum over single effects can know it, so steps are measured from the
recipe itself. A step's belief is normal: the model's prediction with a variance of misfit and cross term, times the measurement with its
own. The size of the cross terms is estimated from all steps together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cerebellum.allocation.anchors import neighbours
from cerebellum.allocation.damage import Anchor, DamageModel
from cerebellum.allocation.solver import Constraint, Offer, Solution, one_type, price, solve
from cerebellum.allocation.table import Table
from cerebellum.errors import InputError

#: Most steps that a candidate of a round takes at once: few, so that they don't disturb each other, or many, for what they bring together.
TAKEN_AT_ONCE = (2, 4, 8, 16, 32)
#: Correlation of a step's error with the recipe's that is thought possible when steps to measure are chosen.
_POSSIBLE = 0.5
#: How many chunks' worth of belief the usual standard error has beside a step's own.
_BELIEF = 4.0


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of a recipe at a neighbouring type. ``n_bytes``, ``error_change``: changes of the file's bytes and of the tensor's
    weight error; ``expected``: the model's change of damage; ``spread``: the square root of the damage that the step adds or takes,
    which cross terms are proportional to."""

    tensor: str
    type: str
    n_bytes: int
    error_change: float
    expected: float
    spread: float


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step with the change of KL divergence that was measured from the recipe, nats a token, and its standard error."""

    step: Step
    effect: float
    std_error: float


def steps(table: Table, model: DamageModel, types: Mapping[str, str], kld: float, most: int) -> list[Step]:
    """The ``most`` steps from a recipe of mean KL divergence ``kld`` that could bring most, bytes paid at the recipe's price."""
    rate = price(table.offers(model.damage), sum(table.n_bytes(name, types[name]) for name in table.names))
    ranked = []
    for name in table.names:
        for kind in neighbours(table, types, name):
            if kind is None:
                continue
            step = _step(table, model, name, types[name], kind)
            promise = 2.0 * _POSSIBLE * math.sqrt(max(kld, 0.0)) * step.spread - step.expected - rate * step.n_bytes
            ranked.append((-promise, name, kind, step))
    return [step for *_, step in sorted(ranked, key=lambda row: row[:3])[:most]]


def _step(table: Table, model: DamageModel, name: str, now: str, kind: str) -> Step:
    change = table.error_change(name, kind, now)
    # the two roundings are independent, so what the step adds to the error vector has the sum of their squares
    both = table.errors[name][kind] + table.errors[name][now]
    size = table.n_bytes(name, kind) - table.n_bytes(name, now)
    return Step(name, kind, size, change, model.damage(name, change), math.sqrt(model.damage(name, both)))


def steadied(measured: Sequence[MeasuredStep], n_chunks: int) -> list[MeasuredStep]:
    """Standard errors from few chunks, drawn toward the usual one of steps of their spread."""
    shares = [m.std_error / m.step.spread for m in measured if m.step.spread > 0.0 and math.isfinite(m.std_error)]
    usual = float(np.median(shares)) if shares else 0.0
    degrees = float(max(n_chunks - 1, 0))
    steady = []
    for m in measured:
        variance = _BELIEF * (usual * m.step.spread) ** 2 + degrees * m.std_error**2
        steady.append(replace(m, std_error=math.sqrt(variance / (_BELIEF + degrees))))
    return steady


def cross_share(measured: Sequence[MeasuredStep], kld: float) -> float:
    """Variance of the cross terms as a share of KLD of the recipe · damage of the step, from what effects scatter beyond their noise."""
    excess = sum((m.effect - m.step.expected) ** 2 - m.std_error**2 for m in measured)
    scale = sum(kld * m.step.spread**2 for m in measured)
    return min(max(excess / scale, 0.0), 4.0) if scale > 0.0 else 0.0


def believed(measured: Sequence[MeasuredStep], kld: float, misfit: float) -> dict[tuple[str, str], float]:
    """(tensor, type) → the change of KL divergence that is believed of each step."""
    share = cross_share(measured, kld)
    effects = {}
    for m in measured:
        prior = (misfit * m.step.expected) ** 2 + share * kld * m.step.spread**2
        total = prior + m.std_error**2
        weight = prior / total if total > 0.0 else 0.0
        effects[m.step.tensor, m.step.type] = (1.0 - weight) * m.step.expected + weight * m.effect
    return effects


def as_anchors(measured: Sequence[MeasuredStep], kld: float) -> list[Anchor]:
    """The steps as anchors of a damage model: cross terms are noise there."""
    share = cross_share(measured, kld)
    return [
        Anchor(
            m.step.tensor,
            m.step.type,
            m.step.error_change,
            m.effect,
            math.sqrt(m.std_error**2 + share * kld * m.step.spread**2),
        )
        for m in measured
    ]


def exchanges(
    types: Mapping[str, str],
    measured: Sequence[MeasuredStep],
    kld: float,
    misfit: float,
    room: int,
    groups: Sequence[Sequence[str]] = (),
) -> list[Solution]:
    """Recipes of at most ``room`` bytes more than ``types``, built of the measured steps: for each number of steps that may be taken at
    once the set that promises most. The tensors of each of the ``groups`` move to one type or stay. ``cost`` is the change that is
    believed, below zero; none where nothing promises."""
    beliefs = believed(measured, kld, misfit)
    sizes = {(m.step.tensor, m.step.type): m.step.n_bytes for m in measured}
    least = min((0, *sizes.values()))
    offers: dict[str, list[Offer]] = {}
    for (name, kind), change in sorted(beliefs.items()):
        offers.setdefault(name, [Offer(types[name], -least, 0.0)]).append(
            Offer(kind, sizes[name, kind] - least, change)
        )
    for name in [n for group in groups if not all(n in offers for n in group) for n in group]:
        offers.pop(name, None)  # a tensor of its group has no step, so none moves
    if not offers:
        return []
    together = tuple(row for group in groups if group[0] in offers for row in one_type(offers, group))
    moved = {(n, o.type): 1.0 for n, of_tensor in offers.items() for o in of_tensor if o.type != types[n]}
    solutions: list[Solution] = []
    for most in TAKEN_AT_ONCE:
        try:
            best = solve(offers, room - least * len(offers), (*together, Constraint(moved, high=float(most))))
        except InputError:
            break
        if best.cost >= 0.0 or (solutions and best.types == solutions[-1].types):
            break
        solutions.append(best)
        if sum(best.types[n] != types[n] for n in best.types) < most:
            break
    return [Solution({**types, **s.types}, s.n_bytes + least * len(offers), s.cost) for s in solutions]
