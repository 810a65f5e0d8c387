"""A sweep in one process with a bare forward pass beside each of its own: what a trial costs beside the arithmetic alone.

python -m benchmarks.beside_bare [MODEL] [--whole] [--base Q3_K_M] [--text FILE] [--ctx 512] [--chunks 4] [--out FOLDER] [-ngl 0]

The bare pass (`benchmarks.bare_pass`) is of the base, over the same chunk, in batches of the same size, in a context of its own as
llama.cpp makes it: no callback, graphs reused (but for CUDA's, of which this process keeps none). It is made before a trial's pass and
after it in turn. Two processes' passes differ by several percent from one start to the next; two of one process, a tenth of a second
apart, by what the machine does in it and by what our work does to llama.cpp's (caches, threads, a graph built for each batch): so
llama.cpp's part of a trial is timed too. In a replay the callback and the states that it puts back are among that.

The sweep's clock stands still during bare passes. Nothing is quantized ahead meanwhile, so quantizing is in a trial's time; in the first's
is finding the weights. Left out is the way between the commanding process and the engine's, which `profile_sweep` measures apart.
Prints one JSON object: seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from benchmarks.bare_pass import BarePass
from benchmarks.clocks import Clocked, Clocks
from benchmarks.step_times import BASE, SWEEP, HereBackend, StepTimes, sweep_options, sweep_parser, timed_sweep
from cerebellum.errors import CerebellumError
from cerebellum.llamacpp.process import WAITING, EngineProcess
from cerebellum.llamacpp.protocol import Settings, Sources

#: Where llama.cpp's work is done, or waited for on a device.
LLAMA_CPP = ("llama_decode", "llama_get_logits", "llama_synchronize")


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of one step (a trial on a chunk), of llama.cpp's part of it, and of the bare pass beside it."""

    trial: float
    decoding: float
    bare: float


@dataclass(frozen=True, slots=True)
class Beside:
    """Each trial's pairs, and the seconds of the sweep's trials that are no trial's: the base's pass, the self-check."""

    pairs: Mapping[str, list[Pair]]
    once: float

    @classmethod
    def parsed(cls, data: Any) -> Beside:
        """From what the program prints."""
        return cls({label: [Pair(**pair) for pair in own] for label, own in data["pairs"].items()}, data["once"])

    def sums(self, name: str) -> list[float]:
        """A trial's seconds over all chunks, for each trial."""
        return [sum(getattr(pair, name) for pair in own) for own in self.pairs.values()]

    @property
    def to_bare(self) -> float:
        """All of the sweep's trials, with what is done once, ÷ their bare passes."""
        return (sum(self.sums("trial")) + self.once) / sum(self.sums("bare"))

    @property
    def later_to_bare(self) -> float:
        """The same of the median chunk after a trial's first, where its tensors are quantized."""
        later = [own[1:] or own for own in self.pairs.values()]

        def of(name: str) -> float:
            return sum(float(statistics.median(getattr(pair, name) for pair in own)) for own in later)

        return of("trial") / of("bare")


