"""lm-evaluation-harness's tasks, loaded: from the hub as they are, or on questions from files. `harness_task` makes them ours.

Any of its tasks works by its name. Three are taken in hand, so that they can be asked offline from files with the very prompts that its own
task of that name makes: ``arc_challenge``, ``hellaswag``, and ``mmlu_redux`` in the form of its ``mmlu`` (five examples, the likeliest of
four letters) where its own lets the model write. HumanEval is ours (`cerebellum.evals.code`): its own runs what a model wrote unguarded.
"""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError
from cerebellum.evals import local
from cerebellum.evals.harness_metric import metric_of
from cerebellum.evals.hub import hub
from cerebellum.evals.world import WORLD

#: Our names, where the harness keeps their templates, and the metric that is the score.
OWN = {
    "arc_challenge": ("arc", "acc_norm"),
    "hellaswag": ("hellaswag", "acc_norm"),
    "mmlu_redux": ("mmlu/default", "acc"),
}
MMLU_SHOTS = 5
OWN_NAMES = ("world", *WORLD, "humaneval", *OWN)
#: As the extra ``bench`` of pyproject.toml has it.
REQUIREMENT = "lm_eval>=0.4.9,<0.5"
MMLU_REDUX, MMLU, HUMANEVAL = "fxmarty/mmlu-redux-2.0-ok", "cais/mmlu", "openai/openai_humaneval"


def need_harness() -> None:
    """Raises `InputError` where lm-evaluation-harness isn't installed."""
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"all but the small world's tasks need lm-evaluation-harness ({error}): pip install '{REQUIREMENT}'"
        ) from error


def load(name: str, data: Path | None, shots: int | None = None) -> tuple[list[Any], str, dict[str, Any]]:
    """(the harness's task objects, the metric that is the score, facts) of a task, tag or group; ``shots``: so many examples before each
    question, None: as many as the task has. Raises `InputError`."""
    need_harness()
    with quiet():
        if name not in OWN:
            tasks, metric, facts = _stock(name)
            if shots is not None:
                for task in tasks:
                    if shots and task.config.num_fewshot == 0:
                        raise InputError(
                            f"{name} is made to be asked without examples; leave out --shots, which the harness would ignore"
                        )
                    task.set_config("num_fewshot", shots)
            return tasks, metric, facts
        shown = MMLU_SHOTS if shots is None else shots
        if data is not None:
            tasks, facts = _offline(name, data, shown)
        else:
            tasks, facts = _online(name, shown)
        return tasks, OWN[name][1], {**facts, "template": f"lm-evaluation-harness {version()}, {OWN[name][0]}"}


def check_shots(names: Iterable[str], shots: int | None) -> None:
    """Raises `InputError` where a task can't have so many examples before each question, or all are asked without any. Of several tasks
    those that have none are asked without."""
    asked = tuple(names)
    if "mmlu_redux" in asked and (shots or 0) > MMLU_SHOTS:
        raise InputError(
            f"mmlu_redux has at most {MMLU_SHOTS} examples before each question; give --shots {MMLU_SHOTS} (in run --bench-shots), "
            "or leave it out"
        )
    if shots and all(name in OWN_NAMES and name != "mmlu_redux" for name in asked):
        raise InputError(
            f"{', '.join(asked)}: asked without examples before each question; leave out --shots (in run --bench-shots)"
        )


