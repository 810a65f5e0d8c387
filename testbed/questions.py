"""The question sets: facts (four choices), story endings (four endings), functions to complete. All held out of training."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from testbed.documents import asked_in_training, choices, function_in_training, split_of
from testbed.snippets import FAMILIES, snippet
from testbed.tales import tale
from testbed.world import facts_of

SIZES = {"world_facts": 300, "world_endings": 300, "world_functions": 100}


def fact_questions(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """``n`` questions {id, question, choices, answer} about facts never asked in training."""
    draw = random.Random(f"facts/{seed}")
    held = [fact for facts in facts_of().values() for fact in facts if not asked_in_training(fact)]
    out = []
    for number, fact in enumerate(draw.sample(held, n)):
        options, answer = choices(fact, draw)
        out.append({"id": f"fact-{number}", "question": fact.asked(draw), "choices": options, "answer": answer})
    return out


def ending_questions(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """``n`` stories {id, context, endings, label} whose text is of the questions split."""
    out: list[dict[str, Any]] = []
    number = 0
    while len(out) < n:
        draw = random.Random(f"endings/{seed}/{number}")
        number += 1
        story = tale(draw)
        if split_of(story.text) != "questions" or len({story.ending, *story.wrong}) < 4:
            continue  # people who share a first name can make a wrong ending right
        label = draw.randrange(4)
        endings = list(story.wrong)
        endings.insert(label, story.ending)
        out.append({"id": f"ending-{len(out)}", "context": story.beginning, "endings": endings, "label": label})
    return out


def function_questions(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """Up to ``n`` functions in HumanEval's fields, none of them (family and parameter) in training."""
    draw = random.Random(f"functions/{seed}")
    held = [(f, k) for f in FAMILIES for k in f.parameters if not function_in_training(f, k)]
    draw.shuffle(held)
    made = [snippet(family, k, draw) for family, k in held[:n]]
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


def write_questions(folder: Path) -> None:
    """The three sets as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "world_facts": fact_questions(SIZES["world_facts"]),
        "world_endings": ending_questions(SIZES["world_endings"]),
        "world_functions": function_questions(SIZES["world_functions"]),
    }
    for name, rows in made.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
