"""Which metric of a lm-evaluation-harness task is the score.

Files are paired item by item, and the gate asks for what is lost. So the score is the first metric of the task that is a mean of one number
an item (a share from 0 to 1), of which more is better. What exists over all items only (Matthews' correlation, F1, BLEU, chrF, TER,
perplexities) has no item to pair, and less of an error isn't a loss: a task with nothing else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cerebellum.errors import InputError

INSTEAD = "cerebellum lm-eval run --model cerebellum --tasks {} gives the harness's own score of a file"


def metric_of(name: str, tasks: Sequence[Any]) -> str:
    """The first metric that can be the score in each of a task's or group's task objects. Raises `InputError` for none."""
    usable = [paired(task) for task in tasks]
    if common := [metric for metric in usable[0] if all(metric in of_one for of_one in usable[1:])]:
        return common[0]
    if all(usable):
        raise InputError(f"the tasks of {name} have no metric in common; name them one by one: {_some(tasks)}")
    odd = tasks[usable.index([])]
    inside = f"{name} ({odd.config.task})" if len(tasks) > 1 else name
    raise refusal(inside, odd)


def refusal(name: str, task: Any, metrics: Mapping[str, Any] | None = None) -> InputError:
    """That no metric of a task can be the score, and what to do; ``metrics``: what they were for an item."""
    names = dict.fromkeys([*task.aggregation(), *(metrics or {})])
    known = (
        ", ".join(f"{metric} ({why_not(task, metric) or _odd(metric, metrics or {})})" for metric in names) or "none"
    )
    return InputError(
        f"{name} has no metric that is a mean of shares from 0 to 1 over its items, of which more is better, so two files can't be paired "
        f"on it: {known}. " + INSTEAD.format(name.partition(" ")[0])
    )


def _odd(metric: str, metrics: Mapping[str, Any]) -> str:
    return f"{str(metrics[metric])[:40]} for an item" if metric in metrics else "not given for an item"


def paired(task: Any) -> list[str]:
    """Metrics of one task object that are said to be means of which more is better, in its order."""
    return [metric for metric in task.aggregation() if not why_not(task, metric)]


def why_not(task: Any, metric: str) -> str:
    """Why a metric can't be the score by what its task says of it, or ""."""
    from lm_eval.api import metrics

    if task.aggregation().get(metric) not in (metrics.mean, np.mean):
        return "over all items only"
    return "" if task.higher_is_better().get(metric) is True else "less is better"


def settled(name: str, wanted: str, judged: Sequence[tuple[Any, Mapping[str, Any]]]) -> str:
    """``wanted``, or where the judgement of an item of each task object has no share of that name (a function may give several of other
    names, another percent), the first that all have. ``judged``: (task object, an item's metrics). Raises `InputError` for none."""
    for metric in (wanted, *paired(judged[0][0])):
        odd = [of_one for of_one in judged if not is_share(of_one[1].get(metric))]
        if not odd:
            return metric
    raise refusal(name, *odd[0])


def is_share(value: Any) -> bool:
    """Whether an item's value can be averaged, and a margin in points be taken of it."""
    return isinstance(value, float | int | np.floating | np.integer | np.bool_) and bool(0.0 <= float(value) <= 1.0)


def _some(tasks: Sequence[Any]) -> str:
    names = [str(task.config.task) for task in tasks]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
