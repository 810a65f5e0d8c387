"""The whole job on the fake backend: the planted truth is found, proven and reported; a race finds the same with less text."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import ChunkScore, TensorType
from cerebellum.errors import EngineError, InputError, ProofError
from cerebellum.gguf.model_file import read_model
from cerebellum.progress import Silent
from cerebellum.report.chosen_lines import chosen_verdict
from cerebellum.results import RunResult
from cerebellum.stats.verdicts import Verdict
from cerebellum.testing import Effect, FakeBackend, Fault, write_fake_model
from cerebellum.verbs import write
from cerebellum.verbs.verify import State, verify_file

BLOCKS = 8
BASE_KLD = 0.04


def gate(block: int) -> TensorType:
    return TensorType(f"blk.{block}.ffn_gate.weight", "Q2_K")


#: Blocks 2, 3, 5 regularize, the rest damage; 6 damages most. The base's own divergence comes from the embedding.
EFFECTS = {
    TensorType("token_embd.weight", "Q3_K"): Effect(kld=BASE_KLD),
    **{gate(i): Effect(nll=-0.07, kld=0.004) for i in (2, 3, 5)},
    **{gate(i): Effect(nll=0.01, kld=0.0005) for i in (0, 1, 4, 7)},
    gate(6): Effect(nll=0.2, kld=0.05),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 80)))
    return write_fake_model(tmp_path / "model.gguf", BLOCKS)


def options(model: Path, **more: Any) -> dict[str, Any]:
    return {"text": model.parent / "text.txt", "ctx": 64, "out": model.parent / "out", **more}


def run(model: Path, backend: FakeBackend | None = None, **more: Any) -> RunResult:
    return api.choose(model, backend=backend or FakeBackend(EFFECTS), **options(model, **more))


def test_greedy_takes_the_cheap_ones_and_leaves_the_dear(model: Path) -> None:
    result = run(model, allow=0.06)
    assert set(result.choice.blocks) == {0, 1, 4, 7}
    assert re.search(r"; (\d) of 3 random sets are worse, \d of them surely\.$", chosen_verdict(result))
    assert result.written is not None
    types = read_model(result.written.path).types
    assert {name for name, kind in types.items() if kind == "Q2_K"} == {gate(i).tensor for i in (0, 1, 4, 7)}


def test_its_file_says_where_it_comes_from_where_the_growth_allowed_has_room(model: Path) -> None:
    """Two tensors demoted save less than the keys take: none without growth. With growth the file verifies against its source."""
    bare = run(model, allow=0.06)
    assert bare.written is not None and "cerebellum.recipe" not in read_model(bare.written.path).metadata
    backend = FakeBackend(EFFECTS)
    grown = run(model, backend, allow=0.06, max_growth="1MB", force=True)
    assert grown.written is not None
    kept = read_model(grown.written.path)
    assert grown.written.summary.divergence is not None
    expected = grown.written.summary.divergence.mean.estimate
    assert kept.metadata["cerebellum.expected_kld"] == pytest.approx(expected, rel=1e-12)
    assert kept.types == read_model(bare.written.path).types
    checked = verify_file(backend, grown.written.path, source=model, study=model.parent / "out")
    assert {c.what: c.state for c in checked.checks} == dict.fromkeys(
        ("tensors", "study", "source", "rebuild"), State.OK
    )
    assert 0 < grown.written.file_bytes - bare.written.file_bytes <= 1e6


def test_what_damages_by_kld_and_lowers_perplexity_is_called_drift(model: Path) -> None:
    words = {row.effect.block: row.contrast.judgement.verdict for row in run(model).sweep.rows}
    assert words[2] == words[3] == words[5] == Verdict.DRIFT
    assert words[6] == Verdict.DAMAGES


def test_the_published_policy_takes_the_largest_cluster_that_regularizes(model: Path) -> None:
    assert run(model, policy="published").choice.blocks == (2, 3, 5)


def test_prediction_adds_up_and_controls_stand_beside_the_recipe(model: Path) -> None:
    result = run(model, allow=0.06)
    assert result.combination is not None
    chosen = sum(row.effect.kld or 0.0 for row in result.sweep.rows if row.effect.block in result.choice.blocks)
    assert result.combination.prediction.kld == pytest.approx(chosen)
    labels = [row.trial.label for row in result.combination.report.rows]
    assert labels[:2] == ["base", "recipe"]
    assert {"blanket Q2_K", "random 1", "random 2", "random 3", "policy published"} <= set(labels)


def test_nothing_worth_taking_is_said_and_no_file_is_written(model: Path) -> None:
    result = run(model, allow=0.0)
    assert result.written is None and result.choice.effects == ()
    out = model.parent / "out"
    assert "No file was written" in (out / "report.md").read_text()
    assert not list(out.glob("*cerebellum.gguf"))


def test_a_file_that_measures_otherwise_never_gets_its_name(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = write.measure_file

    def off(*arguments: Any) -> dict[int, ChunkScore]:
        scores = real(*arguments)
        first = min(scores)
        return scores | {first: ChunkScore(first, 1, 0.5, 0.25)}

    monkeypatch.setattr(write, "measure_file", off)
    with pytest.raises(ProofError, match="not what was measured"):
        run(model, allow=0.06)
    assert not list((model.parent / "out").glob("*cerebellum*"))
    assert not list((model.parent / "out").glob(".*unproven*"))


def test_a_failed_trial_is_reported_and_the_run_goes_on(model: Path) -> None:
    """No row, not chosen, named in every report; a resume leaves it out, and the sweep without its tensor is the same."""
    faulty = FakeBackend(EFFECTS, faults=(Fault(gate(4), chunk=7, dies=True),))
    first = run(model, faulty, allow=0.06)
    assert {row.effect.block for row in first.sweep.rows} == set(range(BLOCKS)) - {4}
    assert first.written is not None and first.choice.blocks == (0, 1, 7)
    ((label, reason),) = [(f.label, f.reason) for f in first.sweep.failed]
    assert label == "blk.4.ffn_gate.weight=Q2_K" and "chunk 7" in reason and "died as planted" in reason
    text = (model.parent / "out" / "report.md").read_text()
    assert f"Failed, so left out: {label}" in text and "--retry-failed" in text
    report = json.loads((model.parent / "out" / "report.json").read_text())
    assert report["failed"] == [{"label": label, "reason": reason}] and len(report["sweep"]) == BLOCKS - 1
    assert first.combination is not None
    sets = [row.trial for row in first.combination.report.rows if row.trial.tensor_types]
    assert all(gate(4) not in trial.tensor_types for trial in sets)
    assert run(model, allow=0.06) == first


def test_a_failed_trial_is_tried_again_when_asked(model: Path) -> None:
    run(model, FakeBackend(EFFECTS, faults=(Fault(gate(3), chunk=7),)), allow=0.06)
    again = run(model, allow=0.06, retry_failed=True)
    assert again.sweep.failed == () and len(again.sweep.rows) == BLOCKS
    (model.parent / "out").rename(model.parent / "first")
    assert again == run(model, allow=0.06)


class Deadly(Silent):
    """Ends the process without a word at the event of this number; counts them."""

    def __init__(self, at: int) -> None:
        self.at, self.n = at, 0

    def _event(self) -> None:
        self.n += 1
        if self.n == self.at:
            os._exit(9)

    def note(self, text: str) -> None:
        self._event()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._event()

    def step(self, what: str = "") -> None:
        self._event()

    def end(self) -> None:
        self._event()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_event_it_goes_on_and_ends_the_same(every: int, tmp_path: Path) -> None:
    """A run in a process of its own that ends at its first, second, … last event, with no chance to tidy up; the same command again
    gives the files of the run that was never killed."""
    model = write_fake_model(tmp_path / "model.gguf", 2)
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 8)))
    small = dict[str, Any](chunks=2, n_random=1, allow=0.06)

    def report(out: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((out / "report.json").read_text().replace(f"{out.name}/", ""))
        found["files"] = sorted(path.name for path in out.rglob("*"))
        return found

    counting = Deadly(0)
    run(model, out=tmp_path / "whole", progress=counting, **small)
    whole = report(tmp_path / "whole")
    assert counting.n > 30 and whole["written"]
    for at in sorted({1, 2, *range(3, counting.n, every), counting.n}):
        out = tmp_path / f"killed-{at}"
        if not (child := os.fork()):
            try:
                run(model, out=out, progress=Deadly(at), **small)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert not (out / "report.json").exists() or at == counting.n
        run(model, out=out, **small)
        assert report(out) == whole, at


def test_a_sweep_of_which_every_trial_fails_says_so(model: Path) -> None:
    """Exit code and message instead of an empty table."""
    faults = tuple(Fault(gate(block)) for block in range(BLOCKS))
    with pytest.raises(EngineError, match=r"every trial of the sweep failed, the first so: trial 'blk.*--retry-failed"):
        run(model, FakeBackend(EFFECTS, faults=faults))


def test_the_recipe_failing_ends_the_run_by_name(model: Path) -> None:
    """Its single trials are fine, together they are not: nothing is written."""

    class Together(Fault):
        def hits(self, tensor_types: Any, chunk: int) -> bool:
            return {gate(0), gate(1)} <= set(tensor_types)

    with pytest.raises(EngineError, match=r"the recipe can't be measured on the search text: trial 'recipe', chunk"):
        run(model, FakeBackend(EFFECTS, faults=(Together(),)), allow=0.06)
    assert not list((model.parent / "out").glob("*cerebellum*"))


def test_a_recipe_that_a_random_set_surely_beats_is_not_written_and_its_overrides_are_kept(model: Path) -> None:
    """Perplexity chooses the three blocks that it likes; sets of three others are nearer to the reference on both texts."""
    result = run(model, objective="nll", trust_perplexity=True, n_random=20, max_growth=0)
    assert set(result.choice.blocks) == {2, 3, 5} and result.written is None
    assert str(result.facts["unwritten"]).startswith("random ") and "than the recipe" in result.facts["unwritten"]
    out = model.parent / "out"
    assert [p.name for p in out.glob("*.gguf")] == ["base-Q3_K_M.gguf"]
    lines = (out / "not-written.overrides.txt").read_text().splitlines()
    assert [
        line.endswith("=Q2_K") and f".{block}." in line.replace("\\", "")
        for line, block in zip(lines, (2, 3, 5), strict=True)
    ] == [True] * 3
    page = (out / "report.md").read_text()
    assert page.count("better than the recipe beyond the interval, within the size allowed: random ") == 1
    assert "No file was written: random " in page and "\n".join(lines) in page
    assert json.loads((out / "report.json").read_text())["facts"]["unwritten_overrides"] == {
        "not-written.overrides.txt": lines
    }


def test_a_control_that_fails_is_left_out_and_named(model: Path) -> None:
    class Blanket(Fault):
        def hits(self, tensor_types: Any, chunk: int) -> bool:
            return len(tensor_types) == BLOCKS

    result = run(model, FakeBackend(EFFECTS, faults=(Blanket(),)), allow=0.06)
    assert result.combination is not None and result.written is not None
    assert [f.label for f in result.combination.report.failed] == ["blanket Q2_K"]
    assert "Failed, so left out: blanket Q2_K" in (model.parent / "out" / "report.md").read_text()


def test_a_rung_that_fails_leaves_the_ladder_to_the_others(model: Path) -> None:
    """A Q2_K whose logits overflow: named in the facts, the rest judged."""
    overflow = {**EFFECTS, TensorType("blk.0.attn_q.weight", "Q2_K"): Effect(nll=math.nan)}
    given: Any = {"text": model.parent / "text.txt", "ctx": 64, "backend": FakeBackend(overflow)}
    found = api.validity(model, **given)
    assert "Q2_K" not in [rung.name for rung in found.rungs] and len(found.rungs) >= 2
    assert list(found.facts["failed"]) == ["Q2_K"] and "is nan" in found.facts["failed"]["Q2_K"]


def test_the_race_gives_the_verdicts_of_the_full_text_with_a_third_of_it(model: Path) -> None:
    full = run(model)
    raced = api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, race=True, out=model.parent / "race")).sweep
    words = [{r.effect.swap: r.contrast.judgement.verdict for r in sweep.rows} for sweep in (full.sweep, raced)]
    assert words[0] == words[1]
    assert raced.race is not None and raced.race.n_chunks <= raced.race.n_chunks_full / 3


def test_a_race_that_ends_in_a_choice_chooses_as_the_full_text_does(model: Path) -> None:
    """What is surely too costly leaves early; what could be chosen goes on until that is clear."""
    for allow in (0.02, 0.06, 1.0):
        full = run(model, allow=allow, out=model.parent / f"full-{allow}")
        raced = run(model, allow=allow, race=True, out=model.parent / f"raced-{allow}")
        assert raced.choice.tensor_types == full.choice.tensor_types and full.choice.tensor_types
        race = raced.sweep.race
        assert race is not None and race.n_chunks < race.n_chunks_full
        early = {r.effect.swap for r in raced.sweep.rows if r.summary.n_chunks < raced.sweep.base.n_chunks}
        words = {r.effect.swap: r.contrast.judgement.verdict for r in raced.sweep.rows}
        assert all(words[s] is not Verdict.DAMAGES for s in early & set(raced.choice.tensor_types))


def test_a_race_is_the_same_for_any_number_of_workers_and_after_a_failure(model: Path) -> None:
    whole = api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, race=True)).sweep
    three = api.sweep(
        model, backend=FakeBackend(EFFECTS), **options(model, race=True, workers=3, out=model.parent / "3")
    ).sweep
    broken = options(model, race=True, out=model.parent / "broken")
    faulty = FakeBackend(EFFECTS, faults=(Fault(gate(5)),))
    without = api.sweep(model, backend=faulty, **broken).sweep
    assert [f.label for f in without.failed] == ["blk.5.ffn_gate.weight=Q2_K"] and len(without.rows) == BLOCKS - 1
    assert without == api.sweep(model, backend=FakeBackend(EFFECTS), **broken).sweep
    resumed = api.sweep(model, backend=FakeBackend(EFFECTS), **broken, retry_failed=True).sweep
    assert whole == three == resumed


def test_a_race_on_a_studied_text_is_not_changed_by_what_else_was_measured(model: Path) -> None:
    alone = api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, race=True)).sweep
    api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, out=model.parent / "both"))
    after = api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, race=True, out=model.parent / "both")).sweep
    assert [row.contrast for row in alone.rows] == [row.contrast for row in after.rows]


def test_a_budget_bounds_the_race_and_one_too_small_says_the_least(model: Path) -> None:
    with pytest.raises(InputError, match=r"first look of 6 chunks.*larger budget"):
        api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, budget_tokens=640))
    least = 6 * BLOCKS * 64
    race = api.sweep(model, backend=FakeBackend(EFFECTS), **options(model, budget_tokens=least)).sweep.race
    assert race is not None and race.n_chunks == 6 * BLOCKS


def test_the_json_report_is_plain_and_complete(model: Path) -> None:
    run(model, allow=0.06)
    found = json.loads((model.parent / "out" / "report.json").read_text())
    assert len(found["sweep"]) == BLOCKS
    assert found["choice"]["swaps"] == {gate(i).tensor: "Q2_K" for i in (0, 1, 4, 7)}
    assert found["written"]["equal_chunks"] == 40
    assert found["facts"]["splits"]["search"]["n_chunks"] == 40


class Note(Silent):
    """What was told, in order: notes, and the names of what began."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.told.append(what)


def test_chunks_too_long_for_the_model_are_told_before_the_work_and_kept(model: Path) -> None:
    """Once on the way, and in the facts of the report."""
    (model.parent / "long.txt").write_text(" ".join(f"word{i * i % 99991}" for i in range(5000 * 5)))
    said = Note()
    result = run(model, text=model.parent / "long.txt", ctx=5000, chunks=2, n_random=0, progress=said)
    warnings = [text for text in said.told if "Chunks of 5000 tokens are longer than the 4096" in text]
    assert len(warnings) == 1 and warnings[0].startswith("warning: ")
    assert said.told.index(warnings[0]) < next(i for i, text in enumerate(said.told) if text.startswith("reference"))
    assert f"warning: {result.facts['warnings'][0]}" == warnings[0]
    more: dict[str, Any] = {
        "text": model.parent / "long.txt",
        "ctx": 5000,
        "chunks": 2,
        "backend": FakeBackend(EFFECTS),
    }
    for verb in (api.perplexity, api.validity, lambda *a, **k: api.measure(*a, reference=model, **k)):
        told = Note()
        verb(model, progress=told, **more)
        assert told.told.count(warnings[0]) == 1
