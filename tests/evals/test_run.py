"""`run` with benchmarks: the written file, the base and the reference are asked, and report, JSON and card say what came of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.errors import EngineError, InputError
from cerebellum.report.card import model_card
from cerebellum.testing import Effect, write_fake_model
from tests.evals.test_verb import FACTS, IDS
from tests.evals.toy import Toy, ToyBackend, preferring

EFFECTS = {TensorType(f"blk.{i}.ffn_gate.weight", "Q2_K"): Effect(nll=0.01, kld=0.0005) for i in range(4)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 40)))
    return write_fake_model(tmp_path / "model.gguf")


def backend(lost: set[str]) -> ToyBackend:
    names = {"model.gguf": set(), "base-Q3_K_M.gguf": {"fact-1"}, "model-Q3_K_M-cerebellum.gguf": {"fact-1", *lost}}
    return ToyBackend(EFFECTS, toys={name: Toy(nats=preferring(FACTS, wrong)) for name, wrong in names.items()})


def test_what_was_found_is_in_report_json_and_card(model: Path, tmp_path: Path) -> None:
    options = {"text": tmp_path / "text.txt", "ctx": 64, "allow": 10.0, "bench": "world_facts", "out": tmp_path / "out"}
    result = api.choose(model, backend=backend(set(IDS[50:110])), **options)  # type: ignore[arg-type]
    assert result.written and result.bench and result.bench.word == "fail"
    assert [round(score.value * 300) for score in result.bench.tasks[0].scores] == [239, 299, 300]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["bench"]["tasks"][0]["pairs"][0]["flips"]["lost"] == 60
    for text in ((tmp_path / "out" / "report.md").read_text(), model_card(result)):
        assert "## Benchmarks" in text and "60 lost" in text
    assert "world_facts fail" in model_card(result) and "not tested on tasks" not in model_card(result)
    assert (tmp_path / "out" / "bench" / "world_facts-reference.jsonl").is_file()


def test_small_batches_of_text_are_no_small_batches_of_questions(model: Path, tmp_path: Path) -> None:
    """What bounds the logits of scored text would ask questions almost one by one, and `bench` would not find the answers again."""
    result = api.choose(
        model,
        backend=backend(set()),
        text=tmp_path / "text.txt",
        ctx=64,
        allow=10.0,
        ubatch_size=16,
        bench="world_facts",
        out=tmp_path / "out",
    )
    assert result.bench and result.bench.facts["settings"]["n_ubatch"] == 512
    assert result.facts["settings"]["n_ubatch"] == 16


def test_tasks_that_can_not_be_asked_stop_the_run_before_it_begins(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        api.choose(
            model,
            backend=backend(set()),
            text=tmp_path / "text.txt",
            out=tmp_path / "out",
            bench="world",
            bench_data="nowhere",
        )
    assert not (tmp_path / "out").exists()


def test_benchmarks_that_fail_leave_a_report_of_all_else(model: Path, tmp_path: Path) -> None:
    """And the same command, when the cause is mended, goes on and writes what a run that never failed writes."""
    options = {"text": tmp_path / "text.txt", "ctx": 64, "allow": 10.0, "bench": "world_facts", "out": tmp_path / "out"}
    broken = ToyBackend(EFFECTS, toys={**backend(set()).toys, "base-Q3_K_M.gguf": Toy(nats=lambda *_: math.nan)})
    with pytest.raises(EngineError, match="world_facts, base"):
        api.choose(model, backend=broken, **options)  # type: ignore[arg-type]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "benchmarks not finished: world_facts; the same command goes on" in report and "## Benchmarks" not in report
    assert json.loads((tmp_path / "out" / "report.json").read_text())["bench"] is None
    again = api.choose(model, backend=backend(set()), **options)  # type: ignore[arg-type]
    assert again.bench and "not finished" not in (tmp_path / "out" / "report.md").read_text()
