"""`bench`: question sets asked of a file, its base and its reference, paired item by item, and judged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError, OutputError, TextError
from cerebellum.evals.asking import Asker, Forgetful, Memory
from cerebellum.evals.items import Item, Reply, Task
from cerebellum.evals.lines import item_lines
from cerebellum.evals.plain import bench_json
from cerebellum.evals.sandbox import Sandbox
from cerebellum.evals.score import BASE, FILE, REFERENCE, UNJUDGED, Asked, BenchResult, gate_of, task_result
from cerebellum.evals.sets import CODE, Sets, expand
from cerebellum.files import BENCH_FILES, make_folder, write_text
from cerebellum.gguf import model_file
from cerebellum.gguf.next_token import check_predicts
from cerebellum.gguf.vocabulary import first_other_token, token_list
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress, Silent
from cerebellum.quoting import strict_json
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.study.store import Study
from cerebellum.text.chat import TEMPLATE
from cerebellum.verbs.judging import judge_all
from cerebellum.verbs.workspace import Workspace, opened_workspace

#: Part of every answer's key: how requests are made into tokens.
ASKING_VERSION = 1


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is asked and how. ``limit``: so many items a task. ``margin``: share of the items that may be lost, None: the task's own.

    ``n_samples`` replies to each function to write: one is greedy, several are drawn. ``unsafe``: run code without a sandbox if need be.
    ``shots``: examples before each question, None: the task's own number.
    """

    tasks: tuple[str, ...]
    data: Path | None = None
    limit: int | None = None
    margin: float | None = None
    chat: bool = False
    n_samples: int = 1
    unsafe: bool = False
    shots: int | None = None


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
    with opened_workspace(backend, settings, out, files.values(), progress or Silent(), BENCH_FILES) as workspace:
        return bench_in(workspace, files, questions, out)


def bench_in(workspace: Workspace, files: Mapping[str, Path], questions: Questions, folder: Path | None) -> BenchResult:
    """`bench_files` in a study that is open; ``folder`` is where the items go (None: nowhere)."""
    names, margin = questions.names, questions.options.margin
    vocabularies: dict[str, int] = {}
    workspace.warn(other_tokens(files))
    asked = {role: ask_file(workspace, questions, role, files, vocabularies, folder) for role in files}
    described = {
        role: {"file": p.name, "sha256": workspace.sha256(p), "bytes": model_file.read_model(p).file_bytes}
        for role, p in files.items()
    }
    tasks = tuple(task_result(name, {role: of[name] for role, of in asked.items()}, margin) for name in names)
    words = [task.word for task in tasks]
    if BASE in files and (other_vocabulary(BASE, files, vocabularies) or other_tokens(files, (BASE,))):
        words.append(UNJUDGED)  # whatever was measured, it is not what quantizing cost
    result = BenchResult(described, tasks, gate_of(words), facts_of(workspace, questions))
    if folder is not None:
        remove_stale(folder / "bench", names, files)
        write_text(folder / "bench.json", strict_json(bench_json(result)) + "\n")
    return result


def facts_of(workspace: Workspace, questions: Questions) -> dict[str, Any]:
    """With what it was asked, and what there is to warn of."""
    options, sandbox = questions.options, questions.sets.sandbox
    facts: dict[str, Any] = {"build": workspace.backend.id, "settings": workspace.settings.as_key()}
    facts |= {"chat": options.chat, "limit": options.limit}
    facts |= {"warnings": list(workspace.warnings)} if workspace.warnings else {}
    return facts | ({"sandbox": sandbox.describe()} if sandbox is not None else {})


@dataclass(frozen=True, slots=True)
class Questions:
    """The tasks by name, with their data loaded and a sandbox found where code is to be run."""

    options: BenchOptions
    names: tuple[str, ...]
    sets: Sets


def prepared(files: Mapping[str, Path], options: BenchOptions) -> Questions:
    """Everything that can fail before a model answers. Raises `InputError`, `TextError`, `ModelFileError` or `SandboxError`."""
    for path in files.values():
        model = model_file.read_model(path)
        check_predicts(model)
        if TEMPLATE not in model.metadata and options.chat:
            raise TextError(f"{path.name} has no chat template; leave out --chat")
    if options.margin is not None and not 0.0 <= options.margin < 1.0:
        raise InputError(f"a margin of {100 * options.margin:g} points must lie between 0 and 100")
    if options.n_samples < 1 or (options.limit is not None and options.limit < 1):
        raise InputError("--samples and --limit are numbers of at least 1")
    if options.shots is not None and options.shots < 0:
        raise InputError(f"--shots {options.shots}: a number of examples is 0 or more")
    if options.data is not None and not options.data.is_dir():
        what = "is no folder" if options.data.exists() else "does not exist"
        raise InputError(
            f"--data (in run --bench-data) {options.data} {what}; give the folder that docs/benchmarks.md describes"
        )
    names = expand(options.tasks)
    if options.n_samples > 1 and not set(names) & set(CODE):
        raise InputError(
            f"--samples draws replies to functions, which none of {', '.join(names)} asks for; there are {', '.join(CODE)}"
        )
    if FILE in files and BASE in files and files[FILE].resolve() == files[BASE].resolve():
        raise InputError(f"{files[FILE].name} can't be compared with itself; give its base with --against")
    sets = Sets(
        options.data,
        options.limit,
        options.n_samples,
        lambda: Sandbox.find(options.unsafe),
        unsafe=options.unsafe,
        shots=options.shots,
    )
    sets.prepare(names)
    if not options.chat:  # as chat they need the model's template
        for name in names:
            sets.task(name, None)
    return Questions(options, names, sets)


