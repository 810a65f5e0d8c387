"""Sums that are no perplexity: one error that names model and chunk, whatever the verb; and JSON stays JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import ChunkScore, TensorType
from cerebellum.errors import EngineError
from cerebellum.stats.intervals import exp_nll, fault_of, perplexity
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.verbs.perplexity import Perplexity

NOT_NUMBERS = [math.nan, math.inf, -math.inf, 5000.0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"text{i * i % 9973}" for i in range(64 * 12)))
    return write_fake_model(tmp_path / "model.gguf")


@pytest.mark.parametrize("nats", NOT_NUMBERS)
@pytest.mark.parametrize("verb", ["perplexity", "measure", "validity", "run", "sweep"])
def test_every_verb_names_the_model_and_the_chunk(model: Path, nats: float, verb: str) -> None:
    """The model itself is broken: no figure, no traceback, no OverflowError."""
    text, out = model.parent / "text.txt", model.parent / "out"
    backend = FakeBackend({TensorType("blk.0.attn_q.weight", "F16"): Effect(nll=nats)})
    given: dict[str, Any] = {"text": text, "ctx": 64, "backend": backend}
    calls: dict[str, Callable[[], object]] = {
        "perplexity": lambda: api.perplexity(model, **given),
        "measure": lambda: api.measure(model, reference=model, **given),
        "validity": lambda: api.validity(model, **given),
        "run": lambda: api.choose(model, out=out, **given),
        "sweep": lambda: api.sweep(model, out=out, **given),
    }
    with pytest.raises(EngineError, match=r"chunk \d+.*no (finite number|perplexity)") as caught:
        calls[verb]()
    assert "model.gguf" in str(caught.value) or "reference" in str(caught.value)


@pytest.mark.parametrize("mean", [*NOT_NUMBERS, 700.0])
def test_there_is_one_definition(mean: float) -> None:
    """What a user sees, what a table shows and what is checked agree on what is no perplexity."""
    score = ChunkScore(3, 10, 10 * mean, 10 * mean * mean)
    if mean == -math.inf:  # no model's, and exp(-inf) is 0
        assert fault_of(score)
        return
    for call in (
        lambda: exp_nll(mean),
        lambda: perplexity(10 * mean, 10 * mean**2, 10),
        lambda: Perplexity.of([score]),
    ):
        with pytest.raises(EngineError, match="no perplexity"):
            call()
    assert fault_of(score)


def test_a_good_score_has_no_fault() -> None:
    score = ChunkScore(0, 10, 30.0, 100.0)
    found = Perplexity.of([score])
    assert fault_of(score) == "" and (found.perplexity, found.std_error) == perplexity(30.0, 100.0, 10)
    assert found.perplexity == pytest.approx(math.exp(3.0))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_json_stays_json(odd: float, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no number is null, however deep; what reads it strictly can."""
    from cerebellum.cli.common import print_json

    def refuse(name: str) -> None:
        raise AssertionError(name)

    print_json({"a": [odd, {"b": odd}], "c": 1.5, "d": "é"})
    told = capsys.readouterr().out
    assert json.loads(told, parse_constant=refuse) == {"a": [None, {"b": None}], "c": 1.5, "d": "é"}
