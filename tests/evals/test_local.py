"""Questions from files give the prompts and keys that lm-evaluation-harness's own tasks make of the hub's rows."""

from __future__ import annotations

import bz2
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cerebellum.errors import InputError
from cerebellum.evals import local

pytest.importorskip("lm_eval", reason="needs the bench extra")

from cerebellum.evals import harness
from cerebellum.evals.harness_task import HarnessTask
from cerebellum.evals.items import Likely

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
#: As the hub has them: a question with letters, one with numbers, one with three answers, one with five.
ARC: list[dict[str, Any]] = [
    {"id": "a", "question": "What melts?", "choices": {"text": ["ice", "sand", "air", "wool"], "label": list("ABCD")}, "answerKey": "A"},
    {"id": "b", "question": "What  burns?", "choices": {"text": ["ice", "wood", "sand", "salt"], "label": list("1234")}, "answerKey": "2"},
    {"id": "c", "question": "What is it?", "choices": {"text": ["one", "two", "three"], "label": list("ABC")}, "answerKey": "C"},
    {"id": "d", "question": "How many?", "choices": {"text": ["1", "2", "3", "4", "5"], "label": list("ABCDE")}, "answerKey": "E"},
]  # fmt: skip
HELLASWAG: list[dict[str, Any]] = [
    {"ind": 1, "activity_label": "Roofing", "ctx_a": "A man sits on a roof.", "ctx_b": "he", "label": "3",
     "ctx": "A man sits on a roof. he", "endings": ["is off.", "rips tiles.", "holds [title] a cube.", "starts."]},
    {"ind": 2, "activity_label": "Sawing", "ctx_a": "A saw is shown. \"Look!\"", "ctx_b": "the other man", "label": "0",
     "ctx": "A saw is shown. \"Look!\" the other man", "endings": ["saws.", "sees.", "sings.", "sits."]},
    {"ind": 3, "activity_label": "How to rest", "ctx_a": "[header] How to rest [title] Lie down. [step] Lie  still.",
     "ctx_b": "", "label": "2", "ctx": "[header] How to rest [title] Lie down. [step] Lie  still.",
     "endings": ["Run.", "Jump.", "Sleep.", "Work."]},
]  # fmt: skip


def stock(name: str, split: str, rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]], int]]:
    """The harness's own task over the hub's rows: its prompts, answers and key, by its own `build_all_requests`."""
    with harness.quiet():
        changes = {"training_split": None, "validation_split": None, f"{split}_split": split}
        task = harness.from_template(name, harness.OWN[name][0], {split: rows}, changes)
        task.set_config("num_fewshot", 0)
        task.build_all_requests()
    found: dict[int, list[Any]] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance)
    return [(str(n), [i.args for i in of], task.doc_to_target(of[0].doc)) for n, of in sorted(found.items())]


def ours(name: str, data: Path, shots: int | None = None) -> list[tuple[str, list[tuple[str, str]], int]]:
    tasks, metric, facts = harness.load(name, data, shots)
    made = HarnessTask(name, tasks, metric, facts, None, None)
    assert set(made.check().values()) == {""}
    return [
        (i.id, [(r.context, r.continuation) for r in i.requests if isinstance(r, Likely)], i.about["gold"])
        for i in made.items
    ]


