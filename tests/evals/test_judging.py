"""Verdicts of programs that were run are kept: a finished benchmark runs nothing again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cerebellum.evals.code import CodeTask, code_item
from cerebellum.evals.items import Reply
from cerebellum.progress import Silent
from cerebellum.study.store import Study
from cerebellum.verbs.judging import judge_all

REPLIES = [[Reply(text="    return 1\n", ended="stop")], [Reply(text="    return 2\n", ended="stop")]]


@dataclass
class Counting:
    """A sandbox that says what it is told to, and counts; ``name`` is what it is."""

    says: dict[str, str] = field(default_factory=dict)
    name: str = "box"
    n: int = 0

    def run(self, source: str, tests: str, entry_point: str) -> Any:
        self.n += 1
        reason = self.says.get(entry_point, "")
        return SimpleNamespace(passed=not reason, reason=reason or "passed")

    def describe(self) -> str:
        return self.name


def task(box: Counting) -> CodeTask:
    rows = [
        {"task_id": f"t/{i}", "prompt": f"def f{i}():\n", "test": "def check(c): pass", "entry_point": f"f{i}"}
        for i in range(2)
    ]
    items = [code_item(row, row["prompt"], stop=(), max_tokens=9, n=1, chat=False) for row in rows]
    return CodeTask("t", items, box)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with Study.open(tmp_path / "study.sqlite") as opened:
        yield opened


def test_what_was_judged_is_not_run_again(study: Study) -> None:
    box = Counting({"f1": "assertion"})
    first = judge_all(study, task(box), REPLIES, "t", Silent())
    assert box.n == 2 and [j.metrics["pass@1"] for j in first] == [1.0, 0.0]
    assert judge_all(study, task(box), REPLIES, "t", Silent()) == first and box.n == 2


def test_another_reply_or_sandbox_is_run(study: Study) -> None:
    judge_all(study, task(Counting()), REPLIES, "t", Silent())
    for box, replies in ((Counting(name="other"), REPLIES), (Counting(), [REPLIES[1], REPLIES[0]])):
        judge_all(study, task(box), replies, "t", Silent())
        assert box.n == 2


@pytest.mark.parametrize("reason", ["timeout", "memory", "killed", "no verdict: gone"])
def test_what_another_run_may_not_meet_is_run_again(study: Study, reason: str) -> None:
    box = Counting({"f1": reason})
    judge_all(study, task(box), REPLIES, "t", Silent())
    judge_all(study, task(box), REPLIES, "t", Silent())
    assert box.n == 3


def test_a_damaged_fact_judges_anew(study: Study) -> None:
    box = Counting()
    first = judge_all(study, task(box), REPLIES, "t", Silent())
    (name,) = (row[0] for row in study._rows("SELECT name FROM fact WHERE name LIKE 'judged %'"))
    study.set_fact(name, {"x": [1], "y": {"metrics": {}}})
    assert judge_all(study, task(box), REPLIES, "t", Silent()) == first and box.n == 4
