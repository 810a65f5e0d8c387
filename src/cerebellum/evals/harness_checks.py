"""Faults of the harness that can spoil a score: cut prompts, answers that merge with their prompt, replies that can't be read.

A wrong answer counts against the model. These don't: they are counted apart, and where they are many the score is unusable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cerebellum.evals.items import AMBIGUOUS, OF_THE_PROMPT, OF_THE_REPLY, TRUNCATED, Item, Judged, Likely, Reply

#: Share of the items that may be spoiled.
TOLERATED = 0.05


@dataclass(frozen=True, slots=True)
class Tally:
    """Of ``n`` items: how many had each problem, and how many any of the prompt's or of the reply's."""

    n: int
    counts: Mapping[str, int]
    n_prompt: int
    n_reply: int

    @property
    def prompts_spoiled(self) -> bool:
        return self.n_prompt > TOLERATED * self.n

    @property
    def replies_spoiled(self) -> bool:
        return self.n_reply > TOLERATED * self.n


def tally(items: Sequence[Item], replies: Sequence[Sequence[Reply]], judged: Sequence[Judged]) -> Tally:
    """Every item's problems, counted once an item."""
    problems = [
        {*(flag for r in of_one for flag in r.flags), *ambiguous(item), *((j.problem,) if j.problem else ())}
        for item, of_one, j in zip(items, replies, judged, strict=True)
    ]
    counts = Counter(problem for of_one in problems for problem in of_one)
    n_prompt, n_reply = (sum(bool(p & set(kind)) for p in problems) for kind in (OF_THE_PROMPT, OF_THE_REPLY))
    return Tally(
        len(items), {name: counts[name] for name in (*OF_THE_PROMPT, *OF_THE_REPLY) if counts[name]}, n_prompt, n_reply
    )


def ambiguous(item: Item) -> tuple[str, ...]:
    """Two answers that are the same text: no reply could be right."""
    told = [(r.context, r.continuation) for r in item.requests if isinstance(r, Likely)]
    return (AMBIGUOUS,) if len(set(told)) < len(told) and "options" in item.about else ()


def why_unusable(tally: Tally, others: Iterable[Tally], checks: Mapping[str, str], shots: int = 0) -> str:
    """Why a file's score says nothing of it, or "". ``shots``: examples before each question.

    Replies that nobody could read are held against the harness only where no other file was asked the same and did answer.
    """
    if failed := [f"{name}: {fault}" for name, fault in checks.items() if fault]:
        return f"a self-test failed: {failed[0]}"
    if tally.prompts_spoiled:
        fewer = f", or fewer --shots than {shots}," if shots else ""
        longer = f"; a larger --ctx{fewer} may make them fit" if tally.counts.get(TRUNCATED) else ""
        return f"{tally.n_prompt} of {tally.n} prompts are spoiled ({listed(tally, OF_THE_PROMPT)}{longer})"
    others = list(others)
    if tally.replies_spoiled and not any(not other.replies_spoiled for other in others):
        return f"{tally.n_reply} of {tally.n} replies can't be read ({listed(tally, OF_THE_REPLY)})"
    return ""


def listed(counted: Tally, kinds: Iterable[str]) -> str:
    """The counts of some problems, in words."""
    return ", ".join(f"{name}: {counted.counts[name]}" for name in kinds if counted.counts.get(name))
