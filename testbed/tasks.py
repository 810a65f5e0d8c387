"""The question sets, answered in llama.cpp: each function takes a set's items and says which were passed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from testbed.documents import LETTERS, letter_question
from testbed.runner import Runner

LIMIT_SECONDS = 10
MAX_NEW_TOKENS = 64
Row = dict[str, Any]
Passed = list[bool]


def log_likelihoods(runner: Runner, context: str, options: list[str]) -> list[float]:
    """Nats of each option after ``context``. Raises `ValueError` where the tokens of both together are not those of each."""
    prompt = runner.tokenize(context)
    whole = [runner.tokenize(context + option) for option in options]
    if any(tokens[: len(prompt)] != prompt for tokens in whole):
        raise ValueError(f"an option merges with the end of {context[-40:]!r}")
    return runner.branches(prompt, [tokens[len(prompt) :] for tokens in whole])


def facts(runner: Runner, rows: list[Row]) -> Passed:
    """The likeliest of the four answers as text, in sum: most of them are a few letters and the question asks for one."""
    ask = "Question: {}\nAnswer:"
    scores = [log_likelihoods(runner, ask.format(r["question"]), [f" {c}" for c in r["choices"]]) for r in rows]
    return [int(np.argmax(s)) == r["answer"] for s, r in zip(scores, rows, strict=True)]


def letters(runner: Runner, rows: list[Row]) -> Passed:
    """The same questions with the options shown, answered by letter."""
    options = [f" {letter}" for letter in LETTERS]
    scores = [log_likelihoods(runner, letter_question(r["question"], r["choices"]), options) for r in rows]
    return [int(np.argmax(s)) == r["answer"] for s, r in zip(scores, rows, strict=True)]


def endings(runner: Runner, rows: list[Row]) -> Passed:
    """The likeliest of four endings per byte, so that a short one has no advantage."""
    passed = []
    for row in rows:
        options = [f" {ending}" for ending in row["endings"]]
        scores = log_likelihoods(runner, row["context"], options)
        each = [score / len(option.encode()) for score, option in zip(scores, options, strict=True)]
        passed.append(int(np.argmax(each)) == row["label"])
    return passed


def functions(runner: Runner, rows: list[Row]) -> Passed:
    """Functions completed greedily, up to an empty line, and run against their tests."""
    return [runs(row, runner.greedy(runner.tokenize(row["prompt"]), MAX_NEW_TOKENS, "\n\n")) for row in rows]


def runs(row: Row, body: str) -> bool:
    """Whether prompt and ``body`` pass the item's tests, in a process of their own that may take `LIMIT_SECONDS`.

    The process must come to its last line: leaving early with status 0 is not passing.
    """
    program = f"{row['prompt']}{body}\n\n{row['test']}\ncheck({row['entry_point']})\nprint('passed', end='')\n"
    command = [sys.executable, "-I", "-S", "-c", program]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout == b"passed"


#: Name → how to answer, which set it asks, what guessing gives.
TASKS: dict[str, tuple[Callable[[Runner, list[Row]], Passed], str, float]] = {
    "facts": (facts, "facts", 0.25),
    "facts by letter": (letters, "facts", 0.25),
    "endings": (endings, "endings", 0.25),
    "functions": (functions, "functions", 0.0),
}


def wilson(passed: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    share, weight = passed / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)
