"""`bench`: question sets asked of a file, its base and its reference, paired item by item, and judged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum import gguf_file
from cerebellum.answers import Responder
from cerebellum.backend import Backend, Settings
from cerebellum.errors import InputError, RefusedError, TextError
from cerebellum.flips import share_interval
from cerebellum.keys import content_key
from cerebellum.progress import Progress, Silent
from cerebellum.sandbox import Sandbox
from cerebellum.stats import Interval, mean_interval
from cerebellum.store import Study
from cerebellum.tasks.asking import Asker, Forgetful, Memory
from cerebellum.tasks.items import Item, Judged, Likely, Reply, Task
from cerebellum.tasks.pairs import Pair, is_binary, pair
from cerebellum.tasks.sets import Sets, expand
from cerebellum.tasks.spoiled import Tally, tally, why_unusable
from cerebellum.verbs.divergence import opened_study
from cerebellum.verbs.job import cached_sha256, make_folder
from cerebellum.verbs.write import write_text

#: Part of every answer's key: how requests are made into tokens.
ASKING_VERSION = 1
FILE, BASE, REFERENCE = "file", "base", "reference"
PASS, FAIL, TOO_FEW = "pass", "fail", "too few items to tell"


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked and how. ``limit``: so many items a task. ``margin``: share of the items that may be lost, None: the task's own.

    ``n_samples`` replies to each function to write: one is greedy, several are drawn. ``unsafe``: run code without a sandbox if need be.
    """

    tasks: tuple[str, ...]
    data: Path | None = None
    limit: int | None = None
    margin: float | None = None
    chat: bool = False
    n_samples: int = 1
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """One file's answers to one task. ``value`` is the score (0 … 1 for most), ``interval`` Wilson's where items are right or wrong.

    ``unusable``: why the score says nothing of the file, or "". ``values``: item → value.
    """

    role: str
    n: int
    value: float
    interval: Interval | None
    metrics: Mapping[str, float]
    spoiled: Tally
    unusable: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A task's scores by file, the file against each of the others, and the word of its gate ("" without a base, or where unusable)."""

    name: str
    metric: str
    margin: float
    facts: Mapping[str, Any]
    checks: Mapping[str, str]
    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    word: str

    def score(self, role: str) -> Score:
        return next(score for score in self.scores if score.role == role)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """``files``: role → name, sha256 and size. ``word``: the gate over all tasks, "" where there is nothing to compare with."""

    files: Mapping[str, Mapping[str, Any]]
    tasks: tuple[TaskResult, ...]
    word: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def refuse_loss(self) -> None:
        """Raises `RefusedError` where a task's gate failed."""
        if lost := [task.name for task in self.tasks if task.word == FAIL]:
            raise RefusedError(
                f"{self.files[FILE]['file']} loses on {', '.join(lost)} against {self.files[BASE]['file']}"
            )