def write_arc(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    (folder / "arc").mkdir()
    (folder / "arc" / "arc_challenge.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def as_local_arc(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "query": f"Question: {row['question']}",
        "choices": row["choices"]["text"],
        "gold": row["choices"]["label"].index(row["answerKey"]),
    }


@pytest.mark.parametrize("form", [as_local_arc, lambda row: row], ids=["query, choices, gold", "as on the hub"])
def test_arc_prompts_and_keys_are_the_harness_own(
    tmp_path: Path, form: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Letters and numbers as labels, three to five answers."""
    theirs = stock("arc_challenge", "test", ARC)
    assert ours("arc_challenge", write_arc(tmp_path, [form(row) for row in ARC])) == theirs
    assert [gold for *_, gold in theirs] == [0, 1, 2, 4]


def clean(text: str) -> str:
    """What the text file's makers did to the hub's rows, for these rows."""
    return (
        text.replace("[header] How to rest [title]", "How to rest.")
        .replace("[step] ", "")
        .replace("  ", " ")
        .replace(" [title]", ".")
    )


def test_hellaswag_prompts_and_keys_are_the_harness_own(tmp_path: Path) -> None:
    """From six lines a task: the unfinished last sentence gets its capital back."""
    lines = [
        line
        for r in HELLASWAG
        for line in (f"{r['activity_label']}: {clean(r['ctx'])}", r["label"], *map(clean, r["endings"]))
    ]
    (tmp_path / "hellaswag").mkdir()
    (tmp_path / "hellaswag" / "hellaswag_val_full.txt.bz2").write_bytes(
        bz2.compress(("\n".join(lines) + "\n").encode())
    )
    theirs = [(n, args, int(gold)) for n, args, gold in stock("hellaswag", "validation", HELLASWAG)]
    assert [args[0][0] for _, args, _ in theirs][:2] == [
        "Roofing: A man sits on a roof. He",
        'Sawing: A saw is shown. "Look!" The other man',
    ]
    assert ours("hellaswag", tmp_path)[:2] == theirs[:2]
    assert ours("hellaswag", tmp_path)[2][1:] == theirs[2][1:]


def test_hellaswag_from_the_hubs_own_rows(tmp_path: Path) -> None:
    (tmp_path / "hellaswag").mkdir()
    (tmp_path / "hellaswag" / "hellaswag.jsonl").write_text("".join(json.dumps(r) + "\n" for r in HELLASWAG))
    found = ours("hellaswag", tmp_path)
    assert [args for _, args, _ in found] == [args for _, args, _ in stock("hellaswag", "validation", HELLASWAG)]


def test_mmlu_redux_leaves_out_faulty_questions_and_shows_five_examples(tmp_path: Path) -> None:
    def row(n: int, **more: Any) -> dict[str, Any]:
        return {
            "subject": "anatomy",
            "question": f" Bone {n}? ",
            "choices": ["w", "x", "y", "z"],
            "answer": n % 4,
            **more,
        }

    for folder, name, rows in (
        ("mmlu", "mmlu_dev", [row(n) for n in range(5)]),
        (
            "mmlu-redux",
            "mmlu_redux",
            [row(6, error_type="ok"), row(7, error_type="wrong_groundtruth"), row(8, error_type="ok")],
        ),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    fewer, *_ = ours("mmlu_redux", tmp_path, 1)
    assert fewer[1][0][0].count("Answer:") == 2
    found = ours("mmlu_redux", tmp_path)
    assert [gold for *_, gold in found] == [2, 0]
    (context, first), *_ = found[0][1]
    assert (
        context.count("Answer:") == 6
        and context.endswith("\nBone 6?\nA. w\nB. x\nC. y\nD. z\nAnswer:")
        and first == " A"
    )
    assert "anatomy" in context.splitlines()[0] and "\nBone 4?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n" in context


@pytest.mark.parametrize(
    ("names", "shots", "says"),
    [
        (["mmlu_redux"], 6, "mmlu_redux has at most 5 .*--shots 5"),
        (["world_facts", "mmlu_redux"], 6, "--shots 5"),
        (["arc_challenge", "humaneval"], 1, "arc_challenge, humaneval: asked without examples"),
        (["mmlu_redux"], 5, None),
        (["world_facts", "mmlu_redux"], 2, None),
        (["arc_challenge"], 0, None),
        (["piqa"], 20, None),
    ],
)
def test_more_examples_than_any_task_has_are_refused(names: list[str], shots: int, says: str | None) -> None:
    harness.check_shots(names, None)
    if says is None:
        harness.check_shots(names, shots)
        return
    with pytest.raises(InputError, match=says):
        harness.check_shots(names, shots)


def test_a_limit_takes_subjects_in_turn(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs the shared data")
    tasks, metric, facts = harness.load("mmlu_redux", SHARED)
    made = HarnessTask("mmlu_redux", tasks[:3], metric, facts, 7, None)
    assert [i.id.split("/")[1] for i in made.items] == ["0", "0", "0", "1", "1", "1", "2"]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Clean: A lady walks. She bends. the lady", "Clean: A lady walks. She bends. The lady"),
        ("Fun: We see people! they Wave", "Fun: We see people! They wave"),
        ("How to rest: Lie down. Sleep.", "How to rest: Lie down. Sleep."),
        ("Quiet: \"who is it?\" he", "Quiet: \"who is it?\" He"),
        ("nothing ended here", "nothing ended here"),
    ],
)  # fmt: skip
def test_an_unfinished_sentence_begins_with_a_capital(text: str, whole: str) -> None:
    assert local.begun_sentence(text) == whole


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": "Question: x", "choices": ["a", "b"], "gold": 3}, "question 1: its key names none"),
        ({"question": "x", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}, "question 1: its key names none"),
        ({"query": "x"}, "question 1: its key names none of its choices, or a field is missing"),
        ({"query": "x", "choices": "ab", "gold": 0}, "question 1: query must be a text, choices a list"),
        ({"query": None, "choices": ["a", "b"], "gold": 0}, "question 1: query must be a text, choices a list"),
    ],
)  # fmt: skip
def test_a_row_without_a_key_among_its_choices_is_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        local.arc_challenge(write_arc(tmp_path, [row]))


def test_missing_torn_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no arc_challenge\.jsonl"):
        local.arc_challenge(tmp_path)
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval" / "HumanEval.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="can't read"):
        local.humaneval(tmp_path)
    (tmp_path / "hellaswag").mkdir()
    (tmp_path / "hellaswag" / "hellaswag_val_full.txt").write_text("one\n2\na\nb\nc\n")
    with pytest.raises(InputError, match="six make a task"):
        local.hellaswag(tmp_path)
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "arc_challenge.jsonl").write_text('{"query": "x", "choices": ["a"], "gold": 0}\n[1]\n')
    with pytest.raises(InputError, match="line 2 is no JSON object"):
        local.arc_challenge(tmp_path)
