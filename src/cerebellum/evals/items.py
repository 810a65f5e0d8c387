"""The nouns of a benchmark: a task has items, an item has requests, a request gets a reply, the replies of an item are judged.

A task gives the same items for every file, so that two files' answers can be paired by item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

#: What can be wrong with an item apart from the answer being wrong. The first four are the prompt's fault, the others the reply's.
SPACE, MERGED, TRUNCATED, AMBIGUOUS = (
    "prompt ends in a space",
    "answer merges with the prompt",
    "prompt cut",
    "two answers alike",
)
EMPTY, UNPARSABLE, UNFINISHED = "empty reply", "unparsable reply", "reasoning without an end"
OF_THE_PROMPT = (SPACE, MERGED, TRUNCATED, AMBIGUOUS)
OF_THE_REPLY = (EMPTY, UNPARSABLE, UNFINISHED)


@dataclass(frozen=True, slots=True)
class Likely:
    """How likely is ``continuation`` after ``context``? ``chat``: the context is a rendered conversation, special tokens and all."""

    context: str
    continuation: str
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Rolling:
    """How likely is a whole text, from its first token on?"""

    text: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write on after ``prompt`` up to a stop text. ``sample`` tells apart several draws for one prompt."""

    prompt: str
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0
    chat: bool = False


Request = Likely | Rolling | Write


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to any request. ``nats``: Σ log p of ``n_tokens`` tokens; ``text``: what was written and how it ``ended``.

    ``n_cut`` tokens of the prompt's beginning did not fit. ``flags``: what of `OF_THE_PROMPT` asking met.
    """

    nats: float = 0.0
    greedy: bool = False
    text: str = ""
    n_tokens: int = 0
    ended: str = ""
    n_cut: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One question. ``id`` is unique within its task; ``about`` is what the judge needs and the item's file shows."""

    id: str
    requests: tuple[Request, ...]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """``metrics``: name → value of this item (for most 0 or 1). ``chosen``: the answer in short. ``problem``: of `OF_THE_REPLY`, or ""."""

    metrics: Mapping[str, Any]
    chosen: Any = None
    problem: str = ""
    detail: str = ""


class Task(Protocol):
    """A question set and how it is asked and judged."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str:
        """The name of the metric that is the score."""
        ...

    @property
    def margin(self) -> float:
        """Share of the items that a file may lose and pass, unless the user says otherwise."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Where the questions come from and how they are asked, for the report: data, hash, shots, prompt, chance."""
        ...

    @property
    def items(self) -> Sequence[Item]: ...

    def judge(self, item: Item, replies: Sequence[Reply]) -> Judged:
        """The replies stand in the order of the item's requests."""
        ...

    def score(self, metric: str, values: Sequence[Any]) -> float:
        """The values of all items as one figure: their mean, unless the task says otherwise. Raises ValueError where there is none."""
        ...

    def check(self) -> Mapping[str, str]:
        """Self-tests of the way from an answer to its judgement: name → "" or what is wrong."""
        ...
