"""The part of an estimate that is making tensors in other types: timed on one tensor, and counted in weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cerebellum import api
from cerebellum.errors import EngineError
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.report.estimate import estimate_lines
from cerebellum.testing import FakeBackend
from cerebellum.verbs import estimating
from tests.allocation.small import options, write_model


def test_a_weight_is_timed_in_three_types_and_all_that_trials_make_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path)
    engine = FakeBackend().open(path, Settings(), Sources(path))
    asked: list[str] = []
    hashes = engine.quantized_sha256

    def noting(swaps: object) -> dict[str, str]:
        found = hashes(swaps)  # type: ignore[arg-type]
        asked.extend(found)
        return dict(found)

    monkeypatch.setattr(engine, "quantized_sha256", noting)
    clock = iter((10.0, 13.0))
    monkeypatch.setattr("cerebellum.verbs.estimating.time.monotonic", lambda: next(clock))
    seconds = estimating.seconds_a_weight(engine, read_model(path))
    (name,) = {each.partition("=")[0] for each in asked}
    tensor = read_model(path).tensor(name)
    assert tensor is not None and sorted(each.partition("=")[2] for each in asked) == ["IQ4_XS", "Q4_K", "Q6_K"]
    assert seconds == pytest.approx(3.0 / (3 * tensor.n_elements))


def test_making_is_part_of_the_minutes_and_shared_by_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path)
    given = {name: value for name, value in options(path).items() if name not in ("out", "n_shuffled")}

    def minutes(rate: float, **more: object) -> float:
        monkeypatch.setattr(estimating, "seconds_a_weight", lambda *_: rate)
        found = api.estimate(path, backend=FakeBackend(), **{**given, **more})
        return replace(found, seconds=0.0).minutes

    one = minutes(1e-3)
    weights = sum(t.n_elements for t in read_model(path).tensors if len(t.shape) > 1)
    assert minutes(0.0) == 0.0 and minutes(2e-3) == pytest.approx(2.0 * one)
    assert (
        10 * weights < one * 60.0 / 1e-3 < 60 * weights
    )  # ten to sixty whole files: a recipe has twenty shuffled ones
    assert minutes(1e-3, n_shuffled=0) < one and minutes(1e-3, workers=2) == pytest.approx(one / 2)


def test_making_has_a_line_where_it_takes_more_than_a_minute(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    given = {name: value for name, value in options(path).items() if name not in ("out", "n_shuffled")}
    found = api.estimate(path, backend=FakeBackend(), **given)
    lines = ["\n".join(estimate_lines(replace(found, quantizing=60.0 * n, n_engines=2))) for n in (2.0, 8.0)]
    assert "of that time" not in lines[0] and "of that time, making tensors in other types: about 4 minutes" in lines[1]


def test_a_tensor_that_can_not_be_made_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path)
    engine = FakeBackend().open(path, Settings(), Sources(path))

    def refuse(_: object) -> dict[str, str]:
        raise EngineError("no memory")

    monkeypatch.setattr(engine, "quantized_sha256", refuse)
    assert estimating.seconds_a_weight(engine, read_model(path)) == 0.0
