"""Benchmarks as a table and in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cerebellum.evals.pairs import is_binary
from cerebellum.evals.score import UNJUDGED
from cerebellum.figures import fixed, significant
from cerebellum.report.grids import Grid, with_limits

if TYPE_CHECKING:
    from cerebellum.evals.pairs import Pair
    from cerebellum.evals.score import BenchResult, Score, TaskResult

_COLUMNS = (
    "task",
    "file",
    "items",
    "score, %",
    "against",
    "lost",
    "gained",
    "change, points",
    "p",
    "could show",
    "gate",
)


def bench_grid(result: BenchResult) -> Grid:
    """A row per task and file, and one per file that it is compared with. Without a comparison its columns are left out."""
    rows = [row for task in result.tasks for score in task.scores for row in _rows(task, score)]
    width = len(_COLUMNS) if _compared(result) else _COLUMNS.index("against")
    return Grid("Benchmarks", _COLUMNS[:width], tuple(row[:width] for row in rows), tuple(_notes(result)))


def short_bench_grid(result: BenchResult) -> Grid:
    """A row per task: each file's score, and the gate."""
    roles = list(dict.fromkeys(score.role for task in result.tasks for score in task.scores))
    rows = tuple(
        (
            task.name,
            *(next((_short_score(s) for s in task.scores if s.role == role), "") for role in roles),
            task.word,
        )
        for task in result.tasks
    )
    return Grid(
        "Benchmarks: score, %", ("task", *roles, "gate"), rows, ("Brackets: 95 % intervals. --wide shows all columns.",)
    )


def _compared(result: BenchResult) -> bool:
    return any(task.pairs for task in result.tasks)


def _rows(task: TaskResult, score: Score) -> list[tuple[str, ...]]:
    pairs = [p for p in task.pairs if p.new == score.role]
    first = task.name if score is task.scores[0] else ""
    head = (first, score.role, str(score.n), _score_cell(score))
    if not pairs:
        return [(*head, "", "", "", "", "", "", "")]
    heads = [head, *[("", "", "", "")] * (len(pairs) - 1)]
    return [(*h, *_pair_cells(p, score, task)) for h, p in zip(heads, pairs, strict=True)]


def _score_cell(score: Score) -> str:
    if score.unusable:
        return "unusable"
    if score.interval is None or score.n == 1:
        return f"{100 * score.value:.1f}"
    return with_limits(score.interval, 100.0, 1, sign=False)


def _short_score(score: Score) -> str:
    """A score in whole percent."""
    if score.unusable or score.interval is None or score.n == 1:
        return _score_cell(score)
    return with_limits(score.interval, 100.0, 0, sign=False)


def _pair_cells(pair: Pair, score: Score, task: TaskResult) -> tuple[str, ...]:
    if score.unusable or task.score(pair.old).unusable:
        return pair.old, "", "", "", "", "", "not judged" if pair.old == "base" else ""
    flips, change = pair.flips, pair.difference
    counts = ("", "", "") if flips is None else (str(flips.lost), str(flips.gained), f"{flips.p_value:.2g}")
    return (
        pair.old,
        counts[0],
        counts[1],
        with_limits(change, 100.0, 2) if score.n > 1 else fixed(100 * change.estimate, sign=True),
        counts[2],
        "nothing" if math.isinf(pair.could_show) else significant(100 * pair.could_show, 2),
        pair.gate.word if pair.gate else "",
    )


def _notes(result: BenchResult) -> list[str]:
    notes = [_file_note(role, about) for role, about in result.files.items()]
    notes += [_ground_note(result.facts)] if "build" in result.facts else []
    notes.append(_legend(_compared(result)))
    if single := [task.name for task in result.tasks if task.scores[0].n == 1]:
        notes.append(f"{', '.join(single)}: one item was asked, and one item has no interval.")
    if graded := [task.name for task in result.tasks if not all(is_binary(s.values) for s in task.scores)]:
        notes.append(
            f"{', '.join(graded)}: items are graded, not right or wrong, so the intervals are the mean's, and no flip is counted."
        )
    notes += [_asked(task) for task in result.tasks]
    notes += bench_lines(result)
    return notes


