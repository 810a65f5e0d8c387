"""Steps from a recipe: what is believed of them, and the best exchange within the bytes against trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cerebellum.allocation.exchanges import (
    TAKEN_AT_ONCE,
    MeasuredStep,
    Step,
    believed,
    cross_share,
    exchanges,
    steadied,
)


def measured(n: int, seed: int, noise: float = 0.0, cross: float = 0.0) -> list[MeasuredStep]:
    """``n`` steps, half of them down; ``cross``: standard deviation of their cross terms as a share of their spread."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        up = i % 2 == 0
        expected = float(rng.lognormal(-6.0)) * (-1 if up else 1)
        spread = float(np.sqrt(1.5 * abs(expected)))
        step = Step(
            f"t{i}", "up" if up else "down", int(rng.integers(1, 9)) * (64 if up else -64), 1.0, expected, spread
        )
        effect = expected + cross * spread * float(rng.normal()) + noise * float(rng.normal())
        found.append(MeasuredStep(step, effect, noise))
    return found


def test_an_exact_measurement_is_believed_whole_and_a_useless_one_not_at_all() -> None:
    exact = measured(40, 1, cross=0.5)
    assert believed(exact, 1.0, 0.1) == pytest.approx({(m.step.tensor, m.step.type): m.effect for m in exact})
    useless = measured(40, 1, noise=1e3)
    beliefs = believed(useless, 1.0, 0.1)
    assert all(
        beliefs[m.step.tensor, m.step.type] == pytest.approx(m.step.expected, rel=0.5, abs=2e-2) for m in useless
    )


def test_the_size_of_cross_terms_is_recovered_beneath_the_noise() -> None:
    found = [cross_share(measured(400, seed, noise=0.01, cross=0.3), 1.0) for seed in range(8)]
    assert np.mean(found) == pytest.approx(0.3**2, rel=0.2)
    assert cross_share(measured(400, 1), 1.0) == 0.0


def test_standard_errors_of_two_chunks_are_drawn_toward_the_usual_one() -> None:
    own = measured(60, 3, noise=0.02)
    odd = [MeasuredStep(own[0].step, own[0].effect, 0.0), *own[1:]]
    assert steadied(odd, 2)[0].std_error > 0.0
    assert steadied(odd, 1000)[0].std_error < 0.1 * steadied(odd, 2)[0].std_error


def test_the_best_exchange_is_the_one_that_trying_all_finds() -> None:
    for seed, room in itertools.product(range(6), (0, 128)):
        own = measured(9, seed, cross=0.6)
        types = {m.step.tensor: "now" for m in own}
        found = exchanges(types, own, 1.0, 0.1, room)
        change = believed(own, 1.0, 0.1)
        for most, solution in zip(TAKEN_AT_ONCE, found, strict=False):
            sets = (s for n in range(most + 1) for s in itertools.combinations(own, n))
            fits = (s for s in sets if sum(m.step.n_bytes for m in s) <= room)
            best = min(sum(change[m.step.tensor, m.step.type] for m in s) for s in fits)
            assert solution.cost == pytest.approx(best, abs=1e-12)
            moved = [m.step for m in own if solution.types[m.step.tensor] != "now"]
            assert len(moved) <= most and sum(s.n_bytes for s in moved) <= room


def test_nothing_is_proposed_where_every_step_does_harm() -> None:
    step = Step("t", "down", -64, 1.0, 0.01, 0.1)
    assert exchanges({"t": "now"}, [MeasuredStep(step, 0.01, 0.0)], 1.0, 0.1, 0) == []
