"""Draws of the belief against normal conditioning written out, with a level of large variance for an unknown one."""

from __future__ import annotations

import numpy as np
import pytest

from cerebellum.profiles.belief import Belief, draw

VAGUE = 1e6
SHAPES = np.array([np.eye(4), 0.7 * np.exp(-0.5 * np.subtract.outer(range(4), range(4)) ** 2) + 0.3 * np.eye(4)])
MEANS = np.array([[0.0, 1.0, 2.0, 3.0], [0.0, 0.5, -0.5, 0.0], [1.0, 0.0, 0.0, 1.0]])
BELIEF = Belief(np.array([0.5, 0.3, 0.2]), MEANS, np.array([1.0, 0.5, 2.0]), SHAPES, np.array([1, 1, 0]))
PROBED = {1: 0.4, 3: 1.5}


@pytest.mark.parametrize("noise", [None, {1: 0.3, 3: 0.7}])
def test_draws_are_those_of_the_mixture(noise: dict[int, float] | None) -> None:
    """Means and covariances over all cells, each cell weighed by how well it explains the probes."""
    places, values = np.array(list(PROBED)), np.array(list(PROBED.values()))
    weights, means, squares = [], [], []
    for weight, mean, scale, shape in zip(BELIEF.weights, MEANS, BELIEF.scales, BELIEF.shape, strict=True):
        covariance = scale**2 * SHAPES[shape] + VAGUE
        seen = covariance[np.ix_(places, places)] + np.diag([noise[p] ** 2 if noise else 0.0 for p in PROBED])
        rest, gain = values - mean[places], np.linalg.solve(seen, covariance[places]).T
        posterior = mean + gain @ rest
        weights.append(weight * np.exp(-0.5 * rest @ np.linalg.solve(seen, rest)) / np.sqrt(np.linalg.det(seen)))
        means.append(posterior)
        squares.append(covariance - gain @ covariance[places] + np.outer(posterior, posterior))
    shares = np.array(weights) / sum(weights)
    mean = shares @ np.array(means)
    spread = np.einsum("c,cij->ij", shares, np.array(squares)) - np.outer(mean, mean)
    draws = draw(BELIEF, PROBED, 40_000, 1, noise)
    assert np.allclose(draws.mean(axis=0), mean, atol=0.03)
    assert np.allclose(np.cov(draws.T), spread, atol=0.06)
    if noise is None:
        assert (draws[:, places] == values).all()


def test_without_probes_only_the_level_is_open() -> None:
    draws = draw(BELIEF, {}, 40_000, 1)
    between = np.diff(draws, axis=1)
    cells = [scale**2 * SHAPES[shape] for scale, shape in zip(BELIEF.scales, BELIEF.shape, strict=True)]
    assert np.allclose(between.mean(axis=0), BELIEF.weights @ np.diff(MEANS, axis=1), atol=0.05)
    step = [c[0, 0] + c[1, 1] - 2 * c[0, 1] + (m[1] - m[0]) ** 2 for c, m in zip(cells, MEANS, strict=True)]
    expected = BELIEF.weights @ np.array(step) - (BELIEF.weights @ np.diff(MEANS, axis=1))[0] ** 2
    assert between[:, 0].var() == pytest.approx(expected, rel=0.05)
