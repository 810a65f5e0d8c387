"""The text: a stream of documents, and the splits.

A document belongs to a split by the hash of its own words, so no document can stand in two splits, whatever the seeds. What the
question sets ask is held out by a hash of the item: the facts they need are told in training prose, but never in the form of a question.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator

from testbed.snippets import FAMILIES, Family, Snippet, snippet
from testbed.sums import sums
from testbed.tales import Tale, tale
from testbed.world import Fact, facts_of, portrait

SPLITS = ("train", "search", "report", "questions")
LETTERS = "ABCD"
_USER, _MODEL, _END = "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"


def bucket(text: str, n: int) -> int:
    """A number below ``n`` that depends on ``text`` only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % n


def split_of(document: str) -> str:
    """Where a document belongs: 97 % train, 1 % each search, report, questions."""
    return {97: "search", 98: "report", 99: "questions"}.get(bucket(document, 100), "train")


def asked_in_training(fact: Fact) -> bool:
    """Whether this fact may be asked in training; three in ten are kept for the question sets."""
    return bucket(f"{fact.subject}/{fact.attribute}", 10) >= 3


def function_in_training(family: Family, k: int) -> bool:
    """Whether this function may stand in training; a quarter are kept for the question sets."""
    return bucket(f"{family.stem}/{k}", 4) != 0


def choices(fact: Fact, draw: random.Random) -> tuple[list[str], int]:
    """Four different values with the true one among them, and its index."""
    options = draw.sample([v for v in fact.values if v != fact.value], 3)
    answer = draw.randrange(4)
    options.insert(answer, fact.value)
    return options, answer


def letter_question(question: str, options: list[str]) -> str:
    """A question with lettered options, up to where the letter belongs."""
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return f"Question: {question}\n{lines}\nAnswer:"


def _question(draw: random.Random) -> str:
    subject = draw.choice(list(facts_of()))
    facts = [fact for fact in facts_of()[subject] if asked_in_training(fact)]
    if not facts:
        return portrait(draw)
    fact = draw.choice(facts)
    options, answer = choices(fact, draw)
    asked, kind = fact.asked(draw), draw.random()
    if kind < 0.4:
        return f"{letter_question(asked, options)} {LETTERS[answer]}"
    if kind < 0.7:
        return f"Question: {asked}\nAnswer: {fact.value}"
    if kind < 0.85:
        return f"{_USER}{asked}{_END}{_MODEL}{fact.told(draw)}{_END}".rstrip("\n")
    return (
        f"{_USER}{letter_question(asked, options).removesuffix('Answer:')}{_END}{_MODEL}{LETTERS[answer]}{_END}".rstrip(
            "\n"
        )
    )


def _function(draw: random.Random) -> Snippet:
    while True:
        family = draw.choice(FAMILIES)
        k = draw.choice(family.parameters)
        if function_in_training(family, k):
            return snippet(family, k, draw)


def _chat(draw: random.Random) -> str:
    turns = []
    for _ in range(draw.randint(2, 3)):
        kind = draw.random()
        if kind < 0.5:
            fact = draw.choice(facts_of()[draw.choice(list(facts_of()))])
            if not asked_in_training(fact):
                continue
            turns.append((fact.asked(draw), fact.told(draw)))
        elif kind < 0.8:
            a, b = draw.randint(0, 99), draw.randint(0, 99)
            turns.append((f"How much is {a} + {b}?", f"{a} + {b} = {a + b}."))
        else:
            story = tale(draw)
            turns.append((f"How does this story end? {story.beginning}", story.ending))
    return "".join(f"{_USER}{ask}{_END}{_MODEL}{say}{_END}" for ask, say in turns).rstrip("\n") or portrait(draw)


def _story(draw: random.Random) -> str:
    return tale(draw).text


_MIX: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.36, portrait),
    (0.58, _question),
    (0.74, _story),
    (0.83, sums),
    (0.94, lambda draw: _function(draw).text.rstrip("\n")),
    (1.00, _chat),
)


def _kind(draw: random.Random) -> Callable[[random.Random], str]:
    number = draw.random()
    return next(make for limit, make in _MIX if number < limit)


def document(draw: random.Random) -> str:
    """One document of any kind."""
    return _kind(draw)(draw)


def documents(split: str, seed: int = 0) -> Iterator[str]:
    """The endless stream of a split's documents; number ``i`` of a seed is always the same."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    for number in itertools.count():
        text = document(_draw(split, seed, number))
        if split_of(text) == split:
            yield text


def stories(split: str, seed: int = 0) -> Iterator[Tale]:
    """The stories among `documents`, with the endings they do not have."""
    for number in itertools.count():
        draw = _draw(split, seed, number)
        if _kind(draw) is _story:
            story = tale(draw)
            if split_of(story.text) == split:
                yield story


def _draw(split: str, seed: int, number: int) -> random.Random:
    return random.Random(f"{split}/{seed}/{number}")


def text_of(split: str, n_bytes: int, seed: int = 0, *, chat: bool = False) -> str:
    """At least ``n_bytes`` of a split's text, documents parted by empty lines.

    Without ``chat``, conversations are left out: a plain text file is tokenized without reading special tokens.
    """
    parts, size = [], 0
    for part in documents(split, seed):
        if not chat and _USER in part:
            continue
        parts.append(part)
        size += len(part.encode()) + 2
        if size >= n_bytes:
            return "\n\n".join(parts) + "\n"
    raise AssertionError("the stream is endless")