def _file_note(role: str, about: Mapping[str, Any]) -> str:
    """A file's name and the beginning of its hash; the whole hash is in the JSON report."""
    return f"{role}: {about['file']}" + (f", sha256 {about['sha256'][:12]}…" if "sha256" in about else "")


def _ground_note(facts: Mapping[str, Any]) -> str:
    return f"Asked with a context of at most {facts['settings']['n_ctx']} tokens, by {facts['build']}."


def _legend(compared: bool) -> str:
    if not compared:
        return "Brackets: 95 % intervals, Wilson's. Scores in %. Give --against to learn what was lost or gained."
    return (
        "Brackets: 95 % intervals, of a score Wilson's, of a change Tango's for pairs. Scores in %, changes in points. lost, gained: items "
        "that only the other file, or only this one, got right. p: McNemar's exact test. could show: the smallest change (points) that "
        "these items show four times in five, a smaller one may be there unseen; nothing: so few items can show none."
    )


def _asked(task: TaskResult) -> str:
    facts = task.facts
    how = [_how_many(task), task.metric, f"data {facts['data']}"]
    if facts.get("shots") or "template" in facts:
        how.append(f"{facts.get('shots') or 'no'} examples before each question")
    how += [f"prompts of {facts['template']}"] if "template" in facts else []
    how += ["in the model's own chat template"] if facts.get("chat") else []
    how += [f"{facts['samples']} replies drawn to each"] if facts.get("samples", 1) > 1 else []
    how += [f"chance {100 * facts['chance']:.3g} %"] if facts.get("chance") else []
    if task.checks and not any(task.checks.values()):
        tried = facts.get("self_tested")
        how.append(
            f"{len(task.checks)} self-tests passed" + (f" on {tried['items']} of {tried['of']} items" if tried else "")
        )
    return f"{task.name}: {', '.join(how)}."


def _how_many(task: TaskResult) -> str:
    """All questions, or how many of how many."""
    n, of = task.scores[0].n, task.facts.get("questions", task.scores[0].n)
    if n == of:
        return f"all {n} questions" if n > 1 else "its one question"
    sets = task.facts.get("sets", 1)
    return (
        f"{n} of {of} questions, from {sets} sets in turn"
        if sets > 1
        else f"the first {f'{n} ' if n > 1 else ''}of {of} questions"
    )


def bench_lines(result: BenchResult) -> list[str]:
    """What was found in sentences: each gate with its numbers, what was spoiled, and the word over all."""
    lines = [f"Warning: {warning}" for warning in result.facts.get("warnings", ())]
    for task in result.tasks:
        lines += _more_draws(task)
        for pair in task.pairs:
            if pair.gate:
                lines.append(f"{task.name}, against the {pair.old}: {pair.gate.word}. {pair.gate.reason}")
        for score in task.scores:
            lines += _spoiled(task, score)
    if result.word:
        left = [task.name for task in result.tasks if task.word in ("", UNJUDGED)]
        lines.append(f"Gate over all tasks: {result.word}." + (f" Not judged: {', '.join(left)}." if left else ""))
    if "sandbox" in result.facts:
        lines.append(f"What the files wrote was run in: {result.facts['sandbox']}.")
    return lines


def _more_draws(task: TaskResult) -> list[str]:
    """Of several draws: the chance that one of k is right, for the k other than the score's."""
    lines = []
    for score in task.scores:
        told = [f"{k} {100 * v:.1f} %" for k, v in score.metrics.items() if k.startswith("pass@") and k != task.metric]
        if told and not score.unusable:
            lines.append(f"{task.name}, {score.role}: {', '.join(told)}.")
    return lines


def _spoiled(task: TaskResult, score: Score) -> list[str]:
    if score.unusable:
        return [f"{task.name}, {score.role}: unusable, {score.unusable}."]
    lines = []
    if score.spoiled.counts:
        problems = ", ".join(f"{name}: {n}" for name, n in score.spoiled.counts.items())
        lines.append(f"{task.name}, {score.role}: of {score.n} items {problems}.")
    chance = task.facts.get("chance")
    if chance and score.interval is not None and not score.interval.excludes(chance):
        lines.append(
            f"{task.name}, {score.role}: not told from guessing ({100 * chance:.3g} %): the questions are beyond it, or too few."
        )
    return lines
