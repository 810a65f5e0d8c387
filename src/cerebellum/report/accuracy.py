"""How well the damage model predicts what it hasn't seen: each anchor left out in turn."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from cerebellum.allocation.damage import predict_left_out
from cerebellum.report.grids import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cerebellum.allocation.damage import Anchor
    from cerebellum.results.allocation import Allocation


@dataclass(frozen=True, slots=True)
class RoleAccuracy:
    """Of a role's anchors: how many, how many of them measured above zero, and of these the median factor between prediction and
    measurement (1: equal, whichever is larger) and the median of prediction over measurement."""

    n_anchors: int
    n_positive: int
    factor: float
    bias: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """By role, and the rank correlation of effects with what three rules expect of them: nan where there are too few. ``pairs``: each
    anchor with its prediction."""

    roles: Mapping[str, RoleAccuracy]
    model: float
    weight_error: float
    parameters: float
    pairs: tuple[tuple[Anchor, float], ...] = ()


def left_out(result: Allocation) -> Accuracy:
    """The accuracy of a result's damage model on the anchors, none of which its own prediction has seen."""
    table, model = result.table, result.anchors.model
    known = [a for a in result.anchors.anchors if a.tensor in table.types]
    pairs = predict_left_out(table.roles, known, model)
    by_role: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for anchor, predicted in pairs:
        by_role[table.roles[anchor.tensor]].append((anchor.effect, predicted))
    effects = [anchor.effect for anchor, _ in pairs]
    return Accuracy(
        {role: accuracy_of(by_role[role]) for role in sorted(by_role)},
        rank_correlation(effects, [predicted for _, predicted in pairs]),
        rank_correlation(effects, [anchor.error_change for anchor, _ in pairs]),
        rank_correlation(effects, [float(table.tensors[anchor.tensor].n_elements) for anchor, _ in pairs]),
        tuple(pairs),
    )


def accuracy_of(pairs: Sequence[tuple[float, float]]) -> RoleAccuracy:
    """The accuracy of (measured, predicted) effects."""
    logs = [math.log(predicted / effect) for effect, predicted in pairs if effect > 0.0 and predicted > 0.0]
    if not logs:
        return RoleAccuracy(len(pairs), 0, math.nan, math.nan)
    return RoleAccuracy(len(pairs), len(logs), math.exp(median(map(abs, logs))), math.exp(median(logs)))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of ranks, equal values sharing theirs. nan with fewer than three or no variation."""
    from scipy.stats import rankdata

    if len(x) < 3:
        return math.nan
    ranks = [np.asarray(rankdata(values), np.float64) for values in (x, y)]
    if any(r.std() == 0.0 for r in ranks):
        return math.nan
    a, b = (r - r.mean() for r in ranks)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def accuracy_grid(accuracy: Accuracy) -> Grid:
    """Role by role."""
    rows = tuple(
        (role, str(a.n_anchors), *(f"{x:.2f}" if math.isfinite(x) else "?" for x in (a.factor, a.bias)))
        for role, a in accuracy.roles.items()
    )
    ranks = ", ".join(
        f"{name} {value:.2f}" if math.isfinite(value) else f"{name} ?"
        for name, value in (
            ("this model", accuracy.model),
            ("weight error alone", accuracy.weight_error),
            ("number of parameters", accuracy.parameters),
        )
    )
    notes = (
        "Each measured effect is predicted from the others alone. off by: median factor between the two, 1 is exact. predicted ÷ measured: "
        "the median.",
        f"Rank correlation with the measured effects: {ranks}.",
    )
    return Grid(
        "Damage model on effects that it hasn't seen",
        ("role", "effects", "off by", "predicted ÷ measured"),
        rows,
        notes,
    )


def accuracy_json(accuracy: Accuracy) -> dict[str, Any]:
    """As plain data; numbers that aren't known are null."""
    return {
        "roles": {
            role: {
                "anchors": a.n_anchors,
                "factor": known(a.factor),
                "bias": known(a.bias),
            }
            for role, a in accuracy.roles.items()
        },
        "rank_correlation": {name: known(getattr(accuracy, name)) for name in ("model", "weight_error", "parameters")},
    }


def known(x: float) -> float | None:
    """A number, or None where it isn't one."""
    return x if math.isfinite(x) else None
