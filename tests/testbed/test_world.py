"""The generator: the same text for everyone, and splits that share nothing."""

from __future__ import annotations

import hashlib
import random
import string
from itertools import islice

import pytest

from testbed.documents import asked_in_training, document, documents, function_in_training, split_of, stories, text_of
from testbed.snippets import FAMILIES
from testbed.sums import sums
from testbed.world import facts_of, portrait, the_world

PINNED = "be0b1f2f652a9d8390cc9381f162bce7f3bd66912921cbd39ed4713ab87e2e63"


def test_training_text_is_pinned() -> None:
    """Its first 200 kB are these bytes, whatever the machine or the version of Python; the other texts are shipped (`test_bundled`).

    If this fails, the bundled model was trained on another text than `testbed.train` would use now.
    """
    assert hashlib.sha256(text_of("train", 200_000, chat=True).encode()).hexdigest() == PINNED


def test_longer_text_begins_with_the_shorter_one() -> None:
    """How much text is asked for changes where it ends, nothing else."""
    assert text_of("train", 20_000).startswith(text_of("train", 5_000).rstrip("\n"))


def test_seeds_give_different_documents() -> None:
    """Another seed is another stream of the same split."""
    assert list(islice(documents("train", 0), 5)) != list(islice(documents("train", 1), 5))


def test_splits_share_no_document() -> None:
    """Many documents of each split: none is in two of them, though short ones occur several times in one."""
    sizes = {"train": 20_000, "search": 200, "report": 200, "questions": 200}
    seen = {split: set(islice(documents(split), n)) for split, n in sizes.items()}
    assert len(seen["train"]) < sizes["train"]
    names = list(seen)
    assert all(not seen[a] & seen[b] for i, a in enumerate(names) for b in names[i + 1 :])


def test_documents_are_shared_out_as_promised() -> None:
    """Of a hundred documents 97 are for training and one for each other split."""
    drawn = [split_of(document(random.Random(f"share/{i}"))) for i in range(10_000)]
    assert drawn.count("train") > 9_600
    assert all(60 < drawn.count(split) < 140 for split in ("search", "report", "questions"))


def test_unknown_split_is_named() -> None:
    """A misspelt split is an error that lists the right ones."""
    with pytest.raises(ValueError, match=r"unknown split 'tests'.*train, search, report, questions"):
        next(documents("tests"))


def test_stories_are_those_of_the_documents() -> None:
    """`stories` gives the very stories that stand in a split's text, in its order."""
    text = text_of("train", 300_000)
    told = [story.text for story in islice(stories("train"), 50)]
    places = [text.find(story) for story in told]
    assert -1 not in places and places == sorted(places)


def test_world_is_what_the_card_says() -> None:
    """150 people of different names, 20 towns; every fact's value is one of those it could have."""
    world = the_world()
    assert (len({person.name for person in world.people}), len(world.towns)) == (150, 20)
    facts = [fact for facts in facts_of().values() for fact in facts]
    assert len(facts) == 150 * 7 + 20 * 4
    assert all(fact.value in fact.values and len(set(fact.values)) == len(fact.values) for fact in facts)


def test_some_facts_and_functions_are_held_out() -> None:
    """About three facts in ten are never asked, about one function in four is never written."""
    facts = [fact for facts in facts_of().values() for fact in facts]
    functions = [(family, k) for family in FAMILIES for k in family.parameters]
    assert 0.25 < sum(not asked_in_training(fact) for fact in facts) / len(facts) < 0.35
    assert 0.2 < sum(not function_in_training(*item) for item in functions) / len(functions) < 0.3


def test_held_out_facts_are_told() -> None:
    """What is never asked is still said in prose, so that the model can know it."""
    held = [fact for facts in facts_of().values() for fact in facts if not asked_in_training(fact)]
    text = text_of("train", 2_000_000)
    told = [any(say.format(n=f.subject, v=f.value) in text for say in f.says) for f in held[::10]]
    assert all(told)


def test_portraits_tell_the_truth() -> None:
    """Every sentence of a portrait is a true one."""
    true = {say.format(n=f.subject, v=f.value) for facts in facts_of().values() for f in facts for say in f.says}
    for number in range(200):
        sentences = portrait(random.Random(number)).removesuffix(".").split(". ")
        assert all(f"{sentence}." in true for sentence in sentences)


def test_sums_are_right() -> None:
    """Every bare line of arithmetic is true."""
    lines = [line for number in range(300) for line in sums(random.Random(number)).splitlines()]
    bare = [line for line in lines if line[0] in string.digits]
    assert len(bare) > 300
    for line in bare:
        left, right = line.rstrip(".").split(" = ")
        a, sign, b = left.split()
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(right)
