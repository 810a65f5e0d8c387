"""Every item of a file as a line of JSON: what was asked, what was replied, how it was judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cerebellum.evals.items import Item, Judged, Likely, Reply, Rolling, Task
from cerebellum.evals.score import Asked, value_of


def item_lines(asked: Asked, file: Mapping[str, Any]) -> str:
    """One JSON object an item: of which file (name, sha256), what was asked, what was replied, how it was judged."""
    rows = zip(asked.task.items, asked.replies, asked.judged, strict=True)
    lines = ({**file, **item_row(asked.task, *row)} for row in rows)
    return "".join(json.dumps(line, ensure_ascii=False, default=as_plain) + "\n" for line in lines)


def as_plain(value: Any) -> Any:
    """What the harness's tasks may give that JSON has no word for: numpy's numbers and arrays as theirs, anything else as its text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def item_row(task: Task, item: Item, replies: Sequence[Reply], judged: Judged) -> dict[str, Any]:
    """An item as plain data."""
    first = item.requests[0]
    asked = {
        "prompt": first.context
        if isinstance(first, Likely)
        else first.text
        if isinstance(first, Rolling)
        else first.prompt
    }
    gold = {name: item.about[name] for name in ("options", "gold") if name in item.about}
    answers = [
        {"nats": r.nats, "n_tokens": r.n_tokens} if isinstance(first, Likely) else reply_text(r) for r in replies
    ]
    flags = sorted({flag for reply in replies for flag in reply.flags})
    return {
        "id": item.id, "value": value_of(task, item, judged), "metrics": dict(judged.metrics), "chosen": judged.chosen,
        **gold, "problems": [*flags, *([judged.problem] if judged.problem else [])], "detail": judged.detail, **asked, "replies": answers,
    }  # fmt: skip


def reply_text(reply: Reply) -> dict[str, Any]:
    """What was written, or how likely a text was."""
    if reply.ended:
        return {"text": reply.text, "n_tokens": reply.n_tokens, "ended": reply.ended}
    return {"nats": reply.nats, "n_tokens": reply.n_tokens}
