"""Question sets whose keys don't map, whose texts are none, or whose files are damaged, endless or Windows': refused by question."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cerebellum.errors import InputError
from cerebellum.evals import local
from cerebellum.evals.harness_task import _keyed
from cerebellum.evals.items import Item
from cerebellum.text import untrusted

ARC = {"query": "Question: x", "choices": ["a", "b", "c"], "gold": 2}
HUB_ARC = {"id": "q", "question": "x", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
HELLASWAG = {"activity_label": "A", "ctx_a": "b", "ctx_b": "c", "endings": ["d", "e", "f", "g"], "label": "3"}
MMLU = {"subject": "anatomy", "question": "x", "choices": ["a", "b", "c", "d"], "answer": 3, "error_type": "ok"}
CODE = {
    "task_id": "T/1",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "test": "def check(f):\n    pass\n",
    "canonical_solution": "    return x\n",
}
PLACES = {
    "arc": ("arc", "arc_challenge.jsonl", local.arc_challenge),
    "hellaswag": ("hellaswag", "hellaswag.jsonl", local.hellaswag),
    "mmlu": ("mmlu-redux", "mmlu_redux.jsonl", local.mmlu_redux),
    "code": ("humaneval", "HumanEval.jsonl", local.humaneval),
}
GOOD: dict[str, dict[str, Any]] = {"arc": ARC, "hellaswag": HELLASWAG, "mmlu": MMLU, "code": CODE}


def read(folder: Path, kind: str, *rows: Any, text: str | None = None) -> Any:
    """The rows through the reader of their kind."""
    place, name, reader = PLACES[kind]
    (folder / place).mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / place / name).write_bytes((text if text is not None else "\n".join(lines)).encode())
    if kind == "mmlu":
        (folder / "mmlu").mkdir(exist_ok=True)
        (folder / "mmlu" / "mmlu_dev.jsonl").write_text("\n".join([json.dumps(MMLU)] * 5))
    return reader(folder)


ODD_NUMBERS = [-1, 7, "2", "", None, True, 1.0, [1], {}]
BAD = [
    *(("arc", {**ARC, "gold": value}) for value in ODD_NUMBERS),
    *(("mmlu", {**MMLU, "answer": value}) for value in [*ODD_NUMBERS, "D"]),
    *(("hellaswag", {**HELLASWAG, "label": value}) for value in [-1, 4, "", "-1", "4", " 3", "３", None, True, 2.5, [3]]),
    *(("arc", {**HUB_ARC, "answerKey": value}) for value in [-1, 1, "", "C", "b", None, ["B"], "AB"]),
    ("arc", {**HUB_ARC, "choices": {"text": ["a", "b"], "label": ["A", "A"]}, "answerKey": "A"}),
    ("arc", {**HUB_ARC, "choices": {"text": ["a", "b", "c"], "label": ["A", "B"]}}),
    ("arc", {**ARC, "choices": ["a", "", "c"]}), ("arc", {**ARC, "query": 5}), ("arc", {**ARC, "query": " "}),
    ("mmlu", {**MMLU, "choices": ["a", "b", "c"]}), ("mmlu", {**MMLU, "choices": ["a", "b", "c", "d", "e"]}),
    ("mmlu", {**MMLU, "question": 1}),
    ("hellaswag", {**HELLASWAG, "endings": ["d", "e", "f"]}), ("hellaswag", {**HELLASWAG, "ctx_a": 3}),
    ("hellaswag", {**HELLASWAG, "ctx_b": 3}),
    ("code", {**CODE, "prompt": 5}), ("code", {**CODE, "prompt": "x = 1\n"}), ("code", {**CODE, "entry_point": "g"}),
    ("code", {**CODE, "test": ""}),
    ("code", {**CODE, "test": "assert True"}), ("code", {**CODE, "entry_point": "f("}), ("code", {**CODE, "canonical_solution": 7}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "row"), BAD)
def test_what_does_not_map_is_refused_by_question(tmp_path: Path, kind: str, row: dict[str, Any]) -> None:
    """Never a score: the good question before it is read, the bad one named."""
    with pytest.raises(InputError, match="question 2"):
        read(tmp_path, kind, GOOD[kind], row)


@pytest.mark.parametrize("line", ['{"gold": ' + "[" * 100_000, '{"gold": 1e999', "[1]", '"x"', "7", "{" * 5])
@pytest.mark.parametrize("kind", sorted(PLACES))
def test_lines_that_are_no_object_are_refused_by_line(tmp_path: Path, kind: str, line: str) -> None:
    with pytest.raises(InputError, match="line 2"):
        read(tmp_path, kind, GOOD[kind], line)


@pytest.mark.parametrize(("kind", "field"), [("arc", "gold"), ("hellaswag", "label"), ("mmlu", "answer")])
def test_an_infinite_key_is_refused(tmp_path: Path, kind: str, field: str) -> None:
    with pytest.raises(InputError, match="question 1: its key names none"):
        read(tmp_path, kind, json.dumps({**GOOD[kind], field: 0}).replace(f'"{field}": 0', f'"{field}": 1e999'))


def test_a_subject_that_mmlu_lacks_is_refused_with_the_nearest() -> None:
    known = ["abstract_algebra", "anatomy"]
    local.check_subjects(local.Data([MMLU], "f", ""), known)
    with pytest.raises(
        InputError, match="question 9: its subject 'Abstract Algebra' is none of MMLU's; did you mean abstract_algebra"
    ):
        local.check_subjects(local.Data([{**MMLU, "subject": "Abstract Algebra"}], "f", "", [9]), known)


def test_faulty_questions_of_mmlu_redux_need_no_key(tmp_path: Path) -> None:
    asked, _ = read(tmp_path, "mmlu", {**MMLU, "error_type": "no_correct_answer", "answer": None, "question": ""}, MMLU)
    assert list(asked.numbered) == [(2, MMLU)]


@pytest.mark.parametrize(
    ("gold", "right"), [(0, True), (1, True), (2, False), (-1, False), ("b", True), ("c", False), ([0, 1], True), ([5], False),
     (None, False), ([], False), ("", False)]
)  # fmt: skip
def test_a_key_of_the_harness_names_an_answer(gold: Any, right: bool) -> None:
    """By number or by text; otherwise the self-test fails and the score is unusable."""
    assert _keyed(Item("1", (), {"options": ["a", "b"], "gold": gold})) is right


SIX = ["Fun: a man sings. he", "2", "runs.", "sits.", "sings on.", "eats."]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_marks_change_no_prompt(tmp_path: Path, end: str, mark: str) -> None:
    """Of the six-line form, of JSON lines, and inside their texts."""
    (tmp_path / "hellaswag").mkdir()
    path = tmp_path / "hellaswag" / "hellaswag_val_full.txt"
    path.write_bytes((mark + end.join(SIX * 2) + end).encode())
    row = {"query": "Fun: a man sings. He", "choices": SIX[2:], "label": 2}
    assert local.hellaswag(tmp_path).rows == [row, row]
    text = mark + end.join([json.dumps({**CODE, "prompt": f"def f(x):{end}"})] * 2) + end
    assert local.hellaswag(tmp_path).rows[0]["query"][0] == "F"
    assert [r["prompt"] for r in read(tmp_path, "code", text=text).rows] == ["def f(x):\n"] * 2


def compressed(folder: Path, name: str, data: bytes) -> Path:
    (folder / Path(name).parent).mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("cut", [slice(0, -9), slice(0, 12), slice(5, None)])
def test_damaged_archives_are_refused(tmp_path: Path, cut: slice) -> None:
    whole = (json.dumps(CODE) * 50).encode()
    for pack, name, reader in (
        (gzip.compress, "humaneval/HumanEval.jsonl.gz", local.humaneval),
        (bz2.compress, "hellaswag/hellaswag_val_full.txt.bz2", local.hellaswag),
    ):
        with pytest.raises(InputError, match="can't read"):
            reader(compressed(tmp_path, name, pack(whole)[cut]))


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "MOST_UNPACKED", 4 << 20)
    bomb = gzip.compress(bytes(8 << 20))
    with pytest.raises(InputError, match="unpacked it is larger than 4 MiB"):
        local.humaneval(compressed(tmp_path, "humaneval/HumanEval.jsonl.gz", bomb))


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    """Opening a pipe waits for a writer for ever, and a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            untrusted.open_regular(path)
    with pytest.raises(IsADirectoryError):
        untrusted.open_regular(tmp_path)
    assert time.monotonic() - start < 5
