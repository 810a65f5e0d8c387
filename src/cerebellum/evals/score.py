"""From judged items to figures: each file's score, the files paired item by item, and the gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebellum.errors import InputError, RefusedError
from cerebellum.evals.harness_checks import Tally, tally, why_unusable
from cerebellum.evals.items import Item, Judged, Reply, Task
from cerebellum.evals.pairs import Pair, is_binary, pair
from cerebellum.stats.intervals import Interval, mean_interval
from cerebellum.stats.paired import share_interval

#: What a file is in a comparison.
FILE, BASE, REFERENCE = "file", "base", "reference"
PASS, FAIL, TOO_FEW, UNJUDGED = "pass", "fail", "too few items to tell", "not judged"


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as one file was asked it, with the replies and what they were judged."""

    task: Task
    checks: Mapping[str, str]
    replies: Sequence[Sequence[Reply]]
    judged: Sequence[Judged]


@dataclass(frozen=True, slots=True)
class Score:
    """One file's answers to one task. ``value`` is the score, 0 … 1, ``interval`` Wilson's where items are right or wrong.

    ``unusable``: why the score says nothing of the file, or "". ``values``: item → value.
    """

    role: str
    n: int
    value: float
    interval: Interval | None
    metrics: Mapping[str, float]
    spoiled: Tally
    unusable: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's scores by file, the file against each of the others, and the word of its gate: `UNJUDGED` where a score is unusable, ""
    without a base."""

    name: str
    metric: str
    margin: float
    facts: Mapping[str, Any]
    checks: Mapping[str, str]
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    word: str

    def score(self, role: str) -> Score:
        return next(score for score in self.scores if score.role == role)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """``files``: role → name, sha256 and size. ``word``: the gate over all tasks, "" where there is nothing to compare with."""

    files: Mapping[str, Mapping[str, Any]]
    tasks: tuple[TaskResult, ...]
    word: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def refuse_loss(self) -> None:
        """Raises `RefusedError` where a task's gate failed."""
        if lost := [task.name for task in self.tasks if task.word == FAIL]:
            raise RefusedError(
                f"{self.files[FILE]['file']} loses on {', '.join(lost)} against {self.files[BASE]['file']}"
            )


def task_result(name: str, asked: Mapping[str, Asked], margin: float | None) -> TaskResult:
    """Scores and pairs of one task over its files (by role, `FILE` first); ``margin`` None: the task's own."""
    task = asked[FILE].task
    tallies = {role: tally(a.task.items, a.replies, a.judged) for role, a in asked.items()}
    scores = {role: score_of(role, a, tallies) for role, a in asked.items()}
    margin = task.margin if margin is None else margin
    others = [role for role in (BASE, REFERENCE) if role in asked]
    pairs = []
    for role in others:
        gated = role == BASE and not (scores[FILE].unusable or scores[role].unusable)
        pairs.append(pair(FILE, role, scores[FILE].values, scores[role].values, margin if gated else None))
    if len(others) == 2:
        pairs.append(pair(BASE, REFERENCE, scores[BASE].values, scores[REFERENCE].values, None))
    word = next((p.gate.word for p in pairs if p.gate), UNJUDGED if BASE in asked else "")
    return TaskResult(
        name, task.metric, margin, task.facts, asked[FILE].checks, tuple(scores.values()), tuple(pairs), word
    )


def score_of(role: str, asked: Asked, tallies: Mapping[str, Tally]) -> Score:
    """One file's score, and whether it may be used."""
    task, n = asked.task, len(asked.judged)
    names = dict.fromkeys(name for j in asked.judged for name in j.metrics)
    metrics = {m: figure for m in names if (figure := figure_of(asked, m)) is not None}
    values = {i.id: value_of(task, i, j) for i, j in zip(task.items, asked.judged, strict=True)}
    others = [t for other, t in tallies.items() if other != role]
    unusable = why_unusable(tallies[role], others, asked.checks, task.facts.get("shots", 0)) or no_share(
        task.metric, values
    )
    return Score(role, n, metrics[task.metric], interval_of(values), metrics, tallies[role], unusable, values)


def figure_of(asked: Asked, metric: str) -> float | None:
    """A metric over all items; None where it can't be had of these."""
    try:
        value = asked.task.score(metric, [j.metrics[metric] for j in asked.judged if metric in j.metrics])
    except (ValueError, TypeError):
        return None
    return value if math.isfinite(value) else None


def value_of(task: Task, item: Item, judged: Judged) -> float:
    """The item's value of the metric that is the score. Raises `InputError` where that is no number."""
    value = judged.metrics.get(task.metric)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    raise InputError(f"{task.name}, item {item.id}: its {task.metric} is {value!r}, no number; leave the task out")


def no_share(metric: str, values: Mapping[str, float]) -> str:
    """Why values are no shares that points, and a margin in points, can be taken of, or ""."""
    odd = next((value for value in values.values() if not 0.0 <= value <= 1.0), None)
    if odd is None:
        return ""
    return f"{metric} gives an item {odd:.4g}, which is no share from 0 to 1, so that no margin in points fits it"


def interval_of(values: Mapping[str, float]) -> Interval | None:
    """Wilson's interval where items are right or wrong, else that of the mean; None for one item."""
    if is_binary(values):
        return share_interval(sum(v == 1.0 for v in values.values()), len(values))
    return mean_interval(list(values.values())) if len(values) > 1 else None


def gate_of(words: Sequence[str]) -> str:
    """One word over all tasks: a single fail fails; a task that could not be judged, or can't tell, leaves it open; "" where there is
    nothing to compare with."""
    for word in (FAIL, UNJUDGED, TOO_FEW, PASS):
        if word in words:
            return word
    return ""
