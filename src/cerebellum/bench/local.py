"""Question sets from a folder of files, in the fields that lm-evaluation-harness's own tasks read from the hub.

humaneval/HumanEval.jsonl[.gz]          task_id, prompt, entry_point, canonical_solution, test
arc/arc_challenge.jsonl                 query, choices, gold; or as on the hub: question, choices {text, label}, answerKey
hellaswag/hellaswag_val_full.txt[.bz2]  six lines a task: context, index of the right ending, four endings; or hellaswag.jsonl as on the hub
mmlu-redux/mmlu_redux.jsonl             subject, question, choices, answer, error_type
mmlu/mmlu_dev.jsonl                     subject, question, choices, answer: the examples before each question
"""

from __future__ import annotations

import bz2
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError
from cerebellum.keys import sha256_bytes

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJ"
_QUESTION = "Question: "


@dataclass(frozen=True, slots=True)
class Data:
    """Rows of a file, with its name and hash for the report."""

    rows: Sequence[Row]
    file: str
    sha256: str


def read_text(folder: Path, *names: str) -> tuple[str, str, str]:
    """(text, name, sha256) of the first of ``names`` that is in ``folder``. Raises `InputError`."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder} has no {names[0]}; docs/benchmarks.md lists the files of --data, and without --data questions come from the hub"
        )
    try:
        raw = path.read_bytes()
        unpack = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(path.suffix, bytes)
        return unpack(raw).decode("utf-8"), f"{folder.name}/{path.name}", sha256_bytes(raw)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"can't read {path}: {error}") from error


def read_jsonl(folder: Path, *names: str) -> Data:
    """A JSON-lines file. Raises `InputError` naming the line that isn't an object."""
    text, name, sha256 = read_text(folder, *names)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{name}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number} is no JSON object")
        rows.append(row)
    if not rows:
        raise InputError(f"{name} holds no question; is it the whole file?")
    return Data(rows, name, sha256)


def needing(data: Data, *fields: str) -> Data:
    """The same. Raises `InputError` for a row without one of ``fields``."""
    for number, row in enumerate(data.rows, start=1):
        if missing := [field for field in fields if row.get(field) is None]:
            raise InputError(f"{data.file}, question {number} has no {missing[0]!r}")
        if "choices" in fields and not is_texts(row["choices"]):
            raise InputError(f"{data.file}, question {number}: choices must be a list of at least two texts")
    return data


def humaneval(folder: Path) -> Data:
    """HumanEval's problems."""
    data = read_jsonl(folder / "humaneval", "HumanEval.jsonl.gz", "HumanEval.jsonl")
    return needing(data, "task_id", "prompt", "entry_point", "test")


def arc_challenge(folder: Path) -> Data:
    """ARC-Challenge's test questions."""
    data = read_jsonl(folder / "arc", "arc_challenge.jsonl")
    return Data([_arc(row, data.file, n) for n, row in enumerate(data.rows, 1)], data.file, data.sha256)


def _arc(row: Row, file: str, number: int) -> Row:
    try:
        if "answerKey" in row:
            row["choices"]["label"].index(row["answerKey"])
            return {"id": str(row.get("id", number)), **{k: row[k] for k in ("question", "choices", "answerKey")}}
        texts, gold = row["choices"], int(row["gold"])
        if not isinstance(row["query"], str) or not is_texts(texts):
            raise InputError(f"{file}, question {number}: query must be a text, choices a list of at least two texts")
        labels = list(LETTERS[: len(texts)])
        question = row["query"].removeprefix(_QUESTION)
        return {
            "id": str(number),
            "question": question,
            "choices": {"text": texts, "label": labels},
            "answerKey": labels[gold],
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"{file}, question {number}: its key names none of its choices, or a field is missing"
        ) from error


def is_texts(value: Any) -> bool:
    """Whether it is a list of two texts or more."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) for each in value)


def hellaswag(folder: Path) -> Data:
    """HellaSwag's validation tasks, as lm-evaluation-harness has them after its own clean-up: query, choices, label."""
    place = folder / "hellaswag"
    if (place / "hellaswag.jsonl").is_file():
        data = needing(read_jsonl(place, "hellaswag.jsonl"), "activity_label", "ctx_a", "ctx_b", "endings", "label")
        return Data([{"ind": n, **row} for n, row in enumerate(data.rows)], data.file, data.sha256)
    text, name, sha256 = read_text(place, "hellaswag_val_full.txt.bz2", "hellaswag_val_full.txt")
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines or len(lines) % 6:
        raise InputError(f"{name} has {len(lines)} lines; six make a task")
    rows = []
    for n in range(0, len(lines), 6):
        context, label, *endings = lines[n : n + 6]
        if label.strip() not in ("0", "1", "2", "3"):
            raise InputError(f"{name}, line {n + 2}: {label!r} is no index of an ending")
        rows.append({"query": begun_sentence(context), "choices": endings, "label": int(label)})
    return Data(rows, name, sha256)


_LAST_SENTENCE = re.compile(r"^(.*[.!?:][\"')]*\s+)([a-z].*)$", re.DOTALL)


def begun_sentence(context: str) -> str:
    """A context's last, unfinished sentence begun with a capital and otherwise small, as lm-evaluation-harness writes it.

    The hub keeps that sentence apart (``ctx_b``); the text file doesn't, so it is known by its small first letter.
    """
    found = _LAST_SENTENCE.match(context)
    if found is None or context.endswith((".", "!", "?")):
        return context
    return found[1] + found[2].capitalize()


def mmlu_redux(folder: Path) -> tuple[Data, Data]:
    """MMLU-Redux's questions whose annotation finds no fault (``error_type`` "ok"), and MMLU's examples for their subjects."""
    fields = ("subject", "question", "choices", "answer")
    asked = needing(read_jsonl(folder / "mmlu-redux", "mmlu_redux.jsonl"), *fields, "error_type")
    shown = needing(read_jsonl(folder / "mmlu", "mmlu_dev.jsonl"), *fields)
    good = [row for row in asked.rows if row["error_type"] == "ok"]
    if not good:
        raise InputError(f"{asked.file} has no question with error_type ok")
    return Data(good, asked.file, asked.sha256), shown
