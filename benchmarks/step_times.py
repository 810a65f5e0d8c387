"""How long each step of a sweep takes, seen from outside: a progress that keeps the time of every result as it arrives.

A step is one trial on one chunk, from the result before it to its own: swap, quantizing, forward pass, scoring, the database, and where the
engine has a process of its own the way between the two are all in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import cerebellum
from benchmarks.running import positive
from cerebellum import bundled
from cerebellum.cores import n_cores
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Backend, Settings, Sources
from cerebellum.results import SweepResult

BASE = "base"
SWEEP = "sweep"


@dataclass
class Phase:
    """One piece of work: its name, seconds, and (label, seconds) of each step."""

    what: str
    seconds: float = 0.0
    steps: list[tuple[str, float]] = field(default_factory=list)


class StepTimes:
    """A `cerebellum.progress.Progress` that keeps times."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.phases: list[Phase] = []
        self._started = self._last = 0.0

    def note(self, text: str) -> None:
        pass

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.phases.append(Phase(what))
        self._started = self._last = self.now()

    def step(self, what: str = "") -> None:
        now = self.now()
        self.phases[-1].steps.append((what, now - self._last))
        self._last = now

    def end(self) -> None:
        self.phases[-1].seconds = self.now() - self._started

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


def timed_sweep(
    model: Path, out: Path, *, backend: Backend | None = None, times: StepTimes | None = None, **options: Any
) -> Timed:
    """`cerebellum.sweep` with its times. Raises a `CerebellumError`."""
    times, started = times or StepTimes(), time.perf_counter()
    result = cerebellum.sweep(model, out=out, progress=times, backend=backend, **options)
    return Timed(result, times, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class HereBackend(LlamaBackend):
    """llama.cpp in this process, unprotected; ``whole``: with replay off, every trial is computed from its first block on."""

    whole: bool

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        from cerebellum.llamacpp.trial.engine import LlamaEngine

        return cast(EngineProcess, LlamaEngine(model, self.own(settings), sources))

    def own(self, settings: Settings) -> Settings:
        """What an engine is opened with."""
        return replace(settings, replay_bytes=0) if self.whole else settings


def sweep_parser(name: str, doc: str | None, chunks: int) -> argparse.ArgumentParser:
    """The command line of the benchmark ``name`` with the options of a sweep whose trials are timed."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", type=Path, nargs="?", default=bundled.MODEL, help="the unquantized file (default: bundled)"
    )
    parser.add_argument(
        "--text", type=Path, default=bundled.SEARCH_TEXT, help="UTF-8 (default: the bundled search text)"
    )
    for name, default, what in (
        ("base", "Q3_K_M", "type of the base"), ("role", "ffn_gate", "what trials change"), ("to", "Q2_K", "to which type"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", default=default, help=f"{what} (default {default})")
    for name, number, what in (
        ("ctx", 512, "tokens in a chunk"), ("chunks", chunks, "chunks of the text"), ("threads", n_cores(), "threads"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=positive, default=number, help=f"{what} (default {number})")
    parser.add_argument("--blocks", type=block_numbers, help="as in 0,6,13 (default: all)")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU (default: none)")
    return parser


def block_numbers(text: str) -> list[int]:
    """``0,6,13`` → [0, 6, 13]. Raises argparse's error."""
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: blocks are numbers, as in 0,6,13")
    return [int(word) for word in words]


def sweep_options(options: argparse.Namespace) -> dict[str, Any]:
    """The same as `cerebellum.sweep` takes them."""
    names = ("base", "role", "to", "blocks", "text", "ctx", "chunks", "threads", "gpu_layers")
    return {name: getattr(options, name) for name in names} | {"report_text": bundled.REPORT_TEXT}