def bench_files(
    backend: Backend,
    files: Mapping[str, Path],
    options: BenchOptions,
    settings: Settings,
    out: Path | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Ask every file (role → path; `FILE` must be there). With ``out`` answers stay there and the same call goes on where it stopped.

    Raises a `CerebellumError`; whatever was answered by then is kept.
    """
    questions = prepared(files, options)
    with opened_study(out) as (folder, study):
        return bench_study(backend, study, files, questions, settings, folder if out else None, progress)


def bench_study(
    backend: Backend,
    study: Study,
    files: Mapping[str, Path],
    questions: Questions,
    settings: Settings,
    folder: Path | None,
    progress: Progress | None = None,
) -> BenchResult:
    """`bench_files` in a study that is open; ``folder`` is where the items go (None: nowhere)."""
    options, names, sets = questions.options, questions.names, questions.sets
    ground = Ground(backend, study, settings, options, sets, folder, progress or Silent())
    asked = {role: ask_file(ground, role, path, names) for role, path in files.items()}
    told = {
        role: {"file": p.name, "sha256": cached_sha256(study, p), "bytes": p.stat().st_size}
        for role, p in files.items()
    }
    tasks = tuple(task_result(name, {role: of[name] for role, of in asked.items()}, options) for name in names)
    facts = {"build": backend.id, "settings": settings.as_key(), "chat": options.chat, "limit": options.limit}
    if sets.sandbox is not None:
        facts["sandbox"] = sets.sandbox.describe()
    result = BenchResult(told, tasks, gate_of([task.word for task in tasks]), facts)
    if folder is not None:
        from cerebellum.report.bench import bench_json

        write_text(folder / "bench.json", json.dumps(bench_json(result), indent=2, ensure_ascii=False) + "\n")
    return result


@dataclass(frozen=True, slots=True)
class Questions:
    """The tasks by name, with their data loaded and a sandbox found where code is to be run."""

    options: BenchOptions
    names: tuple[str, ...]
    sets: Sets


def prepared(files: Mapping[str, Path], options: BenchOptions) -> Questions:
    """Everything that can fail before a model answers. Raises `InputError`, `ModelFileError` or `SandboxError`."""
    for path in files.values():
        gguf_file.read_model(path)
    if options.margin is not None and not 0.0 <= options.margin < 1.0:
        raise InputError(f"a margin of {100 * options.margin:g} points must lie between 0 and 100")
    if options.n_samples < 1 or (options.limit is not None and options.limit < 1):
        raise InputError("--samples and --limit are numbers of at least 1")
    if options.data is not None and not options.data.is_dir():
        raise InputError(f"there is no folder {options.data} to take the questions from")
    names = expand(options.tasks)
    sets = Sets(
        options.data, options.limit, options.n_samples, lambda: Sandbox.find(options.unsafe), unsafe=options.unsafe
    )
    sets.prepare(names)
    return Questions(options, names, sets)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all files of a benchmark share; ``folder`` None: nothing is kept."""

    backend: Backend
    study: Study
    settings: Settings
    options: BenchOptions
    sets: Sets
    folder: Path | None
    progress: Progress


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as one file was asked it, with the replies and what they were judged."""

    task: Task
    checks: Mapping[str, str]
    replies: Sequence[Sequence[Reply]]
    judged: Sequence[Judged]


class StudyMemory:
    """See `cerebellum.tasks.asking.Memory`: one file's answers in a study."""

    def __init__(self, study: Study, file: str) -> None:
        self._study, self._file = study, file

    def known(self) -> Mapping[str, str]:
        return self._study.answers(self._file)

    def keep(self, request: str, answer: str) -> None:
        self._study.add_answer(self._file, request, answer)


@contextlib.contextmanager
def memory_of(backend: Backend, path: Path, settings: Settings, out: Path | None) -> Iterator[Memory]:
    """Where a file's answers are kept in the folder ``out``; None: nowhere."""
    if out is None:
        yield Forgetful()
        return
    with opened_study(out) as (_, study):
        yield study_memory(study, backend, path, settings)


def study_memory(study: Study, backend: Backend, path: Path, settings: Settings) -> StudyMemory:
    """A file's answers in a study, under this build and these settings."""
    key = {"sha256": cached_sha256(study, path), "build": backend.id, "settings": settings.as_key()}
    return StudyMemory(study, content_key("asked", {**key, "version": ASKING_VERSION}))


def ask_file(ground: Ground, role: str, path: Path, names: Sequence[str]) -> dict[str, Asked]:
    """All tasks asked of one file, and its items written to ``bench/TASK-ROLE.jsonl``."""
    memory = study_memory(ground.study, ground.backend, path, ground.settings)
    found = {}
    with contextlib.closing(ground.backend.respond(path, ground.settings)) as responder:
        asker = Asker(responder, memory, ground.progress)
        for name in names:
            task = ground.sets.task(name, render_of(responder, path) if ground.options.chat else None)
            found[name] = ask_task(ground, asker, task, f"{name}, {role}")
            if ground.folder is not None:
                make_folder(ground.folder / "bench")
                write_text(ground.folder / "bench" / f"{name}-{role}.jsonl", item_lines(found[name]))
    return found


def render_of(responder: Responder, path: Path) -> Any:
    """The model's own chat template. Raises `TextError` without one."""
    if not responder.chat_template:
        raise TextError(f"{path.name} has no chat template; leave out --chat")
    return responder.render


def ask_task(ground: Ground, asker: Asker, task: Task, what: str) -> Asked:
    """Self-tests, then questions, then judgement."""
    checks = task.check()
    for name, said in checks.items():
        if said:
            ground.progress.note(
                f"warning: {task.name} fails its self-test, its score will be unusable. {name}: {said}"
            )
    replies = grouped(task.items, asker.ask([r for item in task.items for r in item.requests], what))
    judged = judge_all(ground, task, replies, what)
    return Asked(task, checks, replies, judged)


def judge_all(ground: Ground, task: Task, replies: Sequence[Sequence[Reply]], what: str) -> list[Judged]:
    """Every item judged; running what was written takes a while, so it is shown."""
    ground.progress.begin(f"judging {what}", len(task.items))
    try:
        judged = []
        for item, of_one in zip(task.items, replies, strict=True):
            judged.append(task.judge(item, of_one))
            ground.progress.step()
        return judged
    finally:
        ground.progress.end()


def grouped(items: Sequence[Item], replies: Sequence[Reply]) -> list[list[Reply]]:
    """The replies by item."""
    left = iter(replies)
    return [[next(left) for _ in item.requests] for item in items]


# -- figures -----------------------------------------------------------------------------------------------------------


def task_result(name: str, asked: Mapping[str, Asked], options: BenchOptions) -> TaskResult:
    """Scores and pairs of one task over its files."""
    task = asked[FILE].task
    tallies = {role: tally(a.task.items, a.replies, a.judged) for role, a in asked.items()}
    scores = {role: score_of(role, a, tallies) for role, a in asked.items()}
    margin = task.margin if options.margin is None else options.margin
    others = [role for role in (BASE, REFERENCE) if role in asked]
    pairs = []
    for role in others:
        gated = role == BASE and not (scores[FILE].unusable or scores[role].unusable)
        pairs.append(pair(FILE, role, scores[FILE].values, scores[role].values, margin if gated else None))
    if len(others) == 2:
        pairs.append(pair(BASE, REFERENCE, scores[BASE].values, scores[REFERENCE].values, None))
    word = next((p.gate.word for p in pairs if p.gate), "")
    return TaskResult(
        name, task.metric, margin, task.facts, asked[FILE].checks, tuple(scores.values()), tuple(pairs), word
    )


def score_of(role: str, asked: Asked, tallies: Mapping[str, Tally]) -> Score:
    """One file's score, and whether it may be used."""
    task, n = asked.task, len(asked.judged)
    names = dict.fromkeys(name for j in asked.judged for name in j.metrics)
    metrics = {m: task.score(m, [j.metrics[m] for j in asked.judged if m in j.metrics]) for m in names}
    values = {i.id: as_value(j.metrics[task.metric]) for i, j in zip(task.items, asked.judged, strict=True)}
    others = [t for other, t in tallies.items() if other != role]
    unusable = why_unusable(tallies[role], others, asked.checks)
    return Score(role, n, metrics[task.metric], interval_of(values), metrics, tallies[role], unusable, values)


def as_value(metric: Any) -> float:
    """An item's value as a number: of a (sum, weight) pair the mean."""
    if isinstance(metric, tuple | list):
        return float(metric[0]) / float(metric[1])
    return float(metric)


def interval_of(values: Mapping[str, float]) -> Interval | None:
    """Wilson's interval where items are right or wrong, else that of the mean; None for one item."""
    if is_binary(values):
        return share_interval(sum(v == 1.0 for v in values.values()), len(values))
    return mean_interval(list(values.values())) if len(values) > 1 else None


def gate_of(words: Sequence[str]) -> str:
    """One word over all tasks: a single fail fails, a task that can't tell leaves it open; "" where none was judged."""
    for word in (FAIL, TOO_FEW, PASS):
        if word in words:
            return word
    return ""


def item_lines(asked: Asked) -> str:
    """One JSON object an item: what was asked, what was replied, how it was judged."""
    rows = zip(asked.task.items, asked.replies, asked.judged, strict=True)
    return "".join(json.dumps(item_row(asked.task, *row), ensure_ascii=False) + "\n" for row in rows)


def item_row(task: Task, item: Item, replies: Sequence[Reply], judged: Judged) -> dict[str, Any]:
    """An item as plain data."""
    first = item.requests[0]
    asked = {
        "prompt": first.context if isinstance(first, Likely) else getattr(first, "prompt", getattr(first, "text", ""))
    }
    gold = {name: item.about[name] for name in ("options", "gold") if name in item.about}
    said = [{"nats": r.nats, "n_tokens": r.n_tokens} if isinstance(first, Likely) else reply_text(r) for r in replies]
    flags = sorted({flag for reply in replies for flag in reply.flags})
    return {
        "id": item.id, "value": as_value(judged.metrics[task.metric]), "metrics": dict(judged.metrics), "chosen": judged.chosen,
        **gold, "problems": [*flags, *([judged.problem] if judged.problem else [])], "detail": judged.detail, **asked, "replies": said,
    }  # fmt: skip


def reply_text(reply: Reply) -> dict[str, Any]:
    """What was written, or how likely a text was."""
    if reply.ended:
        return {"text": reply.text, "n_tokens": reply.n_tokens, "ended": reply.ended}
    return {"nats": reply.nats, "n_tokens": reply.n_tokens}
