"""Questions with given answers: the likeliest is chosen, by the sum of its tokens' log-probabilities or that per character or byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebellum.errors import EngineError
from cerebellum.evals.items import Item, Judged, Likely, Reply

#: Share of the items that a file may lose on questions with given answers: two points.
MARGIN = 0.02


def likeliest(replies: Sequence[Reply], lengths: Sequence[float] | None = None) -> int:
    """Index of the largest log-probability (per unit of ``lengths``), the first of equals. Raises `EngineError` for a NaN."""
    scores = [r.nats / n for r, n in zip(replies, lengths or [1.0] * len(replies), strict=True)]
    if not all(map(math.isfinite, scores)):
        raise EngineError(f"a log-likelihood of {scores} is no number: the model or its quantization is broken")
    return scores.index(max(scores))


def choice_item(
    number: str, context: str, options: Sequence[str], gold: int, *, delimiter: str = " ", chat: bool = False
) -> Item:
    """A question whose answers are ``delimiter`` and each of ``options``; ``gold`` is the index of the right one."""
    requests = tuple(Likely(context, delimiter + option, chat) for option in options)
    return Item(number, requests, {"options": list(options), "gold": gold})


@dataclass(frozen=True)
class ChoiceTask:
    """See `cerebellum.evals.items.Task`. ``metric`` is "acc" (sums) or "acc_norm" (per byte of the option and the space before it)."""

    name: str
    metric: str
    items: Sequence[Item]
    facts: Mapping[str, Any] = field(default_factory=dict)
    margin: float = MARGIN

    def judge(self, item: Item, replies: Sequence[Reply]) -> Judged:
        gold, options = item.about["gold"], [r.continuation for r in item.requests if isinstance(r, Likely)]
        by_sum, by_byte = likeliest(replies), likeliest(replies, [len(option.encode()) for option in options])
        chosen = by_sum if self.metric == "acc" else by_byte
        return Judged({"acc": float(by_sum == gold), "acc_norm": float(by_byte == gold)}, chosen)

    def score(self, metric: str, values: Sequence[Any]) -> float:
        return mean(values)

    def check(self) -> Mapping[str, str]:
        return check_choices(self.items, self.judge, self.metric)


def mean(values: Sequence[Any]) -> float:
    """Sum, then one division."""
    return math.fsum(float(v) for v in values) / len(values)


def check_choices(
    items: Sequence[Item], judge: Callable[[Item, Sequence[Reply]], Judged], metric: str
) -> dict[str, str]:
    """Answers made up so that the key's option is surely the likeliest must be right on every item, any other wrong."""
    wrong, lucky = [], []
    for item in items:
        n, gold = len(item.requests), item.about["gold"]
        if not (isinstance(gold, int) and 0 <= gold < n):
            wrong.append(item.id)
            continue
        if judge(item, _favouring(gold, n)).metrics[metric] != 1:
            wrong.append(item.id)
        if n > 1 and judge(item, _favouring((gold + 1) % n, n)).metrics[metric] != 0:
            lucky.append(item.id)
    return {
        "the key's answer is judged right": _named(wrong, len(items)),
        "another answer is judged wrong": _named(lucky, len(items)),
    }


def _favouring(index: int, n: int) -> list[Reply]:
    """Replies among which ``index`` is the likeliest, whatever they are divided by."""
    return [Reply(nats=-1e-9 if i == index else -1e9, greedy=i == index, n_tokens=1) for i in range(n)]


def _named(ids: Sequence[str], n: int) -> str:
    return f"{len(ids)} of {n} items aren't, {ids[0]} for example" if ids else ""
