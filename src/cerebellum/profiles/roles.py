"""A role's sensitivities on the new model: carried over, probed, judged, predicted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.allocation.damage import Anchor, Slope
from cerebellum.profiles.belief import Belief, draw, prior
from cerebellum.profiles.check import MAX_PROBES, CarryVerdict, agreements, judge
from cerebellum.profiles.depth import relative_depth
from cerebellum.profiles.probes import ENOUGH, kept_share, n_chosen, next_probe

Floats = npt.NDArray[np.float64]

#: Draws that a prediction is read from.
_DRAWS = 400
#: Probes of a role: a third of it, within these; roles of fewer tensors than the least are measured whole.
LEAST_PROBES = 3
#: Odds at which a role is settled before its probes are spent.
_SETTLED = 0.9
#: The surest that a probe is taken to be, and the least sure: standard deviations of its log.
_SUREST, _LEAST_SURE = 0.05, 1.0
#: A probe is a hit where it lies within this factor of what the profile says.
HIT_FACTOR = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """``names`` and ``blocks`` [n] in order; ``expected`` [n]: the log sensitivities carried over (their level means nothing);
    ``sizes`` [n]: log slope = sensitivity + size; ``weights`` [n]: log damage at a given relative error = sensitivity + weight."""

    role: str
    names: tuple[str, ...]
    expected: Floats
    sizes: Floats
    weights: Floats
    belief: Belief

    @property
    def most_probes(self) -> int:
        """Probes that the role gets at most."""
        return most_probes(len(self.names))


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRole:
    """What a role's probes say. ``draws`` [m, n]: log sensitivities that they leave possible; ``agreements`` [m]: rank correlation of
    each with the profile carried over; ``kept`` [m]: what the transferred quarter keeps."""

    verdict: CarryVerdict
    draws: Floats
    agreements: Floats
    kept: Floats

    @property
    def odds(self) -> float:
        return float((self.kept >= ENOUGH).mean())

    @property
    def is_settled(self) -> bool:
        return not 1.0 - _SETTLED < self.odds < _SETTLED and self.verdict is not CarryVerdict.PARTLY


@dataclass(frozen=True, slots=True)
class Probe:
    """A measured tensor beside what the profile, at the level of the role's other probes, says of it: effects in nats a token."""

    tensor: str
    type: str
    predicted: float
    measured: float
    std_error: float

    @property
    def is_hit(self) -> bool:
        return self.measured > 0.0 and abs(math.log(self.measured / self.predicted)) <= math.log(HIT_FACTOR)


def most_probes(n: int) -> int:
    """Probes that a role of ``n`` tensors gets at most."""
    return min(n, max(LEAST_PROBES, min(MAX_PROBES, math.ceil(n / 3))))


def role_of_profile(
    role: str,
    names: Sequence[str],
    blocks: Sequence[int],
    expected: Floats,
    n_weights: Floats,
    power: Floats,
    n_blocks: int,
) -> Role:
    """A role before any probe. ``n_weights``, ``power`` [n]: of its tensors."""
    depths = np.array([relative_depth(b, n_blocks) for b in blocks])
    weights = np.log(n_weights)
    sizes = weights - np.log(np.where(power > 0.0, power, 1.0))
    return Role(role, tuple(names), expected, sizes, weights, prior(expected, depths))


def sensitivity_of(anchor: Anchor, size: float) -> tuple[float, float]:
    """(log sensitivity, its standard deviation) that a probe says; an effect that is no more than noise counts as a third of it."""
    effect = max(anchor.effect, 0.3 * anchor.std_error, 1e-15)
    noise = min(max(anchor.std_error / effect, _SUREST), _LEAST_SURE)
    return math.log(effect / anchor.error_change) - size, noise


def look(role: Role, probed: Mapping[int, tuple[float, float]], seed: int) -> JudgedRole:
    """What the probes (place → (log sensitivity, its standard deviation)) say."""
    values, noise = ({p: pair[i] for p, pair in probed.items()} for i in (0, 1))
    draws = draw(role.belief, values, _DRAWS, seed, noise)
    chosen = np.argsort(role.expected + role.weights, kind="stable")[: n_chosen(len(role.names))]
    damages = draws + role.weights
    kept = kept_share(np.exp(damages - damages.max(axis=1, keepdims=True)), chosen)
    return JudgedRole(judge(kept), draws, agreements(role.expected, draws), kept)


def next_place(judged: JudgedRole, probed: Mapping[int, object], left_out: Collection[int]) -> int:
    """The place to probe next; ``left_out`` can't be."""
    return next_probe(judged.draws, judged.kept, {*probed, *left_out})


def predicted_slopes(role: Role, judged: JudgedRole, prior_mean: float) -> dict[str, Slope]:
    """Every tensor's slope as the draws have it; ``prior_mean``: what the role alone says."""
    logs = judged.draws + role.sizes
    middle, low, high = np.median(logs, axis=0), *np.quantile(logs, (0.05, 0.95), axis=0)
    spread = np.minimum((high - low) / 3.29, 1.0)
    mean = np.exp(middle + 0.5 * spread**2)
    return {
        name: Slope(float(mean[i]), float(np.exp(low[i])), float(np.exp(high[i])), prior_mean, 0)
        for i, name in enumerate(role.names)
    }


def probes_of(role: Role, anchors: Mapping[int, Anchor]) -> tuple[Probe, ...]:
    """Each probe beside the prediction by the profile at the level of the others; none where it is alone."""
    logs = {p: sensitivity_of(a, float(role.sizes[p]))[0] for p, a in anchors.items()}
    probes = []
    for i, anchor in anchors.items():
        others = [logs[p] - float(role.expected[p]) for p in logs if p != i]
        if others:
            level = sum(others) / len(others)
            slope = math.exp(level + float(role.expected[i]) + float(role.sizes[i]))
            probes.append(
                Probe(anchor.tensor, anchor.type, slope * anchor.error_change, anchor.effect, anchor.std_error)
            )
    return tuple(probes)
