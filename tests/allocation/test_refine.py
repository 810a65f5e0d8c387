"""Refinement's budget, its chunks and its levels; on the fake backend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import Chunk
from cerebellum.errors import EngineError
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.report.refinement import refinement_lines
from cerebellum.results.estimate import Estimate
from cerebellum.testing import Effect, FakeBackend, FakeEngine
from cerebellum.verbs.allocation import refine as module
from cerebellum.verbs.allocation.anchors import LOOKS
from cerebellum.verbs.allocation.refine import (
    ERROR_RATE,
    JUDGED_CHUNKS,
    JUDGED_RECIPES,
    LEAST_APART,
    ROUNDS,
    first_judged,
    judged_chunks,
    judging_cost,
    level_of,
    step_chunks,
    usual_spend,
)
from tests.allocation.small import allocate, effects, options, write_model


@pytest.fixture(autouse=True)
def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without keys that say where they come from: in so small a model these outweigh the tensors."""
    monkeypatch.setattr("cerebellum.verbs.allocation.run.with_keys", lambda _session, table, _limit: table)


@dataclass(frozen=True)
class Rate:
    """Stands for the clock: every chunk lasts so many seconds, and so does writing a recipe."""

    seconds: float

    def __call__(self, *_: Any) -> float:
        return self.seconds


@pytest.mark.parametrize("minutes", [1.0, 1.5, 3.0, 20.0])
def test_the_minutes_hold_steps_judging_and_writing(
    minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a second a chunk and 2 to write: whatever the rounds took together is within the minutes."""
    monkeypatch.setattr("cerebellum.verbs.allocation.run.seconds_a_chunk", Rate(1.0))
    monkeypatch.setattr(module, "_making_seconds", Rate(2.0))
    path = write_model(tmp_path, 6)
    refined = allocate(path, misleading(path), refine=True, budget_minutes=minutes, chunks=16).refined
    assert refined is not None
    assert sum(r.n_chunks for r in refined.rounds) <= 60.0 * minutes
    for one in refined.rounds:
        judged = len(one.proposals) + bool(one.proposals)
        assert one.n_chunks == one.look * (1 + one.n_steps) + judged * (16 - one.look) + 2 * (1 + judged)
    assert bool(refined.rounds) is (minutes > 2.0)


def misleading(path: Path) -> FakeBackend:
    """Half of the tensors look harmless at the type that anchors have, and nowhere else."""
    found = effects(path)
    for i, swap in enumerate(sorted(found)):
        if swap.type == "Q3_K" and i % 2:
            found[swap] = Effect(kld=0.02 * found[swap].kld)
    return FakeBackend(found)


@pytest.mark.parametrize("n", [4, 16, 27, 28, 64, 200])
def test_what_judges_is_apart_from_steps_always_and_from_anchors_where_the_text_is_long_enough(n: int) -> None:
    order = tuple(range(n))
    look = 2
    while 2 * look <= n:
        judged = judged_chunks(order, look)
        assert judged and not set(judged) & set(order[:look]) and len(judged) <= JUDGED_CHUNKS * look // 2
        if n >= LOOKS[-1] + LEAST_APART and look <= LOOKS[-1]:
            assert not set(judged) & set(order[: LOOKS[-1]])
        look *= 2


def test_all_rounds_together_err_no_more_than_once_in_twenty() -> None:
    rates = [1.0 - level_of(r, n) for r in range(1, ROUNDS + 1) for n in [JUDGED_RECIPES] * JUDGED_RECIPES]
    assert sum(rates) <= ERROR_RATE and 1.0 - level_of(1, 1) == pytest.approx(ERROR_RATE / 2)
    assert all(level_of(r, 3) < level_of(r + 1, 3) for r in range(1, ROUNDS))


def test_the_estimate_knows_the_minutes_of_refinement(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    given = {name: value for name, value in options(path).items() if name != "refine"}

    def ask(**more: Any) -> Estimate:
        return api.estimate(path, backend=FakeBackend(effects(path)), **given, **more)

    without, usual, long = ask(refine=False), ask(), ask(budget_minutes=600.0)
    assert long.minutes == pytest.approx(without.minutes + 600.0, rel=0.01)
    assert without.trial_chunks < usual.trial_chunks < long.trial_chunks


class FailingLater(FakeBackend):
    """Whole recipes can't be measured on some chunks once their number of engines is passed."""

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        return FailingEngine(self, super().open(model, settings, sources)._model, settings, sources)


class FailingEngine(FakeEngine):
    """Recipes that hold any of the types in `BAD` fail on the first chunks of the search order."""

    def _check_fault(self, tensor_types: Any, chunk: Chunk, label: str) -> None:
        super()._check_fault(tensor_types, chunk, label)
        if label.startswith("trial 'proposal") or label.startswith("trial 'recipe before"):
            raise EngineError(f"{label}: failed as planted")


def test_proposals_that_fail_are_not_taken_and_refinement_ends_in_words(tmp_path: Path) -> None:
    path = write_model(tmp_path, 6)
    backend = FailingLater(misleading(path).effects)
    result = allocate(path, backend, refine=True, budget_minutes=600.0, chunks=16)
    assert result.refined is not None and result.refined.rounds
    assert all(p.change is None and not p.taken for r in result.refined.rounds for p in r.proposals)
    assert dict(result.refined.types) == dict(result.kept.candidate.types)
    assert refinement_lines(result)[0].startswith("Refinement added nothing")
    assert math.isfinite(result.controls.ratio.estimate)


@pytest.mark.parametrize(("n_search", "expected"), [(16, 140.0), (8, 60.0), (48, 320.0), (200, 320.0), (2, 0.0)])
def test_few_chunks_that_judge_get_few_steps(n_search: int, expected: float) -> None:
    """Of 320 chunks of anchors as many for steps as judge of 32: 14 of a text of 16, 6 of 8, 32 of 48 and more."""
    assert step_chunks(320, n_search) == expected
    assert usual_spend(320, n_search).chunks == expected + judging_cost(first_judged(n_search))


def test_a_text_too_short_for_a_round_is_said(tmp_path: Path) -> None:
    result = allocate(write_model(tmp_path), refine=True, chunks=4, n_shuffled=0)
    assert result.refined is not None and result.refined.rounds == ()
    assert refinement_lines(result)[0].startswith("No refinement: the search text")