class StudyMemory:
    """See `cerebellum.evals.asking.Memory`: one file's answers in a study."""

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
    with opened_workspace(backend, settings, out, (path,), Silent()) as workspace:
        yield study_memory(workspace, path)


def study_memory(workspace: Workspace, path: Path) -> StudyMemory:
    """A file's answers in a study, under this build and these settings."""
    build, settings = workspace.backend.id, workspace.settings.as_key()
    key = {"sha256": workspace.sha256(path), "build": build, "settings": settings}
    versions = {"version": ASKING_VERSION, "metric_version": METRIC_VERSION}
    return StudyMemory(workspace.study, content_key("asked", {**key, **versions}))


def ask_file(
    workspace: Workspace,
    questions: Questions,
    role: str,
    files: Mapping[str, Path],
    vocabularies: dict[str, int],
    folder: Path | None,
) -> dict[str, Asked]:
    """All tasks asked of one file, and its items written to ``bench/TASK-ROLE.jsonl``. The size of its vocabulary is noted, and what there
    is to warn of."""
    path = files[role]
    memory = study_memory(workspace, path)
    file = {"file": path.name, "sha256": workspace.sha256(path)}
    asked = {}
    with contextlib.closing(workspace.backend.respond(path, workspace.settings)) as responder:
        asker = Asker(responder, memory, workspace.progress)
        vocabularies[role] = responder.n_vocab
        workspace.warn(responder.warnings)
        if warning := other_vocabulary(role, files, vocabularies):
            workspace.warn([warning])
        for name in questions.names:
            task = questions.sets.task(name, responder.render if questions.options.chat else None)
            asked[name] = ask_task(workspace, questions.sets, asker, task, f"{name}, {role}")
            if folder is not None:
                make_folder(folder / "bench")
                write_text(folder / "bench" / f"{name}-{role}.jsonl", item_lines(asked[name], file))
    return asked


def other_vocabulary(role: str, files: Mapping[str, Path], sizes: Mapping[str, int]) -> str:
    """That a file has another vocabulary than `FILE`, by role → size, or ""."""
    if sizes[role] == sizes[FILE]:
        return ""
    return (
        f"{files[role].name} ({role}) has a vocabulary of {sizes[role]:,} tokens, {files[FILE].name} one of {sizes[FILE]:,}: they aren't "
        "quantizations of one model, and what differs between their answers isn't the quantization alone"
    )


def other_tokens(files: Mapping[str, Path], roles: Sequence[str] = (BASE, REFERENCE)) -> list[str]:
    """Of the files in ``roles`` whose tokens aren't `FILE`'s, though they are as many: the first token that differs."""
    tokens = token_list(model_file.read_model(files[FILE]))
    warnings = []
    for role in roles:
        other = token_list(model_file.read_model(files[role])) if role in files else tokens
        if len(tokens.texts) == len(other.texts) and (difference := first_other_token(tokens, other)):
            warnings.append(
                f"{difference}: they aren't quantizations of one model, and what differs isn't the quantization alone"
            )
    return warnings


def remove_stale(folder: Path, names: Sequence[str], roles: Iterable[str]) -> None:
    """An earlier call's items of the tasks just asked, of roles that had no file this time. Raises `OutputError`."""
    stale = [folder / f"{name}-{role}.jsonl" for name in names for role in (BASE, REFERENCE) if role not in roles]
    for path in stale:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"can't remove {path}, which an earlier call wrote: {error.strerror}") from error


def ask_task(workspace: Workspace, sets: Sets, asker: Asker, task: Task, what: str) -> Asked:
    """Self-tests, then questions, then judgement."""
    checks = sets.check(task)
    for name, fault in checks.items():
        if fault:
            workspace.progress.note(
                f"warning: {task.name} fails its self-test, its score will be unusable. {name}: {fault}"
            )
    items = [f"item {item.id}" for item in task.items for _ in item.requests]
    replies = by_item(task.items, asker.ask([r for item in task.items for r in item.requests], what, items))
    judged = judge_all(workspace.study, task, replies, what, workspace.progress)
    return Asked(task, checks, replies, judged)


def by_item(items: Sequence[Item], replies: Sequence[Reply]) -> list[list[Reply]]:
    """The replies by item."""
    left = iter(replies)
    return [[next(left) for _ in item.requests] for item in items]
