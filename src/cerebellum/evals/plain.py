"""The result of a benchmark as plain data."""

from __future__ import annotations

from typing import Any

from cerebellum.evals.score import BenchResult
from cerebellum.scoring.summary import as_json


def bench_json(result: BenchResult) -> dict[str, Any]:
    """The result as plain data; the items are in ``bench/``."""
    tasks = []
    for task in result.tasks:
        scores = [{k: v for k, v in as_json(score).items() if k != "values"} for score in task.scores]
        tasks.append(
            {
                "task": task.name, "metric": task.metric, "margin": task.margin, "gate": task.word or None, "facts": as_json(task.facts),
                "self_tests": as_json(task.checks), "scores": scores, "pairs": [as_json(p) for p in task.pairs],
            }
        )  # fmt: skip
    return {"files": as_json(result.files), "gate": result.word or None, "tasks": tasks, "facts": as_json(result.facts)}
