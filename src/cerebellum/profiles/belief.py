"""What is believed of a role's profile on the new model: the old one's profile carried over, as far as probes agree with it.

The log damages y of the role's n tensors are taken as y = μ + s · (ρ · m + √(1 − ρ²) · r): m is the old profile (log, carried over by
relative depth, standardised), r a random profile of its own, partly smooth over depth (a Gaussian process, share w, length ℓ), partly
independent from tensor to tensor. μ is unknown; s, ρ, w and ℓ are integrated over a grid, each weighed by how well it explains the
probes. ρ = 1 is a perfect sibling, 0 a stranger, less than 0 a profile turned round. Everything follows from posterior draws of y. s spans
four powers of ten, for a choice's worth doesn't depend on it: a role nearly alike over depth may hold as one that is not.

Real tables have single figures that are far from all others and say nothing of a sibling. Without a doubt about them the probe of such a
tensor, which comes first, would speak against the whole profile: so the farthest value of m is left out in a part of the belief.
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
_SPREADS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.35, 0.6, 1.0, 1.6, 2.6)
_SPREAD_WEIGHTS = (0.001, 0.001, 0.001, 0.001, 0.001, 0.003, 0.1, 0.2, 0.4, 0.2, 0.1)
#: Share of the profile of its own that is smooth over depth, and over what depth.
_SMOOTH = (0.2, 0.6, 0.9)
_LENGTHS = (0.07, 0.25)
#: The least spread (log) that a profile is thought to have.
_LEAST_SPREAD = 0.1
#: Robust standard deviations from the median at which a value of the old profile is cut off.
_FARTHEST = 4.0
#: Robust standard deviations beyond which the farthest value of the old profile may be its own model's alone, and the weight of that.
_FAR, _DOUBT = 2.5, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Belief(ByValue):
    """The grid of G cells, but for the level, of which all values are alike: ``weights`` [G] and ``means`` [G, n] of y. The covariance of a
    cell is ``scales`` [G] squared times one of the ``shapes`` [S, n, n], whose number is in ``shape`` [G]."""

    weights: Floats
    means: Floats
    scales: Floats
    shapes: Floats
    shape: Places

    @property
    def n(self) -> int:
        return int(self.means.shape[1])

    def covariances(self, places: Places) -> Floats:
        """Of y at ``places`` [k], in all cells: float64 [G, k, k]."""
        shapes = self.shapes[:, places[:, None], places[None, :]]
        return np.asarray(self.scales[:, None, None] ** 2 * shapes[self.shape])


def prior(log_profile: Floats, depths: Floats) -> Belief:
    """The belief before any probe. ``log_profile``: log damages of the old model at the new one's tensors [n]; ``depths`` [n]."""
    gaps, tamed = depths[:, None] - depths[None, :], _tamed(log_profile)
    doubted = _doubted(log_profile)
    shares = (1.0 - _DOUBT, _DOUBT) if doubted.any() else (1.0,)
    beliefs = [_cells(tamed, gaps, astray) for astray in (np.zeros_like(doubted), doubted)[: len(shares)]]
    n_shapes = np.cumsum([0, *(len(belief.shapes) for belief in beliefs)])
    return Belief(
        np.concatenate([share * belief.weights for share, belief in zip(shares, beliefs, strict=True)]),
        np.concatenate([belief.means for belief in beliefs]),
        np.concatenate([belief.scales for belief in beliefs]),
        np.concatenate([belief.shapes for belief in beliefs]),
        np.concatenate([belief.shape + first for belief, first in zip(beliefs, n_shapes, strict=False)]),
    )


