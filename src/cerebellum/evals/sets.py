"""Task names made tasks: the small world's, HumanEval, and whatever lm-evaluation-harness knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError
from cerebellum.evals import harness, local
from cerebellum.evals.asking import Render
from cerebellum.evals.code import CodeTask, Runner
from cerebellum.evals.harness_task import HarnessTask
from cerebellum.evals.hub import hub
from cerebellum.evals.items import Item, Task
from cerebellum.evals.world import WORLD, function_item, world_task

HUMANEVAL = "humaneval"
#: Tasks that run what the model wrote.
CODE = (HUMANEVAL, "world_functions")
#: Lines that end a function: HumanEval's own stops and those that lm-evaluation-harness adds.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_TOKENS = 1024


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """The names without repeats; "world" is all of the small world's. Raises `InputError` for none."""
    out = [n for name in names for n in (WORLD if name == "world" else (name,))]
    if not out:
        raise InputError("no task was given; world, humaneval, arc_challenge, hellaswag, mmlu_redux for example")
    return tuple(dict.fromkeys(out))


class Sets:
    """Makes tasks. Data are loaded once, whatever the number of files that are asked."""

    def __init__(
        self,
        data: Path | None,
        limit: int | None,
        n_samples: int,
        sandbox: Callable[[], Runner],
        *,
        unsafe: bool = False,
        shots: int | None = None,
    ) -> None:
        """``sandbox`` is called for the first task that needs one; ``unsafe`` lets the harness's own tasks run code unguarded; ``shots``:
        examples before each question, None: the task's own number."""
        self._data, self._limit, self._n, self._unsafe, self._shots = data, limit, n_samples, unsafe, shots
        self._find_sandbox = sandbox
        self.sandbox: Runner | None = None
        self._rows: local.Data | None = None
        self._loaded: dict[str, tuple[list[Any], str, dict[str, Any]]] = {}
        self._plain: dict[str, Task] = {}
        self._checked: dict[str, Mapping[str, str]] = {}

    def prepare(self, names: Iterable[str]) -> None:
        """Load what the tasks need, before any model is opened. Raises `InputError` or `SandboxError`."""
        names = tuple(names)
        harness.check_shots(names, self._shots)
        for name in names:
            if name in CODE:
                self.sandbox = self.sandbox or self._find_sandbox()
            if name == HUMANEVAL:
                self._rows = self._problems()
            elif name not in WORLD:
                self._loaded[name] = harness.load(name, self._data, self._shots)
                self._refuse_unsafe(name)

    def task(self, name: str, render: Render | None) -> Task:
        """A prepared task; with ``render`` as chat. The items are the same, whichever file asks."""
        if render is None and name in self._plain:
            return self._plain[name]
        task = self._made(name, render)
        if not task.items:
            raise InputError(f"{name} has no question")
        if render is None:
            self._plain[name] = task
        return task

    def check(self, task: Task) -> Mapping[str, str]:
        """A task's self-tests, run once: they don't depend on the file."""
        if task.name not in self._checked:
            self._checked[task.name] = task.check()
        return self._checked[task.name]

    def _made(self, name: str, render: Render | None) -> Task:
        if name in WORLD:
            return world_task(name, limit=self._limit, render=render, sandbox=self.sandbox, n=self._n)
        if name == HUMANEVAL:
            return self._humaneval(render)
        return HarnessTask(name, *self._loaded[name], self._limit, render)

    def _humaneval(self, render: Render | None) -> Task:
        assert self._rows is not None and self.sandbox is not None
        rows = self._rows.rows[: self._limit]
        items: list[Item] = [function_item(r, render, stop=STOPS, max_tokens=MAX_TOKENS, n=self._n) for r in rows]
        facts = {"data": self._rows.file, "questions": len(self._rows.rows), "sha256": self._rows.sha256, "shots": 0}
        return CodeTask(
            HUMANEVAL, items, self.sandbox, {**facts, "samples": self._n, "chat": render is not None, "chance": 0.0}
        )

    def _problems(self) -> local.Data:
        if self._data is not None:
            return local.humaneval(self._data)
        harness.need_harness()  # which brings the hub's client
        from datasets import load_dataset

        with harness.quiet(), hub(HUMANEVAL):
            return local.Data(list(load_dataset(harness.HUMANEVAL, split="test")), "hub", "")

    def _refuse_unsafe(self, name: str) -> None:
        if not self._unsafe and any(getattr(task, "UNSAFE_CODE", False) for task in self._loaded[name][0]):
            raise InputError(
                f"{name} of lm-evaluation-harness runs what the model wrote without a sandbox; --unsafe-execution allows it"
            )
