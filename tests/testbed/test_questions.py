"""The question sets: one right answer each, held out of the training text, and function tests that tell right from wrong."""

from __future__ import annotations

import doctest
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from testbed import questions
from testbed.documents import function_in_training, stories, text_of
from testbed.snippets import FAMILIES, Snippet, snippet
from testbed.world import facts_of

TRAINING = text_of("train", 2_000_000, chat=True)
EVERY = [(family, k) for family in FAMILIES for k in family.parameters]


def asked(row: questions.Row) -> Any:
    """The fact that a question is about."""
    return next(
        f for facts in facts_of().values() for f in facts if row["question"] in [a.format(n=f.subject) for a in f.asks]
    )


@pytest.mark.parametrize("held_out", [True, False])
def test_facts_have_one_right_answer(held_out: bool) -> None:
    """Four different choices, and only the marked one is true."""
    rows = questions.fact_questions(held_out=held_out)
    assert len({row["question"] for row in rows}) == len(rows) == questions.FACTS
    for row in rows:
        assert len(set(row["choices"])) == 4
        assert [choice == asked(row).value for choice in row["choices"]].index(True) == row["answer"]


@pytest.mark.parametrize("held_out", [True, False])
def test_endings_have_one_right_answer(held_out: bool) -> None:
    """Four different endings, the marked one is the story's, and its two people have different first names."""
    rows = questions.ending_questions(held_out=held_out)
    assert len(rows) == questions.ENDINGS
    assert all(len(set(row["endings"])) == 4 for row in rows)
    if not held_out:
        assert all(f"{row['context']} {row['endings'][row['label']]}" in TRAINING for row in rows)


def test_a_story_of_two_people_with_one_name_is_not_asked() -> None:
    """Such stories occur, and `clear` finds them: "Mira went home with the cup, and Mira …" has two right endings."""
    unclear = {story.beginning for story in islice(stories("train"), 1_000) if not story.clear}
    assert unclear
    assert unclear.isdisjoint(row["context"] for row in questions.ending_questions(held_out=False))


def test_answers_stand_everywhere() -> None:
    """No place is right much more often than one time in four."""
    for rows, key in ((questions.fact_questions(), "answer"), (questions.ending_questions(), "label")):
        counts = [sum(row[key] == place for row in rows) for place in range(4)]
        assert min(counts) > len(rows) / 4 * 0.7


def test_nothing_held_out_is_in_the_training_text() -> None:
    """No question, story or function of the held-out sets in 2 MB of training text; `testbed.bundle` searches all of it."""
    assert questions.leaks(TRAINING) == []


@pytest.mark.parametrize("name", ["facts", "endings", "functions"])
def test_a_leak_would_be_found(name: str) -> None:
    """An item of each set, put into a text, is reported: the test above can fail."""
    row = questions.sets()[name][7]
    planted = row.get("question") or row.get("context") or row["prompt"]
    assert len(questions.leaks(f"{TRAINING[:1000]}\n\n{planted}\n\n{TRAINING[1000:2000]}")) == 1


def test_seen_questions_are_in_the_training_text() -> None:
    """The seen sets ask what training asks: most of their facts and functions are met in the first twelfth of its text."""
    functions = [f"def {row['entry_point']}(" in TRAINING for row in questions.function_questions(held_out=False)]
    facts = [row["question"] in TRAINING for row in questions.fact_questions(held_out=False)]
    assert sum(functions) > 0.9 * len(functions)
    assert sum(facts) > 0.5 * len(facts)


def test_prompts_are_cut_where_tokens_are() -> None:
    """A function's prompt ends with its docstring; the line break belongs to the solution, as one token with the indentation."""
    for row in questions.function_questions():
        assert row["prompt"].endswith('"""')
        assert row["canonical_solution"].startswith("\n    return ")


@dataclass(frozen=True)
class Made:
    """A family's function as it is written in the text, with its test; both are run, not what made them."""

    item: Snippet
    function: Callable[..., Any]
    check: Callable[[Callable[..., Any]], None]

    def passed_by(self, function: Callable[..., Any]) -> bool:
        """Whether ``function`` passes this one's test."""
        try:
            self.check(function)
        except Exception:  # a wrong function may fail in any way
            return False
        return True


@pytest.fixture(scope="module")
def made() -> list[Made]:
    """Every function of every family, with the examples of one seed."""
    out = []
    for family, k in EVERY:
        item = snippet(family, k, random.Random(f"{family.stem}/{k}"))
        room: dict[str, Any] = {}
        exec(item.text + item.test, room)
        out.append(Made(item, room[item.name], room["check"]))
    return out


def test_canonical_solutions_pass(made: list[Made]) -> None:
    """Every function of every family passes its own test, and so do the doctests of its prompt."""
    for one in made:
        assert one.passed_by(one.function)
        tests = doctest.DocTestFinder().find(one.function, one.item.name, globs={one.item.name: one.function})
        assert doctest.DocTestRunner(verbose=False).run(tests[0]) == (0, 2)


def test_every_other_function_fails(made: list[Made]) -> None:
    """No function passes another one's test, whatever its family or number, unless the two are the same function."""
    same = {
        frozenset({"start", "first"}),
        frozenset({"repeat", "times"}),
    }  # of letters or numbers, of a word or a number
    confused = [(a.item.key, b.item.key) for a in made for b in made if a is not b and a.passed_by(b.function)]
    assert [pair for pair in confused if frozenset(key.split("/")[0] for key in pair) not in same] == []


@pytest.mark.parametrize("answer", [None, True, False, 0, 1, [], ""])
def test_constant_answers_fail(made: list[Made], answer: Any) -> None:
    """A function that always says the same passes no test."""
    assert not any(one.passed_by(lambda *_: answer) for one in made)


def test_echoing_the_argument_fails(made: list[Made]) -> None:
    """A function that gives back what it got passes no test."""
    assert not any(one.passed_by(lambda *given: given[0]) for one in made)


def test_held_out_functions_are_not_trained_on() -> None:
    """The rule that keeps functions out of training is the one that chooses them for the set."""
    held = {f"{family.stem}_{k}" for family, k in EVERY if not function_in_training(family, k)}
    assert {row["entry_point"] for row in questions.function_questions()} <= held


def test_sets_are_written_and_read(tmp_path: Path) -> None:
    """The files hold the held-out sets, one item a line."""
    questions.write(tmp_path)
    assert {path.stem: questions.read(path) for path in tmp_path.glob("*.jsonl")} == questions.sets()
