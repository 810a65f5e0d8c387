"""How questions are answered and scored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binomtest

from cerebellum import bundled
from testbed import questions, tasks
from testbed.runner import MAX_BRANCHES, Runner, log_softmax

ROW = {
    "prompt": 'def add_2(x):\n    """Add 2 to x."""',
    "test": "def check(candidate):\n    assert candidate(3) == 5\n",
    "entry_point": "add_2",
}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """The bundled model, opened."""
    with Runner(bundled.MODEL, n_ctx=512, threads=1) as opened:
        yield opened


def test_right_function_passes() -> None:
    """A right completion, and one that is right in other words."""
    assert tasks.runs(ROW, "\n    return x + 2\n")
    assert tasks.runs(ROW, "\n    y = 2\n    return y + x")


@pytest.mark.parametrize(
    "body", ["\n    return x + 3\n", "\n    return", "\n    retrun x + 2", "", "\n    raise SystemExit(0)"]
)
def test_wrong_function_fails(body: str) -> None:
    """Wrong results, none, bad syntax, an empty completion (the docstring alone is a function), an exit."""
    assert not tasks.runs(ROW, body)


def test_endless_function_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop without end is stopped and counts as failed."""
    monkeypatch.setattr(tasks, "LIMIT_SECONDS", 1)
    assert not tasks.runs(ROW, "\n    while True:\n        pass")


@pytest.mark.parametrize(("passed", "of"), [(0, 10), (10, 10), (3, 10), (291, 300), (89, 100), (1, 1)])
def test_wilson_is_scipys(passed: int, of: int) -> None:
    """The interval equals scipy's."""
    expected = binomtest(passed, of).proportion_ci(0.95, "wilson")
    assert tasks.wilson(passed, of) == pytest.approx((expected.low, expected.high), abs=1e-7)


@pytest.mark.engine
def test_branches_are_separate_runs(runner: Runner) -> None:
    """Options scored in one decode, with the prompt shared, get the scores of decodes of their own."""
    for row in questions.ending_questions(5):
        options = [f" {ending}" for ending in row["endings"]]
        prompt = runner.tokenize(row["context"])
        alone = []
        for option in options:
            tokens = runner.tokenize(row["context"] + option)
            log_p = log_softmax(runner.logits(tokens))
            alone.append(sum(log_p[i - 1, tokens[i]] for i in range(len(prompt), len(tokens))))
        assert len(options) == MAX_BRANCHES
        assert tasks.log_likelihoods(runner, row["context"], options) == pytest.approx(alone, abs=0.02)


@pytest.mark.engine
def test_greedy_text_does_not_depend_on_its_past(runner: Runner) -> None:
    """Token by token gives what one decode of prompt and text would choose, and earlier prompts leave no trace."""
    prompt = runner.tokenize(questions.function_questions(1)[0]["prompt"])
    text = runner.greedy(prompt, 40, "\n\n")
    runner.greedy(runner.tokenize("The home of"), 8, "\n\n")
    assert runner.greedy(prompt, 40, "\n\n") == text
    whole = prompt + runner.tokenize(text, bos=False)
    best = runner.logits(whole).argmax(1)
    assert best[len(prompt) - 1 : -1].tolist() == whole[len(prompt) :]


@pytest.mark.engine
def test_an_option_that_merges_is_refused(runner: Runner) -> None:
    """Where the last token of the context would swallow the option's first letters, scores would mean something else."""
    with pytest.raises(ValueError, match="merges with the end"):
        tasks.log_likelihoods(runner, "The pet of Mira Frost is a goo", ["se", "d"])


@pytest.mark.engine
def test_too_many_tokens_are_an_error(runner: Runner) -> None:
    """More than the context holds is refused before llama.cpp aborts the process."""
    with pytest.raises(ValueError, match="600 tokens do not fit a context of 512"):
        runner.logits(np.full(600, 5).tolist())
