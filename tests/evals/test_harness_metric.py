"""The score of a task of lm-evaluation-harness is a metric that two files can be paired on, or the task is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import cerebellum
from cerebellum.errors import InputError
from cerebellum.evals.plain import bench_json
from cerebellum.evals.score import BenchResult
from cerebellum.report.bench import bench_grid
from cerebellum.testing import write_fake_model
from tests.evals.toy import Toy, ToyBackend

pytest.importorskip("lm_eval", reason="needs the bench extra")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

from cerebellum.evals import harness  # noqa: E402
from cerebellum.evals.harness_metric import metric_of  # noqa: E402

ACC, MCC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}, {"metric": "mcc"}
EXACT, BLEU = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}, {"metric": "bleu"}
CHOICES = {"output_type": "multiple_choice", "doc_to_choice": ["yes", "no"], "doc_to_target": "{{gold}}"}
TEXTS = {"output_type": "generate_until", "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["\n"]}}
ROWS: list[dict[str, Any]] = [
    {"question": f"Is {n} odd", "gold": 1 - n % 2, "answer": "yes" if n % 2 else "no"} for n in range(20)
]


def made(kind: Mapping[str, Any], *metrics: Mapping[str, Any], name: str = "odd", **more: Any) -> Any:
    """A task object of the harness."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    rows = Dataset.from_list(ROWS)
    config = {
        "task": name, "custom_dataset": lambda **_: {"test": rows}, "test_split": "test", "doc_to_text": "{{question}}?", **kind,
        "metric_list": [dict(metric) for metric in metrics], **more,
    }  # fmt: skip
    with harness.quiet():
        return TaskManager(include_defaults=False).load([config])["tasks"][name]


def bench(monkeypatch: pytest.MonkeyPatch, folder: Path, tasks: Sequence[Any], toys: Mapping[str, Toy]) -> BenchResult:
    """`file` against `base`, on a task that the harness has loaded."""
    monkeypatch.setattr(harness, "load", lambda name, data, shots: (tasks, metric_of(name, tasks), {"data": "made up"}))
    file, base = (write_fake_model(folder / f"{role}.gguf", n_blocks=n) for n, role in enumerate(("file", "base"), 1))
    return cerebellum.bench(
        file,
        "odd",
        against=base,
        out=folder / "out",
        backend=ToyBackend(toys={f"{r}.gguf": t for r, t in toys.items()}),
    )


@pytest.mark.parametrize(
    ("kind", "metrics", "score"),
    [
        (CHOICES, (ACC, MCC), "acc"),
        (CHOICES, (MCC, ACC), "acc"),
        (CHOICES, ({"metric": "f1"}, {"metric": "brier_score"}, ACC), "acc"),
        (TEXTS, (BLEU, {"metric": "chrf"}, EXACT), "exact_match"),
        (TEXTS, ({**EXACT, "higher_is_better": False}, {**ACC}), "acc"),
    ],
)
def test_the_first_mean_of_which_more_is_better_is_the_score(
    kind: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], score: str
) -> None:
    assert metric_of("odd", [made(kind, *metrics)]) == score


