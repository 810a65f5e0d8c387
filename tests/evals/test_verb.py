"""The verb on planted answers: flips are the planted ones, the gate has its word, and every item is on disk."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import cerebellum
from cerebellum.errors import EngineDied, EngineError, InputError, RefusedError, TextError
from cerebellum.evals.asking import LIKELY_TOGETHER
from cerebellum.evals.items import EMPTY, TRUNCATED
from cerebellum.evals.pairs import pair
from cerebellum.evals.plain import bench_json
from cerebellum.evals.sandbox import Sandbox
from cerebellum.evals.score import BenchResult
from cerebellum.evals.world import world_task
from cerebellum.report.bench import bench_grid
from cerebellum.testing import FakeBackend, write_fake_model
from cerebellum.testing.fake_backend import AnswerFault
from tests.evals.test_code import Trusting
from tests.evals.toy import Toy, ToyBackend, preferring

FACTS = world_task("world_facts", limit=None, render=None, sandbox=None, n=1).items
IDS = [item.id for item in FACTS]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Files by role; each is a GGUF of its own, for answers are kept by content."""

    def make(*roles: str) -> dict[str, Path]:
        return {role: write_fake_model(tmp_path / f"{role}.gguf", n_blocks=n) for n, role in enumerate(roles, start=1)}

    return make


def toys(**wrong: set[str]) -> dict[str, Toy]:
    return {f"{role}.gguf": Toy(nats=preferring(FACTS, ids)) for role, ids in wrong.items()}


def bench(made: dict[str, Path], planted: dict[str, Toy], tasks: str = "world_facts", **more: Any) -> BenchResult:
    against, reference = made.get("base"), made.get("reference")
    return cerebellum.bench(
        made["file"], tasks, against=against, reference=reference, backend=ToyBackend(toys=planted), **more
    )


def test_the_planted_flips_are_found_both_ways(files: Any, tmp_path: Path) -> None:
    planted = toys(file=set(IDS[:20]), base=set(IDS[15:25]), reference=set())
    result = bench(files("file", "base", "reference"), planted, out=tmp_path / "out")
    (task,) = result.tasks
    assert [round(score.value * 300) for score in task.scores] == [280, 290, 300]
    to_base, to_reference, of_base = task.pairs
    assert to_base.flips and (to_base.flips.lost, to_base.flips.gained) == (15, 5)
    assert to_reference.flips and (to_reference.flips.lost, to_reference.flips.gained) == (20, 0)
    assert of_base.flips and (of_base.flips.lost, of_base.flips.gained) == (10, 0)
    assert to_base.gate and to_reference.gate is None and of_base.gate is None


def test_every_item_of_every_file_is_on_disk(files: Any, tmp_path: Path) -> None:
    bench(files("file", "base"), toys(file={"fact-3"}, base=set()), out=tmp_path / "out")
    for role, missed in (("file", {"fact-3"}), ("base", set())):
        rows = [
            json.loads(line)
            for line in (tmp_path / "out" / "bench" / f"world_facts-{role}.jsonl").read_text().splitlines()
        ]
        assert [row["id"] for row in rows] == IDS
        assert {row["id"] for row in rows if row["value"] == 0.0} == missed
        assert all(row["chosen"] == row["gold"] for row in rows if row["value"])
        assert rows[0]["prompt"].startswith("Question:") and len(rows[0]["replies"]) == 4
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["tasks"][0]["pairs"][0]["flips"]["lost"] == 1


@pytest.mark.parametrize(
    ("n_wrong", "margin", "word"),
    [(0, None, "pass"), (60, None, "fail"), (3, None, "too few items to tell"), (3, 5.0, "pass"), (60, 50.0, "pass")],
)
def test_the_gate_has_three_words(files: Any, n_wrong: int, margin: float | None, word: str) -> None:
    result = bench(files("file", "base"), toys(file=set(IDS[:n_wrong]), base=set()), margin=margin)
    assert result.word == result.tasks[0].word == word
    if word == "fail":
        with pytest.raises(RefusedError, match="loses on world_facts"):
            result.refuse_loss()
    else:
        result.refuse_loss()


