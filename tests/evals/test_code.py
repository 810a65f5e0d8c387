"""Functions to write: replies are made programs and run, spoiled replies are told from wrong ones, pass@k is unbiased."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from cerebellum.evals.code import N_CHECKED, TEMPERATURE, CodeTask, code_item, sizes, spread
from cerebellum.evals.items import EMPTY, UNFINISHED, UNPARSABLE, Item, Reply, Write
from cerebellum.stats.paired import pass_at_k

ROW = {
    "task_id": "T/1",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    "entry_point": "double",
}


@dataclass(frozen=True)
class Outcome:
    passed: bool
    reason: str


class Trusting:
    """Runs programs in this process: the tests' own are harmless."""

    def __init__(self) -> None:
        self.n_run = 0

    def run(self, source: str, tests: str, entry_point: str) -> Outcome:
        self.n_run += 1
        names: dict[str, Any] = {}
        try:
            exec(f"{source}\n{tests}\ncheck({entry_point})", names)
        except Exception as error:
            return Outcome(False, type(error).__name__)
        return Outcome(True, "passed")

    def describe(self) -> str:
        return "this very process"


def item(n: int = 1, *, chat: bool = False, **changes: Any) -> Item:
    return code_item({**ROW, **changes}, ROW["prompt"], stop=("\n\n",), max_tokens=64, n=n, chat=chat)


def task(*items: Item) -> CodeTask:
    return CodeTask("t", items or (item(),), Trusting())


@pytest.mark.parametrize(
    ("text", "passes", "problem"),
    [
        ("    return 2 * x", 1.0, ""),
        ("    return x + x + 1", 0.0, ""),
        ("    return (", 0.0, None),
        ("", 0.0, EMPTY),
        ("  \n", 0.0, EMPTY),
    ],
)
def test_a_reply_is_right_wrong_or_empty(text: str, passes: float, problem: str | None) -> None:
    found = task().judge(item(), [Reply(text=text)])
    assert found.metrics == {"pass@1": passes}
    assert problem is None or found.problem == problem


def test_a_chat_reply_without_code_is_unparsable() -> None:
    found = task().judge(item(chat=True), [Reply(text="I would rather not write any.")])
    assert (found.metrics["pass@1"], found.problem) == (0.0, UNPARSABLE)


RIGHT, DRAFT = "```python\ndef double(x):\n    return 2 * x\n```", "```python\ndef double(x):\n    return 3 * x\n```"


@pytest.mark.parametrize(
    ("text", "passes", "problem"),
    [
        (f"<think>{DRAFT}</think>{RIGHT}", 1.0, ""),
        (f"<think>{RIGHT}</think>{DRAFT}", 0.0, ""),
        (f"{DRAFT}</reasoning>{RIGHT}", 1.0, ""),
        (f"<think>{RIGHT}", 0.0, UNFINISHED),
        (f"<think>{RIGHT}</think>", 0.0, EMPTY),
    ],
)
def test_a_draft_is_not_run(text: str, passes: float, problem: str) -> None:
    """Only what stands after the reasoning; reasoning that never ends is counted apart."""
    found = task().judge(item(chat=True), [Reply(text=text)])
    assert (found.metrics["pass@1"], found.problem) == (passes, problem)


def test_one_reply_is_greedy_and_several_are_drawn_with_seeds_of_their_own() -> None:
    (greedy,) = item(1).requests
    drawn = item(3).requests
    assert isinstance(greedy, Write) and greedy.temperature == 0.0
    assert [r.sample for r in drawn if isinstance(r, Write) and r.temperature == TEMPERATURE] == [0, 1, 2]


def test_pass_at_k_comes_from_all_draws() -> None:
    texts = ["    return 2 * x"] * 3 + ["    return x"] * 9
    found = task().judge(item(12), [Reply(text=t) for t in texts])
    assert found.metrics == {f"pass@{k}": pass_at_k(12, 3, k) for k in (1, 10, 12)} and found.chosen == "3 of 12"
    assert sizes(1) == [1] and sizes(100) == [1, 10, 100]


def test_an_item_is_spoiled_only_where_all_its_draws_are() -> None:
    assert task().judge(item(2), [Reply(text=""), Reply(text="    return x")]).problem == ""
    assert task().judge(item(2), [Reply(text=""), Reply(text=" ")]).problem == EMPTY


def test_the_self_test_runs_the_tasks_own_solutions_plain_and_in_a_chat() -> None:
    assert set(task().check().values()) == {""}
    said = task(item(), item(canonical_solution="    return 3 * x\n")).check()
    assert (
        said["the task's own solutions pass"]
        and said["and in a chat's code block"]
        and not said["an empty reply fails"]
    )


def test_the_self_test_is_spread_over_the_set_and_says_of_how_many() -> None:
    """What is wrong at the end of a set isn't missed because its beginning is sound."""
    items = [item(task_id=f"T/{n}") for n in range(100)]
    items[-1] = item(task_id="T/99", canonical_solution="    return 3 * x\n")
    found = task(*items)
    assert found.facts["self_tested"] == {"items": N_CHECKED, "of": 100}
    assert "1 of 12 don't, T/99" in found.check()["the task's own solutions pass"]
    ids = [int(i.id[2:]) for i in spread(items, N_CHECKED)]
    assert ids[0] == 0 and {b - a for a, b in pairwise(ids)} == {9} and spread(items[:5], 12) == items[:5]


def test_the_self_test_notices_a_sandbox_that_passes_everything() -> None:
    class Blind(Trusting):
        def run(self, source: str, tests: str, entry_point: str) -> Outcome:
            return Outcome(True, "passed")

    emptied = item(prompt="def double(x):\n    return 1\n")
    assert CodeTask("t", [emptied], Blind()).check()["a wrong solution fails"]


def test_the_self_test_notices_lost_indentation() -> None:
    class Flat(Trusting):
        def run(self, source: str, tests: str, entry_point: str) -> Outcome:
            return super().run("\n".join(line.strip() for line in source.splitlines()), tests, entry_point)

    assert CodeTask("t", [item()], Flat()).check()["the task's own solutions pass"]
