"""The question sets: facts (four choices), story endings (four endings), functions to complete.

Every set exists twice. The *held out* one asks what no training text holds in the form of a question: facts that are only told in prose,
stories and functions that don't occur. The *seen* one asks what the training text did hold, word for word. Only the first is shipped; the
second shows how much of a score is memory.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from testbed.documents import asked_in_training, choices, function_in_training, split_of, stories
from testbed.snippets import FAMILIES, snippet
from testbed.tales import Tale, tale
from testbed.world import facts_of

Row = dict[str, Any]
FACTS, ENDINGS, FUNCTIONS = 300, 300, 100


def fact_questions(n: int = FACTS, seed: int = 1, *, held_out: bool = True) -> list[Row]:
    """``n`` questions {id, question, choices, answer}; ``answer`` is an index."""
    draw = random.Random(f"facts/{seed}")
    asked = [fact for facts in facts_of().values() for fact in facts if asked_in_training(fact) != held_out]
    out = []
    for number, fact in enumerate(draw.sample(asked, n)):
        options, answer = choices(fact, draw)
        out.append({"id": f"fact-{number}", "question": fact.asked(draw), "choices": options, "answer": answer})
    return out


def _untold(seed: int) -> Iterator[Tale]:
    """Stories of the questions split."""
    drawn = (tale(random.Random(f"endings/{seed}/{number}")) for number in range(10**9))
    return (story for story in drawn if split_of(story.text) == "questions")


@functools.cache  # a hundred stories are told for each one held out
def ending_questions(n: int = ENDINGS, seed: int = 1, *, held_out: bool = True) -> list[Row]:
    """``n`` stories {id, context, endings, label}; ``label`` is an index."""
    draw = random.Random(f"endings/{seed}")
    told = _untold(seed) if held_out else stories("train")
    out = []
    for number, story in enumerate(islice((story for story in told if story.clear), n)):
        label = draw.randrange(4)
        endings = [*story.wrong[:label], story.ending, *story.wrong[label:]]
        out.append({"id": f"ending-{number}", "context": story.beginning, "endings": endings, "label": label})
    return out


def function_questions(n: int = FUNCTIONS, seed: int = 1, *, held_out: bool = True) -> list[Row]:
    """Up to ``n`` functions in HumanEval's fields. Held out: this family with this parameter is in no training text."""
    draw = random.Random(f"functions/{seed}")
    asked = [(f, k) for f in FAMILIES for k in f.parameters if function_in_training(f, k) != held_out]
    draw.shuffle(asked)
    made = [snippet(family, k, draw) for family, k in asked[:n]]
    return [
        {
            "task_id": f"World/{i}",
            "prompt": s.prompt,
            "canonical_solution": s.body,
            "test": s.test,
            "entry_point": s.name,
        }
        for i, s in enumerate(made)
    ]


def sets(*, held_out: bool = True) -> dict[str, list[Row]]:
    """The three sets by name."""
    return {
        "facts": fact_questions(held_out=held_out),
        "endings": ending_questions(held_out=held_out),
        "functions": function_questions(held_out=held_out),
    }


def write(folder: Path) -> None:
    """The held-out sets as JSON lines, one file a set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sets().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """The items of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def leaks(text: str) -> list[str]:
    """What of the held-out sets stands in ``text``: any wording of a held-out fact's question, a story, a function."""
    held = [fact for facts in facts_of().values() for fact in facts if not asked_in_training(fact)]
    secrets = [ask.format(n=fact.subject) for fact in held for ask in fact.asks]
    secrets += [row["context"] for row in ending_questions()]
    secrets += [f"def {row['entry_point']}(" for row in function_questions()]
    return [secret for secret in secrets if secret in text]