def test_no_difference_is_never_said_without_what_could_have_been_seen(files: Any) -> None:
    result = bench(files("file", "base"), toys(file=set(), base=set()), limit=40)
    grid = bench_grid(result)
    row = dict(zip(grid.columns, grid.rows[0], strict=True))
    assert (row["lost"], row["gained"]) == ("0", "0") and row["gate"] == "too few items to tell"
    assert row["change, points"].startswith("+0.00 [-") and float(row["could show"]) > 5.0
    assert "isn't excluded" in " ".join(grid.notes)
    assert dict(zip(grid.columns, grid.rows[1], strict=True))["could show"] == ""  # the base is compared with nothing


def test_what_was_answered_before_a_death_is_not_asked_again(files: Any, tmp_path: Path) -> None:
    made, wrong = files("file", "base"), {"file": set(IDS[:9]), "base": set(IDS[5:7])}
    whole = bench(made, toys(**wrong), out=tmp_path / "whole")
    dying = toys(**wrong)
    dying["base.gguf"].dies_after = 500
    with pytest.raises(EngineDied):
        bench(made, dying, out=tmp_path / "out")
    fresh = toys(**wrong)
    assert bench_json(bench(made, fresh, out=tmp_path / "out")) == bench_json(whole)
    assert (
        fresh["file.gguf"].n_answered == 0
        and 1200 - 500 <= fresh["base.gguf"].n_answered < 1200 - 500 + LIKELY_TOGETHER
    )
    for role in ("file", "base"):
        name = Path("bench") / f"world_facts-{role}.jsonl"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_settings_are_asked_anew(files: Any, tmp_path: Path) -> None:
    made, planted = files("file"), toys(file=set())
    bench(made, planted, out=tmp_path / "out", limit=10)
    bench(made, planted, out=tmp_path / "out", limit=10)
    assert planted["file.gguf"].n_answered == 40
    bench(made, planted, out=tmp_path / "out", limit=10, ctx=512)
    assert planted["file.gguf"].n_answered == 80


