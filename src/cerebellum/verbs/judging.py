"""Replies judged, each once: what running a program said is kept in the study, so that a finished benchmark runs nothing again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from cerebellum import __version__
from cerebellum.cores import n_cores
from cerebellum.evals.code import CodeTask
from cerebellum.evals.items import Item, Judged, Reply, Task, Write
from cerebellum.keys import content_key
from cerebellum.progress import Progress, Silent
from cerebellum.study.store import Study

#: What a verdict depends on that another run may not meet: it isn't kept.
_PASSING = ("timeout", "memory", "killed", "no verdict")


def judge_all(
    study: Study, task: Task, replies: Sequence[Sequence[Reply]], what: str, progress: Progress
) -> list[Judged]:
    """Every item judged; what was written has to be run, which takes a while, so that is shown, and kept."""
    shown = any(isinstance(request, Write) for item in task.items for request in item.requests)
    progress = progress if shown else Silent()
    keys = keys_of(task, replies) if isinstance(task, CodeTask) else []
    name = f"judged {content_key('task', keys)}"
    known = kept_verdicts(study, name) if keys else {}
    done = {i: known[key] for i, key in enumerate(keys) if key in known}
    left = [i for i in range(len(task.items)) if i not in done]
    progress.begin(f"judging {what}", len(task.items), len(done))
    try:
        with ThreadPoolExecutor(n_cores()) as pool:  # boxes side by side; the harness's tasks want the main thread
            run: Any = pool.map if isinstance(task, CodeTask) else map
            parts = ([task.items[i] for i in left], [replies[i] for i in left])
            for i, judged in zip(left, run(task.judge, *parts), strict=True):
                done[i] = judged
                progress.step()
        if keys and left:
            study.set_fact(name, {keys[p]: asdict(j) for p, j in done.items() if is_lasting(j)})
        return [done[i] for i in range(len(task.items))]
    finally:
        progress.end()


def keys_of(task: CodeTask, replies: Sequence[Sequence[Reply]]) -> list[str]:
    """A key an item, of all that its verdict depends on: the item, the replies, the sandbox, what judges and runs."""
    key = {"task": task.name, "sandbox": task.sandbox.describe(), "python": sys.version, "cerebellum": __version__}
    return [
        content_key("verdict", {**key, "item": _plain(item), "replies": [reply.text for reply in each]})
        for item, each in zip(task.items, replies, strict=True)
    ]


def _plain(item: Item) -> dict[str, Any]:
    return {"id": item.id, "about": {name: str(value) for name, value in item.about.items()}}


def kept_verdicts(study: Study, name: str) -> dict[str, Judged]:
    """The verdicts of a fact of the study, by key; nothing where there is none."""
    kept = study.fact(name)
    if not isinstance(kept, Mapping):
        return {}
    fields = {"metrics", "chosen", "problem", "detail"}
    return {key: Judged(**value) for key, value in kept.items() if isinstance(value, dict) and value.keys() == fields}


def is_lasting(judged: Judged) -> bool:
    """Whether another run would judge the same: nothing ran out of time or memory."""
    return not any(word in judged.detail for word in _PASSING)
