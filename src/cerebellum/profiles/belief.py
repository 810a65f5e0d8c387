"""What is believed of a role's profile on the new model: the old one's profile carried over, as far as probes agree with it.

The log damages y of the role's n tensors are taken as y = μ + s · (ρ · m + √(1 − ρ²) · r): m is the old profile (log, carried over by
relative depth, standardised), r a random profile of its own, partly smooth over depth (a Gaussian process, share w, length ℓ), partly
independent from tensor to tensor. μ is unknown; s, ρ, w and ℓ are integrated over a grid, each weighed by how well it explains the
probes. ρ = 1 is a perfect sibling, 0 a stranger, less than 0 a profile turned round. Everything follows from posterior draws of y.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.domain import ByValue

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

#: Agreements that are tried, with the weight of each: half for siblings, half for strangers.
_AGREEMENTS = (-0.7, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.96, 0.985)
#: Spread of the new profile (log) as a multiple of the old one's.
_SPREADS = (0.35, 0.6, 1.0, 1.6, 2.6)
_SPREAD_WEIGHTS = (0.1, 0.2, 0.4, 0.2, 0.1)
#: Share of the profile of its own that is smooth over depth, and over what depth.
_SMOOTH = (0.2, 0.6, 0.9)
_LENGTHS = (0.07, 0.25)
#: The least spread (log) that a profile is thought to have, and the standard deviation of the unknown level.
_LEAST_SPREAD, _LEVEL = 0.1, 10.0
#: Robust standard deviations from the median at which a value of the old profile is cut off.
_FARTHEST = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Belief(ByValue):
    """The grid: ``weights`` [G], ``means`` [G, n] and ``covariances`` [G, n, n] of y in each of its cells."""

    weights: Floats
    means: Floats
    covariances: Floats

    @property
    def n(self) -> int:
        return int(self.means.shape[1])


def prior(log_profile: Floats, depths: Floats) -> Belief:
    """The belief before any probe. ``log_profile``: log damages of the old model at the new one's tensors [n]; ``depths`` [n]."""
    log_profile = _tamed(log_profile)
    spread = float(log_profile.std())
    standard = (log_profile - log_profile.mean()) / spread if spread > 0.0 else np.zeros_like(log_profile)
    spread = max(spread, _LEAST_SPREAD)
    gaps = depths[:, None] - depths[None, :]
    weights, means, covariances = [], [], []
    grid = itertools.product(_AGREEMENTS, zip(_SPREADS, _SPREAD_WEIGHTS, strict=True), _SMOOTH, _LENGTHS)
    for agreement, (ratio, weight), smooth, length in grid:
        scale = spread * ratio
        covariance = smooth * np.exp(-0.5 * (gaps / length) ** 2) + (1.0 - smooth) * np.eye(len(depths))
        weights.append(weight)
        means.append(scale * agreement * standard)
        covariances.append(scale**2 * (1.0 - agreement**2) * covariance + _LEVEL**2)
    total = np.array(weights)
    return Belief(total / total.sum(), np.array(means), np.array(covariances))


def _tamed(values: Floats) -> Floats:
    """``values`` with what is far outside moved to `_FARTHEST` robust standard deviations from the median: one broken figure of a published
    table must not be all that a profile is."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    reach = _FARTHEST * max((high - low) / 1.349, _LEAST_SPREAD)
    return np.clip(values, middle - reach, middle + reach)


def draw(
    belief: Belief, probed: Mapping[int, float], n_draws: int, seed: int, noise: Mapping[int, float] | None = None
) -> Floats:
    """Draws of y that agree with the probes (place → log damage): float64 [n_draws, n].

    ``noise``: standard deviation of each probe's log damage; None: they are exact.
    """
    if noise is not None:
        return _draw_noisy(belief, probed, n_draws, seed, noise)
    places = np.array(sorted(probed), dtype=np.int64)
    values = np.array([probed[int(p)] for p in places])
    log_weights = np.log(belief.weights) + _log_evidence(belief, places, values)
    chosen, normal = _random(log_weights, n_draws, belief.n, [seed, len(places)])
    free = np.setdiff1d(np.arange(belief.n), places)
    draws = np.empty((n_draws, belief.n))
    draws[:, places] = values
    for cell in np.unique(chosen):
        rows = np.flatnonzero(chosen == cell)
        mean, root = _conditional(belief.means[cell], belief.covariances[cell], places, values, free)
        draws[np.ix_(rows, free)] = mean + normal[np.ix_(rows, free)] @ root.T
    return draws


def _draw_noisy(
    belief: Belief, probed: Mapping[int, float], n_draws: int, seed: int, noise: Mapping[int, float]
) -> Floats:
    """`draw` where the probes are known within their noise: the probed places vary too."""
    places = np.array(sorted(probed), dtype=np.int64)
    values = np.array([probed[int(p)] for p in places])
    variances = np.array([noise[int(p)] ** 2 for p in places])
    seen = belief.covariances[:, places[:, None], places[None, :]] + np.diag(variances)
    log_weights = np.log(belief.weights) + _log_density(seen, values - belief.means[:, places])
    chosen, normal = _random(log_weights, n_draws, belief.n, [seed, len(places)])
    draws = np.empty((n_draws, belief.n))
    for cell in np.unique(chosen):
        rows = np.flatnonzero(chosen == cell)
        mean, covariance = belief.means[cell], belief.covariances[cell]
        gain = np.linalg.solve(seen[cell], covariance[places]) if len(places) else np.zeros((0, belief.n))
        left = covariance - covariance[:, places] @ gain + 1e-9 * np.eye(belief.n)
        centre = mean + (values - mean[places]) @ gain
        draws[rows] = centre + normal[rows] @ np.linalg.cholesky(left).T
    return draws


def _random(log_weights: Floats, n_draws: int, n: int, seed: list[int]) -> tuple[Places, Floats]:
    """(the cell of every draw [m], standard normal numbers for it [m, n])."""
    weights = np.exp(log_weights - log_weights.max())
    random = np.random.default_rng(seed)
    return random.choice(len(weights), n_draws, p=weights / weights.sum()), random.standard_normal((n_draws, n))


def _log_evidence(belief: Belief, places: Places, values: Floats) -> Floats:
    """Log density of exact probes in every cell of the grid [G]."""
    if not len(places):
        return np.zeros(len(belief.weights))
    return _log_density(belief.covariances[:, places[:, None], places[None, :]], values - belief.means[:, places])


def _log_density(covariance: Floats, rest: Floats) -> Floats:
    """Log density of ``rest`` [G, k] under normals of ``covariance`` [G, k, k], but for a constant: [G]."""
    if not rest.shape[1]:
        return np.zeros(len(rest))
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, rest[:, :, None])[:, :, 0]
    return np.asarray(-0.5 * (white**2).sum(1) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1))


def _conditional(
    mean: Floats, covariance: Floats, places: Places, values: Floats, free: Places
) -> tuple[Floats, Floats]:
    """(mean [f], root of the covariance [f, f]) of the ``free`` entries of a normal, given those at ``places``."""
    within, across = covariance[np.ix_(free, free)], covariance[np.ix_(places, free)]
    if not len(places):
        return mean[free], np.asarray(np.linalg.cholesky(within), dtype=np.float64)
    gain = np.linalg.solve(covariance[np.ix_(places, places)], across)
    root = np.asarray(np.linalg.cholesky(within - across.T @ gain), dtype=np.float64)
    return mean[free] + (values - mean[places]) @ gain, root
