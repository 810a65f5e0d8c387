"""The small world's own question sets, which come with the package: of the same kinds as ARC, HellaSwag and HumanEval.

They are asked as `testbed.tasks` asks them, so that the bundled model's scores can be compared with its ``evaluation.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebellum.bundled import QUESTIONS
from cerebellum.evals.asking import Render
from cerebellum.evals.choice import ChoiceTask, choice_item
from cerebellum.evals.code import CodeTask, Runner, code_item
from cerebellum.evals.items import Task
from cerebellum.keys import sha256_file

WORLD = ("world_facts", "world_endings", "world_functions")
MAX_TOKENS = 64


def world_task(name: str, *, limit: int | None, render: Render | None, sandbox: Runner | None, n: int) -> Task:
    """One of `WORLD`; with ``render`` each question is a user's turn of a chat."""
    path = QUESTIONS / f"{name.removeprefix('world_')}.jsonl"
    every = read_rows(path)
    rows = every[:limit]
    facts = {
        "data": f"bundled {path.name}",
        "questions": len(every),
        "sha256": sha256_file(path),
        "shots": 0,
        "chat": render is not None,
    }
    if name == "world_functions":
        assert sandbox is not None
        return CodeTask(name, _functions(rows, render, n), sandbox, {**facts, "chance": 0.0, "samples": n})
    choices = _facts(rows, render) if name == "world_facts" else _endings(rows, render)
    metric = "acc" if name == "world_facts" else "acc_norm"
    return ChoiceTask(name, metric, choices, {**facts, "chance": 0.25})


def _facts(rows: Sequence[Mapping[str, Any]], render: Render | None) -> list[Any]:
    """The likeliest of four answers, in sum: most are a few letters and the question asks for one."""
    return [_choice(r["id"], f"Question: {r['question']}\nAnswer:", r["choices"], r["answer"], render) for r in rows]


def _endings(rows: Sequence[Mapping[str, Any]], render: Render | None) -> list[Any]:
    """The likeliest of four endings per byte, so that a short one has no advantage."""
    return [_choice(r["id"], r["context"], r["endings"], r["label"], render) for r in rows]


def _choice(number: str, question: str, options: Sequence[str], gold: int, render: Render | None) -> Any:
    if render is None:
        return choice_item(number, question, options, gold)
    return choice_item(number, render([{"role": "user", "content": question}]), options, gold, delimiter="", chat=True)


def _functions(rows: Sequence[Mapping[str, Any]], render: Render | None, n: int) -> list[Any]:
    """Functions completed up to an empty line."""
    return [function_item(row, render, stop=("\n\n",), max_tokens=MAX_TOKENS, n=n) for row in rows]


def function_item(
    row: Mapping[str, Any], render: Render | None, *, stop: Sequence[str], max_tokens: int, n: int
) -> Any:
    """A function to complete; in a chat it is asked for in a code block, and nothing but the end of the turn stops the reply."""
    if render is None:
        return code_item(row, row["prompt"], stop=stop, max_tokens=max_tokens, n=n, chat=False)
    ask = f"Complete this Python function. Reply with the whole function in one code block.\n\n```python\n{row['prompt']}\n```"
    prompt = render([{"role": "user", "content": ask}])
    return code_item(row, prompt, stop=(), max_tokens=4 * max_tokens, n=n, chat=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file of our own."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
