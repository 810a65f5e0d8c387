"""Probes with noise, predictions with intervals, on planted profiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cerebellum.allocation.damage import Anchor
from cerebellum.profiles.belief import draw, prior
from cerebellum.profiles.check import CarryVerdict
from cerebellum.profiles.roles import (
    Role,
    look,
    most_probes,
    predicted_slopes,
    probes_of,
    role_of_profile,
    sensitivity_of,
)

N = 24


def planted(seed: int, agreement: float) -> tuple[Role, np.ndarray]:
    """A role, and the true log sensitivities of its tensors."""
    random = np.random.default_rng(seed)
    old = np.cumsum(random.standard_normal(N)) * 0.5
    own = np.cumsum(random.standard_normal(N)) * 0.5
    own *= old.std() / own.std()
    new = agreement * old + math.sqrt(1 - agreement**2) * own - 7.0
    names = [f"blk.{b}.ffn_gate.weight" for b in range(N)]
    return role_of_profile("ffn_gate", names, range(N), old, np.full(N, 4096.0), np.full(N, 2.0), N), new


def probed(role: Role, truth: np.ndarray, places: list[int], noise: float = 0.1) -> dict[int, tuple[float, float]]:
    return {p: (float(truth[p]), noise) for p in places}


def test_probes_without_noise_are_met_and_noisy_ones_nearly() -> None:
    belief = prior(np.linspace(0, 3, 6), np.linspace(0, 1, 6))
    exact = draw(belief, {1: -4.0, 4: -2.0}, 50, 0, {1: 1e-6, 4: 1e-6})
    assert exact[:, [1, 4]] == pytest.approx(np.tile([-4.0, -2.0], (50, 1)), abs=1e-3)
    same = draw(belief, {1: -4.0, 4: -2.0}, 4000, 0)
    noisy = draw(belief, {1: -4.0, 4: -2.0}, 4000, 1, {1: 0.01, 4: 0.01})
    assert np.median(noisy, axis=0) == pytest.approx(np.median(same, axis=0), abs=0.15)
    loose = draw(belief, {1: -4.0, 4: -2.0}, 4000, 1, {1: 0.5, 4: 0.5})
    assert 0.2 < loose[:, 1].std() < 0.6


def test_intervals_of_predictions_cover_what_was_planted() -> None:
    """Over agreements from a stranger to a twin, of all tensors that were not probed."""
    inside = []
    for seed in range(16):
        role, truth = planted(seed, (0.0, 0.5, 0.8, 0.95)[seed % 4])
        places = [0, 7, 12, 20]
        slopes = predicted_slopes(role, look(role, probed(role, truth, places), 0), 1.0)
        for i, name in enumerate(role.names):
            if i not in places:
                log = truth[i] + role.sizes[i]
                inside.append(math.log(slopes[name].low) <= log <= math.log(slopes[name].high))
    assert 0.8 < np.mean(inside) < 0.99


def test_a_twin_narrows_what_a_stranger_leaves_open() -> None:
    widths = []
    for agreement in (1.0, 0.0):
        role, truth = planted(3, agreement)
        judged = look(role, probed(role, truth, [0, 4, 9, 14, 19, 23]), 0)
        widths.append(judged.draws[:, 11].std())
        assert (judged.verdict is CarryVerdict.HOLDS) == (agreement == 1.0)
    assert widths[0] < 0.6 * widths[1]


def test_a_probe_is_a_hit_within_a_factor_of_two() -> None:
    """Three tensors, the profile says 1 : 2 : 4; the last one measures 4, then 9 times the first."""
    names = [f"blk.{b}.ffn_up.weight" for b in range(3)]
    role = role_of_profile("ffn_up", names, range(3), np.log([1.0, 2.0, 4.0]), np.full(3, 10.0), np.full(3, 10.0), 3)
    for last, hit in ((4.0, True), (9.0, False)):
        anchors = {i: Anchor(names[i], "Q2_K", 0.5, v * 0.01, 0.001) for i, v in enumerate((1.0, 2.0, last))}
        found = probes_of(role, anchors)
        assert found[2].predicted == pytest.approx(0.04) and found[2].is_hit is hit
    assert probes_of(role, {1: Anchor(names[1], "Q2_K", 0.5, 0.01, 0.001)}) == ()


def test_sensitivity_of_noise_is_unsure_and_finite() -> None:
    value, noise = sensitivity_of(Anchor("t", "Q2_K", 0.5, -1e-6, 1e-4), 0.0)
    assert math.isfinite(value) and noise == 1.0


def test_probes_are_few() -> None:
    assert [most_probes(n) for n in (3, 4, 10, 14, 24, 36, 62)] == [3, 3, 4, 5, 8, 8, 8]
