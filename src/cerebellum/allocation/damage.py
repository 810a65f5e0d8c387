"""The damage model: damage(t, q) = s_t · e(t, q), e the weight error of the stored bytes, s_t a slope of the tensor's own.

For a small perturbation the KL divergence is quadratic in it, so mean damage is proportional to the squared error of the weights
(HIGGS, arXiv 2411.17525). The slope is measured on *anchors*: the tensor alone at another type. Anchors are noisy and proportionality
is not exact, so slopes are estimated together (empirical Bayes):

    effect of an anchor  ~  Normal(s_t · Δe,  std_error² + (misfit · s_t · Δe)²),   Δe the change of error
    log s_t              ~  Normal(centre of its role, spread of its role)
    centre of a role     ~  Normal(centre of all tensors, max(common spread, 0.5))

A slope is integrated over a grid of log s, so it is positive, whatever its anchors are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Step of the grid of log slopes.
_STEP = 0.05
#: Relative misfits of proportionality that are tried (standard deviations).
_MISFITS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
#: The usual one, taken where fewer tensors than this have two anchors: one anchor a tensor can't tell a misfit from a slope.
_USUAL_MISFIT, _LEAST_PAIRS = 0.15, 8
#: Spreads of log slopes within a role that are tried, and the usual one.
_SPREADS = np.array([0.15, 0.25, 0.4, 0.6, 0.9, 1.3, 2.0])
_USUAL_SPREAD, _SPREAD_OF_SPREADS = 0.6, 0.7


@dataclass(frozen=True, slots=True)
class Anchor:
    """One measured effect: the tensor at ``type``. ``error_change``: its weight error less that of the type it was changed from;
    ``effect``: the change of mean KL divergence, nats a token, with its standard error."""

    tensor: str
    type: str
    error_change: float
    effect: float
    std_error: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Nats a token for a unit of weight error: posterior mean and 90 % interval; ``prior`` is what the role alone says."""

    mean: float
    low: float
    high: float
    prior: float
    n_anchors: int


@dataclass(frozen=True, slots=True)
class DamageModel:
    """Slopes by tensor. ``misfit``: relative standard deviation of an effect around proportionality, as estimated. ``floor``: what any
    change brings, however small, once for all of them (see `allocation.floor`), nats a token; ``start``: what the source itself is from the
    reference, where that is another file."""

    slopes: Mapping[str, Slope]
    misfit: float
    spreads: Mapping[str, float]
    floor: float = 0.0
    start: float = 0.0

    def damage(self, tensor: str, error: float) -> float:
        """Expected damage of a weight error, nats a token."""
        return self.slopes[tensor].mean * error


def fit(roles: Mapping[str, str], anchors: Sequence[Anchor]) -> DamageModel:
    """The model of the tensors in ``roles`` (name → role), measured or not. Raises `ValueError` where no anchor changes an error."""
    anchors = sorted((a for a in anchors if a.error_change), key=lambda a: (a.tensor, a.type))
    if not anchors:
        raise ValueError("a damage model needs an anchor that changes a weight error")
    grid = _grid(anchors)
    names, groups = (
        sorted(roles),
        {role: [n for n in sorted(roles) if roles[n] == role] for role in set(roles.values())},
    )
    best: tuple[float, float, _Prior] | None = None
    for misfit in _misfits(anchors):
        likelihood = {n: _log_likelihood([a for a in anchors if a.tensor == n], grid, misfit) for n in names}
        prior = _fit_prior(groups, likelihood, grid)
        if best is None or prior.evidence > best[0]:
            best = (prior.evidence, misfit, prior)
    assert best is not None
    _, misfit, prior = best
    slopes = {}
    for name in names:
        of_tensor = [a for a in anchors if a.tensor == name]
        slopes[name] = _slope(of_tensor, prior.log_density(roles[name], grid), grid, misfit)
    return DamageModel(slopes, misfit, prior.spreads)


def _misfits(anchors: Sequence[Anchor]) -> tuple[float, ...]:
    """The misfits to try: those that the anchors can tell apart."""
    n_anchors = Counter(a.tensor for a in anchors)
    pairs = sum(n > 1 for n in n_anchors.values())
    return _MISFITS if pairs >= _LEAST_PAIRS else (_USUAL_MISFIT,)


def predict_left_out(
    roles: Mapping[str, str], anchors: Sequence[Anchor], model: DamageModel
) -> list[tuple[Anchor, float]]:
    """Each anchor with the effect that the model predicts for it without having seen it; priors of roles stay as fitted."""
    used = sorted((a for a in anchors if a.error_change), key=lambda a: (a.tensor, a.type))
    grid = _grid(used)
    predictions = []
    for left in used:
        others = [a for a in used if a.tensor == left.tensor and a is not left]
        spread = model.spreads[roles[left.tensor]]
        density = _normal_log(grid, _prior_centre(model.slopes[left.tensor].prior, spread), spread)
        slope = _slope(others, density, grid, model.misfit)
        predictions.append((left, slope.mean * left.error_change))
    return predictions