@pytest.mark.parametrize(
    ("kind", "metrics", "says"),
    [
        (CHOICES, (MCC,), r"^odd has no metric .*mcc \(over all items only\)\. cerebellum lm-eval .*--tasks odd"),
        (TEXTS, (BLEU, {"metric": "ter"}), r"bleu \(over all items only\), ter \(over all items only\)"),
        (TEXTS, ({**EXACT, "higher_is_better": False},), r"exact_match \(less is better\)"),
        (
            {"output_type": "loglikelihood_rolling", "doc_to_target": "{{question}}"},
            ({"metric": "word_perplexity"}, {"metric": "bits_per_byte"}),
            r"word_perplexity \(over all items only\)",
        ),
    ],
)
def test_a_task_without_one_is_refused_by_name(
    kind: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        metric_of("odd", [made(kind, *metrics)])


def test_of_a_group_each_task_must_have_it() -> None:
    both, one, other = made(CHOICES, MCC, ACC), made(CHOICES, ACC, name="one"), made(CHOICES, MCC, name="other")
    assert metric_of("group", [both, one]) == "acc"
    with pytest.raises(InputError, match=r"^group \(other\) has no metric .*--tasks group gives"):
        metric_of("group", [both, other])
    exact = made(CHOICES, EXACT, name="exact")
    with pytest.raises(InputError, match="no metric in common; name them one by one: one, exact"):
        metric_of("group", [one, exact])


def preferring(wrong: int) -> Toy:
    """Right but for the first ``wrong`` questions."""
    answers = {row["question"]: row["answer"] for row in ROWS}
    missed = {row["question"] for row in ROWS[:wrong]}

    def nats(context: str, continuation: str) -> float:
        question = context.rstrip("?")
        return -0.1 if (answers[question] == continuation.strip()) != (question in missed) else -9.0

    return Toy(nats=nats, reply=lambda prompt: answers[prompt.rstrip("?")] if prompt.rstrip("?") not in missed else "-")


@pytest.mark.parametrize(("kind", "metrics"), [(CHOICES, (MCC, ACC)), (TEXTS, (BLEU, EXACT))])
def test_items_are_paired_and_written_whatever_else_the_task_gives(
    kind: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the other metrics keep of an item (pairs with numpy's numbers, say) reaches its line as plain data."""
    pytest.importorskip("sklearn")
    result = bench(monkeypatch, tmp_path, [made(kind, *metrics)], {"file": preferring(8), "base": preferring(0)})
    (task,) = result.tasks
    assert [score.value for score in task.scores] == [0.6, 1.0] and task.word == "fail"
    assert task.pairs[0].flips and task.pairs[0].flips.lost == 8
    lines = [json.loads(line) for line in (tmp_path / "out" / "bench" / "odd-file.jsonl").read_text().splitlines()]
    assert sum(line["value"] for line in lines) == 12 and len(lines[0]["metrics"]) == 2
    json.dumps(bench_json(result), allow_nan=False)


def test_a_function_that_names_its_numbers_itself_is_read_by_those_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def pass_at(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        return {"pass@1": float(references == predictions)}

    own = {"metric": pass_at, "aggregation": "mean", "higher_is_better": True}
    result = bench(monkeypatch, tmp_path, [made(TEXTS, own)], {"file": preferring(5), "base": preferring(0)})
    assert result.tasks[0].metric == "pass@1" and result.tasks[0].score("file").value == 0.75


def test_values_that_are_no_shares_are_not_judged_by_a_margin_in_points(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Found on the key's own answer before anything is asked: then another metric, or none; or else when it turns out."""

    def percent(references: Sequence[str], predictions: Sequence[str]) -> float:
        return 100.0 * (references == predictions)

    def penalty(references: Sequence[str], predictions: Sequence[str]) -> float:
        return 1.0 if references == predictions else -7.0

    toys = {"file": preferring(5), "base": preferring(0)}
    percent_, penalty_ = ({**EXACT, "metric": each} for each in (percent, penalty))
    assert bench(monkeypatch, tmp_path, [made(TEXTS, percent_, EXACT)], toys).tasks[0].metric == "exact_match"
    n_before = toys["file"].n_answered
    with pytest.raises(InputError, match=r"percent \(100\.0 for an item\)"):
        bench(monkeypatch, tmp_path, [made(TEXTS, percent_)], toys)
    assert toys["file"].n_answered == n_before
    result = bench(monkeypatch, tmp_path, [made(TEXTS, penalty_)], toys)
    assert result.word == "not judged" and "-7, which is no share" in result.tasks[0].score("file").unusable
    assert "unusable" in str(bench_grid(result).rows)


def test_a_judge_of_the_harness_that_fails_is_an_error_that_names_the_item(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(references: Sequence[str], predictions: Sequence[str]) -> float:
        raise RuntimeError("no such thing")

    own = {"metric": broken, "aggregation": "mean", "higher_is_better": True}
    with pytest.raises(InputError, match=r"odd, item 0: .*own judge fails .RuntimeError: no such thing"):
        bench(monkeypatch, tmp_path, [made(TEXTS, own)], {"file": preferring(0), "base": preferring(0)})


def test_examples_are_shown_as_asked_but_not_to_a_task_that_is_made_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness never overrides a task's own 0 either."""
    from cerebellum.evals.harness_task import HarnessTask

    tasks = {"shown": made(CHOICES, ACC, fewshot_split="test"), "none": made(CHOICES, ACC, num_fewshot=0)}
    monkeypatch.setattr(harness, "_stock", lambda name: ([tasks[name]], "acc", {}))
    item = HarnessTask("shown", *harness.load("shown", None, 3), 1, None).items[0]
    assert item.requests[0].context.count("?") == 4  # type: ignore[union-attr]
    with pytest.raises(InputError, match="none is made to be asked without examples"):
        harness.load("none", None, 3)
    harness.load("none", None, 0)
    with pytest.raises(InputError, match=r"^shown: .* can't make its prompts .*try fewer --shots"):
        HarnessTask("shown", *harness.load("shown", None, 30), 1, None)


def test_a_task_that_has_no_score_is_refused_before_any_other_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What its judge gives is known only from an item: a percentage here, of the second task of a group."""
    odd = made(CHOICES, ACC, name="second")
    monkeypatch.setattr(odd, "process_results", lambda doc, results: {"acc": 100.0})
    monkeypatch.setattr(harness, "load", lambda name, data, shots: ([made(CHOICES, ACC, name="first"), odd], "acc", {}))
    file = write_fake_model(tmp_path / "file.gguf")
    with pytest.raises(InputError, match=r"odd has no metric .*acc \(100\.0 for an item\)"):
        cerebellum.bench(file, ["world_facts", "odd"], out=tmp_path / "out", backend=ToyBackend(toys={}))
    assert not (tmp_path / "out").exists()
