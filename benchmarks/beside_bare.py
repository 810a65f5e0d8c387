"""A sweep in one process with a bare forward pass before each of its own: what a trial costs beside the arithmetic alone.

python -m benchmarks.beside_bare [MODEL] [--whole] [--base Q3_K_M] [--text FILE] [--ctx 512] [--chunks 4] [--out FOLDER] [-ngl 0]

The bare pass (`benchmarks.bare_pass`) is of the base, over the chunk that comes next, in a context of its own that has no callback. Two
processes' passes differ by several percent from one start to the next; what two of one process differ by, a tenth of a second apart, is
noise. llama.cpp's part of a trial is timed too: computed whole it is the same work as a bare pass, so their ratio says how
much of a trial's is noise. The sweep's clock stands still during bare passes. Left out is the way between the commanding process and the
engine's, which `profile_sweep` measures apart. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from benchmarks.bare_pass import BarePass
from benchmarks.clocks import Clocked, Clocks
from benchmarks.step_times import (
    BASE,
    SWEEP,
    HereBackend,
    StepTimes,
    Timed,
    add_sweep_arguments,
    sweep_options,
    timed_sweep,
)  # fmt: skip
from cerebellum.backend import Settings, Sources
from cerebellum.errors import CerebellumError
from cerebellum.llamacpp.process import WAITING, EngineProcess


@dataclass(frozen=True, slots=True)
class Beside:
    """Seconds for all chunks. ``bare``: the mean bare pass; ``trial``: all of the sweep's time over its trials, what is done once among
    it; ``decoding``: the part of it that is llama.cpp's. ``bare_step``, ``trial_step``: from the median chunk, so without quantizing and
    what is done once."""

    bare: float
    trial: float
    decoding: float
    bare_step: float
    trial_step: float


class BesideTimes(StepTimes):
    """Times of steps by a clock that stands still during bare passes, of llama.cpp's part of them, and of the bare passes."""

    def __init__(self) -> None:
        super().__init__(lambda: time.perf_counter() - self._stood)
        self._stood = 0.0
        self._is_bare = False
        self.bare: list[float] = []
        self.decoding: list[float] = []
        self.clocks = Clocks()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        if what == SWEEP:
            self.bare.clear()
            self.decoding.clear()
            self.clocks.reset()
        super().begin(what, total, done)

    def step(self, what: str = "") -> None:
        super().step(what)
        self.decoding.append(self.clocks.seconds[True, "trial"])
        self.clocks.reset()

    def clocked(self) -> AbstractContextManager[Any]:
        """llama.cpp's decoding is timed."""
        name = Clocked("llama_cpp.llama_cpp", "llama_decode", lambda *_: "bare" if self._is_bare else "trial")
        return self.clocks.on([name])

    @contextmanager
    def standing(self) -> Iterator[None]:
        """The clock of the steps stands still: bare passes are made."""
        started, self._is_bare = time.perf_counter(), True
        try:
            yield
        finally:
            self._is_bare = False
            self._stood += time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class BesideBackend(HereBackend):
    """llama.cpp in this process; an engine that computes trials makes a bare pass before each of its own."""

    times: BesideTimes

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        if sources is None:
            return super().open(model, settings)
        from cerebellum.llamacpp.decoding import Bundle, Decoder
        from cerebellum.llamacpp.engine import LlamaEngine

        times = self.times

        class BesideEngine(LlamaEngine):
            @cached_property
            def bare(self) -> BarePass:
                return BarePass(model, settings.n_ctx, settings.threads, settings.n_gpu_layers)

            def score_bundle(self, decoder: Decoder, bundle: Bundle, *more: Any) -> Any:
                if decoder is self.decoder:  # not the noise floor's, of other batches
                    with times.standing():
                        times.bare += [self.bare.run(chunk.tokens.tolist()) for chunk in bundle]
                return super().score_bundle(decoder, bundle, *more)

        return cast(EngineProcess, BesideEngine(model, self.own(settings), sources))


def beside(options: argparse.Namespace, out: Path) -> Beside:
    """The sweep into ``out``. Raises a `CerebellumError`."""
    times = BesideTimes()
    backend = BesideBackend(options.whole, times)
    with times.clocked():
        timed = timed_sweep(options.model, out, times=times, backend=backend, **sweep_options(options))
    return summed_up(timed, times, options.chunks, options.whole)


def summed_up(timed: Timed, times: BesideTimes, chunks: int, whole: bool) -> Beside:
    """Where trials are replayed the base's pass, which they begin with, is among their time."""
    phase, trials = times.phase(SWEEP), timed.trial_seconds()
    left_out = {BASE} if whole else set[str]()
    bases = sum(seconds for label, seconds in phase.steps if label in left_out)
    decoding = zip(phase.steps, times.decoding, strict=True)
    return Beside(
        bare=chunks * statistics.fmean(times.bare),
        trial=(phase.seconds - bases) / len(trials),
        decoding=sum(seconds for (label, _), seconds in decoding if label not in left_out) / len(trials),
        bare_step=chunks * statistics.median(times.bare),
        trial_step=chunks * statistics.fmean(statistics.median(seconds) for seconds in trials.values()),
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside_bare", description=__doc__.splitlines()[0] if __doc__ else None
    )
    add_sweep_arguments(parser, chunks=4)
    parser.add_argument("--whole", action="store_true", help="compute every trial whole")
    parser.add_argument("--out", type=Path, help="an empty folder that keeps the study (default: one that is removed)")
    options = parser.parse_args()
    # Before llama.cpp is loaded: its threads wait as they do in the engine's own process.
    os.environ.update({**WAITING, **os.environ})
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = beside(options, options.out or Path(folder))
    except CerebellumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