def _prior_centre(mean: float, spread: float) -> float:
    """The centre of log s where s has that mean: a log-normal's."""
    return math.log(mean) - 0.5 * spread**2


def _grid(anchors: Sequence[Anchor]) -> Floats:
    """Log slopes that could be: around every naive slope that is positive, or what noise alone would give."""
    naive = [max(a.effect, 0.3 * a.std_error, 1e-12) / abs(a.error_change) for a in anchors]
    low, high = math.log(min(naive)) - 5.0, math.log(max(naive)) + 3.0
    middle = math.log(float(np.median(naive)))
    return np.arange(max(low, middle - 14.0), min(high, middle + 14.0), _STEP)


def _log_likelihood(anchors: Sequence[Anchor], grid: Floats, misfit: float) -> Floats:
    """Log density of a tensor's anchors at every slope of the grid, [G]; zeros where it has none."""
    total = np.zeros(len(grid))
    slopes = np.exp(grid)
    for anchor in anchors:
        expected = slopes * anchor.error_change
        variance = anchor.std_error**2 + (misfit * expected) ** 2 + 1e-300
        total -= 0.5 * ((anchor.effect - expected) ** 2 / variance + np.log(variance))
    return total


def _normal_log(grid: Floats, centre: float, spread: float) -> Floats:
    """Log weights of a normal on the grid, summing to 1."""
    log = -0.5 * ((grid - centre) / spread) ** 2
    return log - _log_sum(log)


def _log_sum(values: Floats) -> Floats:
    """log Σ exp along the last axis."""
    top = values.max(axis=-1, keepdims=True)
    return np.asarray((top + np.log(np.exp(values - top).sum(axis=-1, keepdims=True)))[..., 0])


@dataclass(frozen=True, slots=True)
class _Prior:
    """Centre and spread of log s by role, and the log evidence of all anchors."""

    centres: Mapping[str, float]
    spreads: Mapping[str, float]
    evidence: float

    def log_density(self, role: str, grid: Floats) -> Floats:
        return _normal_log(grid, self.centres[role], self.spreads[role])


def _fit_prior(groups: Mapping[str, Sequence[str]], likelihood: Mapping[str, Floats], grid: Floats) -> _Prior:
    """The most likely centre and spread of each role, roles' centres being normal around that of all tensors."""
    centres = grid[:: max(1, len(grid) // 80)]
    table = np.stack([[_normal_log(grid, c, s) for c in centres] for s in _SPREADS])
    everything = [n for tensors in groups.values() for n in tensors]
    common = _evidence(table, [likelihood[n] for n in everything])
    spread_at, centre_at = np.unravel_index(int(common.argmax()), common.shape)
    centre, spread = float(centres[centre_at]), float(_SPREADS[spread_at])
    hyper = -0.5 * ((centres - centre) / max(spread, 0.5)) ** 2
    usual = -0.5 * (np.log(_SPREADS / _USUAL_SPREAD) / _SPREAD_OF_SPREADS) ** 2
    found_centres, found_spreads, total = {}, {}, 0.0
    for role in sorted(groups):
        score = _evidence(table, [likelihood[n] for n in groups[role]]) + usual[:, None] + hyper[None, :]
        at = np.unravel_index(int(score.argmax()), score.shape)
        found_spreads[role], found_centres[role] = float(_SPREADS[at[0]]), float(centres[at[1]])
        total += float(score.max())
    return _Prior(found_centres, found_spreads, total)


def _evidence(table: Floats, likelihoods: Sequence[Floats]) -> Floats:
    """Σ over tensors of log ∫ likelihood · prior, for every prior of the table: [spreads, centres]."""
    weights = np.exp(table)
    total = np.zeros(table.shape[:2])
    for log in likelihoods:
        top = float(log.max())
        total += top + np.log(np.maximum(weights @ np.exp(log - top), 1e-300))
    return total


def _slope(anchors: Sequence[Anchor], log_prior: Floats, grid: Floats, misfit: float) -> Slope:
    values = np.exp(grid)
    log = log_prior + _log_likelihood(anchors, grid, misfit)
    density = np.exp(log - _log_sum(log))
    below = np.cumsum(density)
    low, high = (float(values[min(int(np.searchsorted(below, p)), len(grid) - 1)]) for p in (0.05, 0.95))
    return Slope(float(density @ values), low, high, float(np.exp(log_prior) @ values), len(anchors))
