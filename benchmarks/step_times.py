"""How long each step of a sweep takes, seen from outside: a progress that keeps the time of every result as it arrives.

A step is one trial on one chunk, from the result before it to its own: swap, quantizing, forward pass, scoring, the way between the
processes and the database are all in it.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cerebellum
from cerebellum.backend import Backend, Settings, Sources
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.verbs.pipeline import SweepResult

BASE = "base"
SWEEP = "sweep"

#: The setting that bounds what is kept for replays; 0 turns them off.
OFF = "replay_bytes"


@dataclass
class Phase:
    """One piece of work: its name, seconds, and (label, seconds) of each step."""

    what: str
    seconds: float = 0.0
    steps: list[tuple[str, float]] = field(default_factory=list)


class StepTimes:
    """A `cerebellum.progress.Progress` that keeps times."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self._started = self._last = 0.0

    def note(self, text: str) -> None:
        pass

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.phases.append(Phase(what))
        self._started = self._last = time.perf_counter()

    def step(self, what: str = "") -> None:
        now = time.perf_counter()
        self.phases[-1].steps.append((what, now - self._last))
        self._last = now

    def end(self) -> None:
        self.phases[-1].seconds = time.perf_counter() - self._started

    def phase(self, what: str) -> Phase:
        """The last piece of work of that name. Raises KeyError."""
        for phase in reversed(self.phases):
            if phase.what == what:
                return phase
        raise KeyError(f"no work called {what!r} was done; there was {', '.join(p.what for p in self.phases)}")


@dataclass(frozen=True)
class Timed:
    """A sweep: its result, its steps, and its seconds as a whole."""

    result: SweepResult
    times: StepTimes
    seconds: float

    def trial_seconds(self) -> dict[str, list[float]]:
        """Trial → seconds of each of its chunks, in the order measured; without the base."""
        found: dict[str, list[float]] = {}
        for label, seconds in self.times.phase(SWEEP).steps:
            if label != BASE:
                found.setdefault(label, []).append(seconds)
        return found


def timed_sweep(model: Path, out: Path, *, backend: Backend | None = None, **options: Any) -> Timed:
    """`cerebellum.sweep` with its times. Raises a `CerebellumError`."""
    times, started = StepTimes(), time.perf_counter()
    result = cerebellum.sweep(model, out=out, progress=times, backend=backend, **options)
    return Timed(result, times, time.perf_counter() - started)


class WholeBackend(LlamaBackend):
    """llama.cpp with replay off: every trial is computed from its first block on."""

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        return super().open(model, without_replay(settings), sources)


def without_replay(settings: Settings) -> Settings:
    """The settings with replay off, in a version that has it."""
    return dataclasses.replace(settings, **dict[str, Any]({OFF: 0})) if can_replay() else settings


def can_replay() -> bool:
    """Whether this version can begin a trial at the block that it changes."""
    return OFF in {field.name for field in dataclasses.fields(Settings)}