@functools.cache
def _manager() -> Any:
    """The harness's own tasks: it reads some thousands of files to know them, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _stock(name: str) -> tuple[list[Any], str, dict[str, Any]]:
    manager = _manager()
    if name not in manager.all_tasks:
        known = (*OWN_NAMES, *manager.all_tasks)
        near = difflib.get_close_matches(name, OWN_NAMES, 1) or difflib.get_close_matches(name, known, 1)
        raise InputError(
            f"there is no task {name!r}{f'; did you mean {near[0]}?' if near else '.'} Our own: {', '.join(OWN_NAMES)}. Others are "
            f"those of lm-evaluation-harness {version()}: cerebellum lm-eval ls tasks"
        )
    with hub(name, local=False):
        tasks = list(manager.load([name])["tasks"].values())
    return tasks, metric_of(name, tasks), {"data": "hub", "template": f"lm-evaluation-harness {version()}, {name}"}


def _offline(name: str, data: Path, shots: int) -> tuple[list[Any], dict[str, Any]]:
    if name == "mmlu_redux":
        asked, shown = local.mmlu_redux(data)
        for questions in (asked, shown):
            local.check_subjects(questions, subjects())
        splits = {s: {"test": rows, "dev": _of(shown.rows, s)} for s, rows in by_subject(asked.rows).items()}
        facts = {"data": f"{asked.file} (error_type ok), {shown.file}", "sha256": asked.sha256}
        return _mmlu(splits, shots), facts
    data_set = local.arc_challenge(data) if name == "arc_challenge" else local.hellaswag(data)
    changes: dict[str, Any] = {"training_split": None}
    if name == "arc_challenge":
        changes |= {"validation_split": None}
    elif "query" in data_set.rows[0]:
        changes |= {"process_docs": None}
    split = "test" if name == "arc_challenge" else "validation"
    task = from_template(name, OWN[name][0], {split: data_set.rows}, changes)
    return [task], {"data": data_set.file, "sha256": data_set.sha256}


def _online(name: str, shots: int) -> tuple[list[Any], dict[str, Any]]:
    from datasets import load_dataset

    with hub(name):
        if name != "mmlu_redux":
            return [from_template(name, OWN[name][0], None, {})], {"data": "hub"}
        splits = {
            s: {
                "test": list(load_dataset(MMLU_REDUX, s, split="test")),
                "dev": list(load_dataset(MMLU, s, split="dev")),
            }
            for s in subjects()
        }
    return _mmlu(splits, shots), {"data": f"{MMLU_REDUX}, {MMLU}"}


def subjects() -> list[str]:
    """MMLU's subjects, as the harness's templates name them; asking the hub for them would fail where only its cache is at hand."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / OWN["mmlu_redux"][0]
    return sorted(path.stem.removeprefix("mmlu_") for path in folder.glob("mmlu_*.yaml"))


def _mmlu(splits: Mapping[str, Mapping[str, Sequence[Any]]], shots: int) -> list[Any]:
    folder = OWN["mmlu_redux"][0]
    return [
        from_template(
            f"mmlu_{s}", folder, {n: [_four(r) for r in rows] for n, rows in of.items()}, {"num_fewshot": shots}
        )
        for s, of in splits.items()
    ]


def _four(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the template reads."""
    return {name: row[name] for name in ("question", "choices", "answer")}


def by_subject(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by their subject, in their order."""
    out: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        out.setdefault(row["subject"], []).append(row)
    return out


def _of(rows: Iterable[Mapping[str, Any]], subject: str) -> list[Mapping[str, Any]]:
    examples = [row for row in rows if row["subject"] == subject]
    if len(examples) < MMLU_SHOTS:
        raise InputError(f"{len(examples)} examples for {subject}, {MMLU_SHOTS} are needed before each question")
    return examples


def from_template(
    name: str, subfolder: str, splits: Mapping[str, Sequence[Mapping[str, Any]]] | None, changes: Mapping[str, Any]
) -> Any:
    """The harness's task ``name``, whose files are in its folder ``subfolder``, on other rows: split → rows. None: on the hub's."""
    import lm_eval.tasks
    from datasets import Dataset

    changes = dict(changes)
    if splits is not None:
        made = {split: Dataset.from_list([dict(row) for row in rows]) for split, rows in splits.items()}
        changes |= {"custom_dataset": lambda **_: made}
    folder = Path(lm_eval.tasks.__file__).parent / subfolder
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=str(folder))
    loaded = manager.load([{"group": "cerebellum", "task": [{"task": name, **changes}]}])
    return loaded["tasks"][name]


def version() -> str:
    """The harness's version."""
    from importlib.metadata import version as of

    return of("lm_eval")


class quiet:
    """The harness's log and its data sets' bars silent for a while: what matters of them is in the result."""

    def __enter__(self) -> None:
        import datasets

        self._log = logging.getLogger("lm_eval")
        self._before = self._log.level, datasets.are_progress_bars_disabled()
        self._log.setLevel(logging.ERROR)
        datasets.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        import datasets

        self._log.setLevel(self._before[0])
        if not self._before[1]:
            datasets.enable_progress_bars()