def test_sums_of_another_version_are_asked_anew(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-likelihoods are of the same kernels as the sums of a sweep."""
    made, planted = files("file"), toys(file=set())
    bench(made, planted, out=tmp_path / "out", limit=10)
    monkeypatch.setattr("cerebellum.verbs.bench.METRIC_VERSION", 10_000)
    bench(made, planted, out=tmp_path / "out", limit=10)
    assert planted["file.gguf"].n_answered == 80


def test_a_spoiled_score_is_neither_shown_nor_judged(files: Any) -> None:
    planted = toys(file=set(), base=set())
    planted["base.gguf"] = replace(planted["base.gguf"], n_ctx=40)
    planted["base.gguf"].nats = lambda context, continuation: -1.0
    result = bench(files("file", "base"), planted)
    (task,) = result.tasks
    assert task.word == result.word == "not judged" and task.score("base").spoiled.counts[TRUNCATED] > 15
    assert task.score("file").unusable == ""
    cells = [dict(zip(bench_grid(result).columns, row, strict=True)) for row in bench_grid(result).rows]
    assert cells[1]["score, %"] == "unusable" and cells[0]["gate"] == "not judged"
    assert "prompts are spoiled" in " ".join(bench_grid(result).notes)


@pytest.mark.parametrize("nats", [math.nan, math.inf, -math.inf])
def test_a_log_likelihood_that_is_no_number_is_an_error_that_names_the_item_and_is_not_kept(
    nats: float, files: Any, tmp_path: Path
) -> None:
    """Nothing is chosen by it; a sound engine goes on from what was answered before."""
    item, made = FACTS[7], files("file")
    question = item.requests[0].context  # type: ignore[union-attr]
    fault = AnswerFault(question, nats=nats)
    with pytest.raises(
        EngineError, match=rf"world_facts, file, item {item.id}: a log-likelihood of {nats} is no number"
    ):
        cerebellum.bench(
            made["file"], "world_facts", limit=12, out=tmp_path / "out", backend=FakeBackend(answer_faults=(fault,))
        )
    with sqlite3.connect(tmp_path / "out" / "study.sqlite") as db:
        kept = [reply for (reply,) in db.execute("SELECT reply FROM answer")]
    assert not [reply for reply in kept if not math.isfinite(json.loads(reply)[0])]
    result = cerebellum.bench(made["file"], "world_facts", limit=12, out=tmp_path / "out", backend=FakeBackend())
    assert result.tasks[0].score("file").n == 12


def test_graded_items_are_compared_by_their_mean() -> None:
    new, old = ({f"{i}": (i % 5) / 4 * scale for i in range(200)} for scale in (0.5, 1.0))
    found = pair("file", "base", new, old, 0.02)
    assert found.flips is None and found.gate and found.gate.word == "fail"
    assert found.difference.estimate == pytest.approx(-0.25) and found.difference.high < 0.0
    same = pair("file", "base", old, old, 0.02)
    assert same.gate and same.gate.word == "pass" and same.difference.low < 0.0 < same.difference.high


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tasks": ""}, InputError, "no task"),
        ({"tasks": "world_facts", "data": "nowhere"}, InputError, "nowhere does not exist"),
        ({"tasks": "world_facts", "margin": 1.0}, InputError, "against"),
        ({"tasks": "world_facts", "limit": 0}, InputError, "at least 1"),
        ({"tasks": "world_facts", "chat": True}, TextError, "no chat template"),
    ],
)
def test_what_can_not_be_done_is_said_before_anything_is_asked(
    files: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    planted = {"file.gguf": Toy()}
    with pytest.raises(error, match=says):
        bench(files("file"), planted, **options)
    assert planted["file.gguf"].n_answered == 0


def test_a_margin_is_less_than_everything(files: Any) -> None:
    planted = {name: Toy() for name in ("file.gguf", "base.gguf")}
    with pytest.raises(InputError, match=r"margin \(--margin\) is 200"):
        bench(files("file", "base"), planted, margin=200.0)
    assert not any(toy.n_answered for toy in planted.values())


def test_a_chat_asks_in_the_models_template(tmp_path: Path) -> None:
    planted = {"file.gguf": Toy()}
    result = bench(
        {"file": write_fake_model(tmp_path / "file.gguf", chat_template="the toy's")}, planted, chat=True, limit=3
    )
    assert result.tasks[0].facts["chat"] is True
    prompts = {planted["file.gguf"].text(request.context) for request in planted["file.gguf"].asked}  # type: ignore[union-attr]
    assert (
        all(p.startswith("[user]Question:") and p.endswith("Answer:[assistant]") for p in prompts) and len(prompts) == 3
    )


def test_empty_replies_count_as_wrong_where_the_base_could_answer(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sandbox, "find", lambda unsafe=False: Trusting())
    solutions = {i.about["prompt"]: i.about["canonical_solution"] for i in functions()}
    planted = {"file.gguf": Toy(), "base.gguf": Toy(reply=lambda prompt: solutions[prompt])}
    result = bench(files("file", "base"), planted, tasks="world_functions")
    (task,) = result.tasks
    assert task.score("file").spoiled.counts == {EMPTY: 100} and task.score("base").value == 1.0
    assert task.score("file").unusable == "" and task.word == "fail"
    alone = bench({"file": files("file")["file"]}, planted, tasks="world_functions")
    assert "can't be read" in alone.tasks[0].score("file").unusable


def said(result: BenchResult) -> str:
    return "\n".join(bench_grid(result).notes)


def test_the_foot_says_what_was_asked_of_which_file_by_what(files: Any) -> None:
    result = bench(files("file", "base"), toys(file=set(), base=set()), limit=40, ctx=512)
    for role in ("file", "base"):
        assert f"{role}: {role}.gguf, sha256 {result.files[role]['sha256'][:12]}…" in said(result)
    assert "context of at most 512 tokens, by fake 1." in said(result)
    assert "world_facts: the first 40 of 300 questions, acc," in said(result)
    whole = bench(files("file"), toys(file=set()))
    assert "world_facts: all 300 questions" in said(whole) and "--against" in said(whole)
    assert bench_grid(whole).columns == ("task", "file", "items", "score, %") and len(bench_grid(whole).rows[0]) == 4


def test_one_item_has_no_interval_and_that_is_said(files: Any) -> None:
    result = bench(files("file", "base"), toys(file={IDS[0]}, base=set()), limit=1)
    cells = [cell for row in bench_grid(result).rows for cell in row]
    assert not [cell for cell in cells if "?" in cell or "[" in cell] and "nothing" in cells
    assert "world_facts: one item was asked, and one item has no interval" in said(result)
    assert result.word == "too few items to tell"


def test_points_are_differences_and_percent_are_scores(files: Any) -> None:
    text = said(bench(files("file", "base"), toys(file=set(IDS[:60]), base=set())))
    (reason,) = [line for line in text.splitlines() if line.startswith("world_facts, against")]
    assert "-20.00 points" in reason and "margin of 2 points" in reason
    assert re.findall(r"[\d.]+ %", reason) == ["95 %"]


def test_graded_items_are_told_in_points_and_one_of_them_has_no_interval() -> None:
    one, more = ({f"{i}": 0.5 for i in range(n)} for n in (1, 8))
    found = [pair("file", "base", {k: v / 2 for k, v in of.items()}, of, 0.02).gate for of in (one, more)]
    assert (
        found[0] and found[0].word == "too few items to tell" and "one item, which has no interval" in found[0].reason
    )
    assert found[1] and found[1].word == "fail" and "-25.00 points" in found[1].reason


def test_pass_at_k_is_shown_where_it_was_asked_for(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sandbox, "find", lambda unsafe=False: Trusting())
    solutions = {i.about["prompt"]: i.about["canonical_solution"] for i in functions()}
    planted = {"file.gguf": Toy(reply=lambda prompt: solutions[prompt])}
    result = bench(files("file"), planted, tasks="world_functions", samples=3, limit=4)
    assert "world_functions, file: pass@3 100.0 %." in said(result) and "on 4 of 4 items" in said(result)
    assert "pass@" not in said(bench(files("file"), planted, tasks="world_functions", limit=4)).replace("pass@1,", "")


def test_graded_items_are_called_so(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two draws one is right: Wilson's interval isn't that of a mean, and the table has no flips."""
    monkeypatch.setattr(Sandbox, "find", lambda unsafe=False: Trusting())
    solutions, calls = {i.about["prompt"]: i.about["canonical_solution"] for i in functions()}, count()
    planted = {"file.gguf": Toy(reply=lambda prompt: solutions[prompt] if next(calls) % 2 else "    return None")}
    result = bench(files("file"), planted, tasks="world_functions", samples=2, limit=4)
    assert result.tasks[0].score("file").value == 0.5 and "world_functions: items are graded" in said(result)


def test_another_vocabulary_is_warned_of(files: Any) -> None:
    planted = toys(file=set(), base=set(), reference=set())
    planted["base.gguf"].n_vocab = 32_000
    result = bench(files("file", "base", "reference"), planted, limit=10)
    (warning,) = result.facts["warnings"]
    assert "base.gguf (base) has a vocabulary of 32,000 tokens, file.gguf one of 70,000" in warning
    assert f"Warning: {warning}" in said(result) and bench_json(result)["facts"]["warnings"] == [warning]
    assert result.word == "not judged"


def test_a_reference_of_another_vocabulary_leaves_the_gate_to_file_and_base(files: Any) -> None:
    planted = toys(file=set(), base=set(), reference=set())
    planted["reference.gguf"].n_vocab = 32_000
    result = bench(files("file", "base", "reference"), planted)
    assert result.word == "pass" and result.facts["warnings"]


def test_items_of_a_role_that_has_no_file_any_more_are_removed(files: Any, tmp_path: Path) -> None:
    """Of the tasks that were asked now; other tasks' items stay, and so does what isn't ours."""
    made, planted = files("file", "base", "reference"), toys(file=set(), base=set(), reference=set())
    bench(made, planted, out=tmp_path / "out", limit=5)
    folder = tmp_path / "out" / "bench"
    for name in ("world_endings-base.jsonl", "notes.jsonl", "my-world_facts-base.jsonl"):
        (folder / name).write_text("{}\n")
    bench({"file": made["file"], "reference": made["reference"]}, planted, out=tmp_path / "out", limit=5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "my-world_facts-base.jsonl", "notes.jsonl", "world_endings-base.jsonl", "world_facts-file.jsonl", "world_facts-reference.jsonl",
    ]  # fmt: skip


def functions() -> Any:
    return world_task("world_functions", limit=None, render=None, sandbox=Trusting(), n=1).items