class BesideTimes(StepTimes):
    """Times of steps by a clock that stands still during bare passes, with llama.cpp's part of each step and the bare pass beside it."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Pair]] = []
        self._stood = self._bare = 0.0
        self._is_bare = False
        self._clocks = Clocks()
        super().__init__(lambda: time.perf_counter() - self._stood)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        if what == SWEEP:
            self.pairs.clear()
        self._next()
        super().begin(what, total, done)

    @property
    def is_sweep(self) -> bool:
        """Whether trials are measured now."""
        return self.phases[-1].what == SWEEP

    def step(self, what: str = "") -> None:
        super().step(what)
        _, seconds = self.phases[-1].steps[-1]
        self.pairs.append((what, Pair(seconds, self._clocks.seconds[True, "trial"], self._bare)))
        self._next()

    def _next(self) -> None:
        self._bare = 0.0
        self._clocks.reset()

    def clocked(self) -> AbstractContextManager[Any]:
        """llama.cpp's work is timed."""
        label = lambda *_: "bare" if self._is_bare else "trial"  # noqa: E731
        return self._clocks.on([Clocked("llama_cpp.llama_cpp", name, label) for name in LLAMA_CPP])

    @contextmanager
    def standing(self) -> Iterator[list[float]]:
        """The clock of the steps stands still: bare passes are made, and their seconds put on the list."""
        started, self._is_bare, bare = time.perf_counter(), True, list[float]()
        try:
            yield bare
        finally:
            self._is_bare = False
            self._bare += sum(bare)
            self._stood += time.perf_counter() - started

    def summed_up(self, whole: bool) -> Beside:
        """Where trials are replayed the base's pass, which they begin with, is done for them once."""
        pairs: dict[str, list[Pair]] = {}
        for label, pair in self.pairs:
            if label != BASE:
                pairs.setdefault(label, []).append(pair)
        bases = sum(pair.trial for label, pair in self.pairs if label == BASE) if whole else 0.0
        trials = sum(pair.trial for own in pairs.values() for pair in own)
        return Beside(pairs, self.phase(SWEEP).seconds - bases - trials)


@dataclass(frozen=True, slots=True)
class BesideBackend(HereBackend):
    """llama.cpp in this process; an engine that computes trials makes a bare pass beside each of its own."""

    times: BesideTimes

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        from cerebellum.llamacpp.trial.decoding import Bundle, Decoder
        from cerebellum.llamacpp.trial.engine import LlamaEngine

        times = self.times

        class BesideEngine(LlamaEngine):
            _is_after = False

            @cached_property
            def bare(self) -> BarePass:
                size = settings.n_ctx, self.decoder.n_batch, settings.threads
                return BarePass(model, *size, settings.n_gpu_layers)

            def ahead(self, *_swaps: Any) -> None:
                pass

            def score_bundle(self, decoder: Decoder, bundle: Bundle, *more: Any) -> Any:
                assert decoder is self.decoder or not times.is_sweep, "trials in a context of other settings"
                if not times.is_sweep:
                    return super().score_bundle(decoder, bundle, *more)
                self._is_after = not self._is_after
                if not self._is_after:
                    self._pass_bare(bundle)
                scores = list(super().score_bundle(decoder, bundle, *more))
                if self._is_after:
                    self._pass_bare(bundle)
                return scores

            def _pass_bare(self, bundle: Bundle) -> None:
                with times.standing() as bare:
                    if "bare" not in self.__dict__:
                        self.bare.run(bundle[0].tokens.tolist())  # pages are read
                    bare.extend(self.bare.run(chunk.tokens.tolist()) for chunk in bundle)

            def close(self) -> None:
                if "bare" in self.__dict__:
                    self.bare.close()
                super().close()

        return cast(EngineProcess, BesideEngine(model, self.own(settings), sources))


def beside(options: argparse.Namespace, out: Path) -> Beside:
    """The sweep into ``out``. Raises a `CerebellumError`, ValueError where the study has it already."""
    times = BesideTimes()
    backend = BesideBackend(options.whole, times)
    alone = min(512, options.ctx)  # a batch holds one chunk or a part of it, as the bare pass's
    with times.clocked():
        timed_sweep(options.model, out, times=times, backend=backend, ubatch_size=alone, **sweep_options(options))
    found = times.summed_up(options.whole)
    if not found.pairs:
        raise ValueError(f"{out} has these trials already: give an empty folder")
    return found


def main() -> int:
    """Command line."""
    parser = sweep_parser("beside_bare", __doc__, chunks=4)
    parser.add_argument("--whole", action="store_true", help="compute every trial whole (--replay-memory 0)")
    parser.add_argument("--out", type=Path, help="an empty folder that keeps the study (default: one that is removed)")
    options = parser.parse_args()
    # Before llama.cpp is loaded: its threads wait as they do in the engine's own process.
    os.environ.update({**WAITING, **os.environ})
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = beside(options, options.out or Path(folder))
    except (CerebellumError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
