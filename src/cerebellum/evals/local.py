"""Question sets from a folder of files, in the fields that lm-evaluation-harness's own tasks read from the hub.

humaneval/HumanEval.jsonl[.gz]          task_id, prompt, entry_point, canonical_solution, test
arc/arc_challenge.jsonl                 query, choices, gold; or as on the hub: question, choices {text, label}, answerKey
hellaswag/hellaswag_val_full.txt[.bz2]  six lines a task: context, index of the right ending, four endings; or hellaswag.jsonl as on the hub
mmlu-redux/mmlu_redux.jsonl             subject, question, choices, answer, error_type
mmlu/mmlu_dev.jsonl                     subject, question, choices, answer: the examples before each question
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError
from cerebellum.keys import sha256_bytes
from cerebellum.text.untrusted import decoded, read_regular, unpacked

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJ"
#: Fields that are texts, and not empty (one question of MMLU-Redux is).
_TEXT_FIELDS = frozenset(
    {"prompt", "entry_point", "test", "question", "subject", "activity_label", "ctx_a", "error_type"}
)
_QUESTION = "Question: "


@dataclass(frozen=True, slots=True)
class Data:
    """Rows of a file, with its name and hash for the report. ``numbers``: which of the file's they are, none: all."""

    rows: Sequence[Row]
    file: str
    sha256: str
    numbers: Sequence[int] = ()

    @property
    def numbered(self) -> Iterable[tuple[int, Row]]:
        """Rows with their number in the file, from 1."""
        return zip(self.numbers or range(1, len(self.rows) + 1), self.rows, strict=True)


def read_text(folder: Path, *names: str) -> tuple[str, str, str]:
    """(text, name, sha256) of the first of ``names`` that is in ``folder``. Raises `InputError`."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder} has no {names[0]}; docs/benchmarks.md lists the files of --data, and without --data questions come from the hub"
        )
    try:
        raw = read_regular(path)
        return decoded(unpacked(path, raw)), f"{folder.name}/{path.name}", sha256_bytes(raw)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can't read {path}: {getattr(error, 'strerror', None) or error}; fetch it again") from error


def read_jsonl(folder: Path, *names: str) -> Data:
    """A JSON-lines file. Raises `InputError` naming the line that isn't an object."""
    text, name, sha256 = read_text(folder, *names)
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number} is no JSON object")
        rows.append({field: plain_lines(value) for field, value in row.items()})
    if not rows:
        raise InputError(f"{name} holds no question; is it the whole file?")
    return Data(rows, name, sha256)


def plain_lines(value: Any) -> Any:
    """A text, or a list or an object of texts, with lines ended by ``\\n`` alone: others change the prompt's tokens."""
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n")
    if isinstance(value, list):
        return [plain_lines(each) if isinstance(each, str) else each for each in value]
    if isinstance(value, dict):
        return {name: plain_lines(each) if isinstance(each, str | list) else each for name, each in value.items()}
    return value


def refused(data: Data | str, number: int, problem: str) -> InputError:
    """That a file can't be used for what is wrong with one question, named by its number from 1."""
    name = data if isinstance(data, str) else data.file
    return InputError(f"{name}, question {number}: {problem}; correct the question or leave it out")


def key_of(name: str, number: int, field: str, value: Any, n: int) -> int:
    """A key that is the index of one of ``n`` choices, a whole number. Raises `InputError`."""
    if type(value) is not int or not 0 <= value < n:
        shown = json.dumps(value)[:40]
        raise refused(
            name, number, f"its key names none of its choices: {field} is {shown}, not a whole number from 0 to {n - 1}"
        )
    return value


def needing(data: Data, *fields: str) -> Data:
    """The same. Raises `InputError` for a row without one of ``fields``."""
    for number, row in data.numbered:
        if missing := [field for field in fields if row.get(field) is None]:
            raise InputError(f"{data.file}, question {number} has no {missing[0]!r}")
        texts = [field for field in fields if field in _TEXT_FIELDS]
        if odd := [
            field
            for field in texts
            if not isinstance(row[field], str) or not (row[field].strip() or field == "question")
        ]:
            raise refused(data, number, f"{odd[0]} is {json.dumps(row[odd[0]])[:40]}, not a text")
        if "choices" in fields and not is_texts(row["choices"]):
            raise InputError(f"{data.file}, question {number}: choices must be a list of at least two texts")
    return data


def humaneval(folder: Path) -> Data:
    """HumanEval's problems."""
    data = read_jsonl(folder / "humaneval", "HumanEval.jsonl.gz", "HumanEval.jsonl")
    needing(data, "task_id", "prompt", "entry_point", "test")
    for number, row in data.numbered:
        if not row["entry_point"].isidentifier() or not re.search(
            rf"^def {row['entry_point']}\b", row["prompt"], re.MULTILINE
        ):
            raise refused(data, number, "its prompt begins no function of the name in entry_point")
        if "def check" not in row["test"]:
            raise refused(data, number, "its test defines no function check")
        if not isinstance(row.get("canonical_solution", ""), str):
            raise refused(data, number, "canonical_solution is not a text")
    return data


def arc_challenge(folder: Path) -> Data:
    """ARC-Challenge's test questions."""
    data = read_jsonl(folder / "arc", "arc_challenge.jsonl")
    return Data([_arc(row, data.file, n) for n, row in enumerate(data.rows, 1)], data.file, data.sha256)