def _cells(log_profile: Floats, gaps: Floats, astray: npt.NDArray[np.bool_]) -> Belief:
    """The grid where the old figures ``astray`` [n] say nothing of the new model, all others as much as its agreement."""
    trusted = log_profile[~astray]
    spread = float(trusted.std())
    standard = (log_profile - trusted.mean()) / spread if spread > 0.0 else np.zeros_like(log_profile)
    standard[astray] = 0.0
    agreements = np.array(_AGREEMENTS if spread > 0.0 else (0.0,))  # a flat profile agrees with nothing
    shapes = [
        (1.0 - agreement**2) * (smooth * np.exp(-0.5 * (gaps / length) ** 2) + (1.0 - smooth) * np.eye(len(gaps)))
        + np.diag(agreement**2 * astray)
        for agreement, smooth, length in itertools.product(agreements, _SMOOTH, _LENGTHS)
    ]
    shape, ratio = (axis.ravel() for axis in np.indices((len(shapes), len(_SPREADS))))
    scales = max(spread, _LEAST_SPREAD) * np.array(_SPREADS)[ratio]
    drawn = scales * agreements[shape // (len(shapes) // len(agreements))]
    weights = np.array(_SPREAD_WEIGHTS)[ratio]
    return Belief(weights / weights.sum(), drawn[:, None] * standard, scales, np.array(shapes), shape)


def _doubted(log_profile: Floats) -> npt.NDArray[np.bool_]:
    """The old figure that may say nothing of the new model: the farthest one, where it is far from the others. [n], at most one is True."""
    distance = np.abs(log_profile - np.median(log_profile))
    far = distance > _FAR * _robust_spread(log_profile)
    return np.asarray(far & (np.arange(len(far)) == distance.argmax()))


def _robust_spread(values: Floats) -> float:
    low, high = np.quantile(values, (0.25, 0.75))
    return max(float(high - low) / 1.349, _LEAST_SPREAD)


def _tamed(values: Floats) -> Floats:
    """``values`` with what is far outside moved to `_FARTHEST` robust standard deviations from the median: one broken figure of a published
    table must not be all that a profile is."""
    middle, reach = np.median(values), _FARTHEST * _robust_spread(values)
    return np.clip(values, middle - reach, middle + reach)


def draw(
    belief: Belief, probed: Mapping[int, float], n_draws: int, seed: int, noise: Mapping[int, float] | None = None
) -> Floats:
    """Draws of y that agree with the probes (place → log damage): float64 [n_draws, n]. Without probes their level means nothing.

    ``noise``: standard deviation of each probe's log damage; None: they are exact. With noise the probed places vary too.
    """
    places = np.array(sorted(probed), dtype=np.int64)
    values = np.array([probed[int(p)] for p in places])
    variances = np.array([noise[int(p)] ** 2 if noise else 0.0 for p in places])
    log_weights = np.log(belief.weights) + _log_evidence(belief, places, values, variances)
    chosen, normal = _random(log_weights, n_draws, belief.n, [seed, len(places)])
    wanted = np.setdiff1d(np.arange(belief.n), places) if noise is None else np.arange(belief.n)
    draws = np.empty((n_draws, belief.n))
    draws[:, places] = values
    # exact probes say the same, but for the scale, in all cells of a shape
    alike = _alike(belief.shape[chosen] if noise is None else chosen)
    cells = chosen[[rows[0] for rows in alike]]
    gains, roots = _conditionals(
        belief.shapes[belief.shape[cells]], places, variances / belief.scales[cells, None] ** 2, wanted
    )
    rest = values - belief.means[chosen[:, None], places]
    residuals = np.empty((n_draws, len(wanted)))
    scales = belief.scales[chosen, None]
    for rows, gain, root in zip(alike, gains, roots, strict=True):
        residuals[rows] = rest[rows] @ gain + scales[rows] * (normal[rows][:, wanted] @ root.T)
    draws[:, wanted] = belief.means[chosen[:, None], wanted] + residuals
    return draws


def _alike(labels: Places) -> list[Places]:
    """Where each of the different ``labels`` [m] is."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _random(log_weights: Floats, n_draws: int, n: int, seed: list[int]) -> tuple[Places, Floats]:
    """(the cell of every draw [m], standard normal numbers for it [m, n])."""
    weights = np.exp(log_weights - log_weights.max())
    random = np.random.default_rng(seed)
    return random.choice(len(weights), n_draws, p=weights / weights.sum()), random.standard_normal((n_draws, n))


def _log_evidence(belief: Belief, places: Places, values: Floats, variances: Floats) -> Floats:
    """Log density of the probes in every cell of the grid, whatever their level, but for a constant: [G]."""
    if not len(places):
        return np.zeros(len(belief.weights))
    rest = np.stack([values - belief.means[:, places], np.ones((len(belief.weights), len(places)))], axis=2)
    root = np.linalg.cholesky(belief.covariances(places) + np.diag(variances))
    white, ones = np.moveaxis(np.linalg.solve(root, rest), 2, 0)
    sureness = (ones**2).sum(1)
    misfit = (white**2).sum(1) - (white * ones).sum(1) ** 2 / sureness
    return np.asarray(-0.5 * (misfit + np.log(sureness)) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1))


def _conditionals(shapes: Floats, places: Places, variances: Floats, wanted: Places) -> tuple[Floats, Floats]:
    """Of normals of mean 0 and unknown level, whose covariances are ``shapes`` [K, n, n], what is known of them at ``places`` [p] within
    ``variances`` [K, p] says of them at ``wanted`` [w]: (the weights of what is known in the mean [K, p, w], roots of the covariance
    [K, w, w])."""
    left = shapes[:, wanted[:, None], wanted] + 1e-12 * shapes[:, :1, :1] * np.eye(len(wanted))
    across = shapes[:, places[:, None], wanted]
    if len(places):
        seen = shapes[:, places[:, None], places] + variances[:, None] * np.eye(len(places))
        gains, ones = np.split(
            np.linalg.solve(seen, np.append(across, np.ones((len(seen), len(places), 1)), 2)), [len(wanted)], 2
        )
        sureness = ones.sum(axis=1, keepdims=True)
        missing = 1.0 - (across.mT @ ones).mT
        left += missing.mT * missing / sureness - across.mT @ gains
        across = gains + ones * missing / sureness
    return across, np.asarray(np.linalg.cholesky(left), dtype=np.float64)