def _arc(row: Row, file: str, number: int) -> Row:
    if "answerKey" in row:
        return _arc_of_hub(row, file, number)
    try:
        question, texts, gold = row["query"], row["choices"], row["gold"]
    except KeyError as error:
        raise InputError(
            f"{file}, question {number}: its key names none of its choices, or a field is missing ({error})"
        ) from error
    if not isinstance(question, str) or not question.strip() or not is_texts(texts):
        raise InputError(f"{file}, question {number}: query must be a text, choices a list of at least two texts")
    if len(texts) > len(LETTERS):
        raise refused(file, number, f"it has {len(texts)} choices, more than {len(LETTERS)}")
    labels = list(LETTERS[: len(texts)])
    key = labels[key_of(file, number, "gold", gold, len(texts))]
    choices = {"text": texts, "label": labels}
    return {"id": str(number), "question": question.removeprefix(_QUESTION), "choices": choices, "answerKey": key}


def _arc_of_hub(row: Row, file: str, number: int) -> Row:
    question, choices, key = row.get("question"), row.get("choices"), row["answerKey"]
    if not isinstance(question, str) or not question.strip():
        raise refused(file, number, "question is not a text")
    texts, labels = (choices.get(name) if isinstance(choices, dict) else None for name in ("text", "label"))
    if not is_texts(texts) and not (isinstance(texts, list) and isinstance(labels, list) and key not in labels):
        raise refused(file, number, "choices must have a list of at least two texts, and a label for each")
    if (
        not isinstance(texts, list)
        or not isinstance(labels, list)
        or len(labels) != len(texts)
        or len({str(each) for each in labels}) < len(labels)
    ):
        raise refused(file, number, "its choices have not one label each, or two have the same")
    if not isinstance(key, str) or key not in labels:
        raise refused(file, number, f"its key names none of its choices: answerKey is {json.dumps(key)[:40]}")
    return {"id": str(row.get("id", number)), "question": question, "choices": choices, "answerKey": key}


def is_texts(value: Any) -> bool:
    """Whether it is a list of two texts or more, none of them empty."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) and each.strip() for each in value)


def hellaswag(folder: Path) -> Data:
    """HellaSwag's validation tasks, as lm-evaluation-harness has them after its own clean-up: query, choices, label."""
    subfolder = folder / "hellaswag"
    if (subfolder / "hellaswag.jsonl").is_file():
        data = needing(read_jsonl(subfolder, "hellaswag.jsonl"), "activity_label", "ctx_a", "ctx_b", "endings", "label")
        return Data([_hellaswag(row, data, n) for n, row in enumerate(data.rows)], data.file, data.sha256)
    text, name, sha256 = read_text(subfolder, "hellaswag_val_full.txt.bz2", "hellaswag_val_full.txt")
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines or len(lines) % 6:
        raise InputError(f"{name} has {len(lines)} lines; six make a task")
    rows = []
    for n in range(0, len(lines), 6):
        context, label, *endings = lines[n : n + 6]
        if label.strip() not in ("0", "1", "2", "3"):
            raise InputError(f"{name}, line {n + 2}: {label[:40]!r} is no index of an ending")
        if not context.strip() or not all(ending.strip() for ending in endings):
            raise InputError(f"{name}, line {n + 1}: of the task's six lines one is empty")
        rows.append({"query": begun_sentence(context), "choices": endings, "label": int(label)})
    return Data(rows, name, sha256)


def _hellaswag(row: Row, data: Data, n: int) -> Row:
    """A row of the hub's: its label is a digit, as a text or a number."""
    if not is_texts(row["endings"]) or len(row["endings"]) != 4 or not isinstance(row["ctx_b"], str):
        raise refused(data, n + 1, "endings must be a list of four texts, ctx_b a text")
    label = row["label"]
    number = int(label) if isinstance(label, str) and label in ("0", "1", "2", "3") else label
    return {"ind": n, **row, "label": str(key_of(data.file, n + 1, "label", number, 4))}


_LAST_SENTENCE = re.compile(r"^(.*[.!?:][\"')]*\s+)([a-z].*)$", re.DOTALL)


def begun_sentence(context: str) -> str:
    """A context's last, unfinished sentence begun with a capital and otherwise small, as lm-evaluation-harness writes it.

    The hub keeps that sentence apart (``ctx_b``); the text file doesn't, so it is known by its small first letter.
    """
    match = _LAST_SENTENCE.match(context)
    if match is None or context.endswith((".", "!", "?")):
        return context
    return match[1] + match[2].capitalize()


def mmlu_redux(folder: Path) -> tuple[Data, Data]:
    """MMLU-Redux's questions whose annotation finds no fault (``error_type`` "ok"), and MMLU's examples for their subjects."""
    fields = ("subject", "question", "choices", "answer")
    every = read_jsonl(folder / "mmlu-redux", "mmlu_redux.jsonl")
    good = [n for n, row in every.numbered if row.get("error_type") == "ok"]
    if not good:
        raise InputError(f"{every.file} has no question with error_type ok")
    asked = needing(Data([every.rows[n - 1] for n in good], every.file, every.sha256, good), *fields)
    shown = needing(read_jsonl(folder / "mmlu", "mmlu_dev.jsonl"), *fields)
    for data in (asked, shown):
        for number, row in data.numbered:
            if len(row["choices"]) != 4:
                raise refused(data, number, f"it has {len(row['choices'])} choices, not four")
            key_of(data.file, number, "answer", row["answer"], 4)
    return asked, shown


def check_subjects(data: Data, known: Sequence[str]) -> None:
    """Raises `InputError` for a subject that MMLU doesn't have, by its nearest name."""
    for number, row in data.numbered:
        if row["subject"] not in known:
            near = difflib.get_close_matches(row["subject"].lower().replace(" ", "_"), known, 1)
            hint = f"; did you mean {near[0]}" if near else f" ({', '.join(known[:3])}, …)"
            raise refused(data, number, f"its subject {row['subject'][:60]!r} is none of MMLU's{hint}")
