"""Where the time of a sweep's trials goes: forward pass, states, quantizing, scoring, reference, database, the rest.

python -m benchmarks.profile_sweep [MODEL] [--whole] [--base Q3_K_M] [--role ffn_gate] [--to Q2_K] [--text FILE] [--ctx 512] [--chunks 8]
                                   [-ngl 0]

The sweep runs with llama.cpp in this very process, clocks hung on its functions (`benchmarks.clocks`), so nothing is between the commanding
process and the engine; the way between the two is measured apart, as the round trip of an empty call times the results. *free: ×*: how
much faster the trials were if this cost nothing. Clocks of other threads run beside the main one and are listed apart. Clocks cost some
microseconds a call: compare shares, not seconds. The callback's calls at nodes where nothing is done are in the forward pass
(`benchmarks.callback_cost`).
The last line is what trials cost beyond llama.cpp's decoding, in percent of that; `--whole`: with replay off, where all passes are whole.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.clocks import Clocked, Clocks, by_label
from benchmarks.running import show
from benchmarks.step_times import SWEEP, HereBackend, StepTimes, sweep_options, sweep_parser
from cerebellum import api
from cerebellum.errors import CerebellumError
from cerebellum.llamacpp.process import WAITING, LlamaBackend
from cerebellum.llamacpp.protocol import Settings

WHOLE, REPLAY, WAIT = "forward pass, whole", "forward pass, from the changed block on", "waiting for a device"


class Pass:
    """Which kind of pass the next decode is."""

    def __init__(self) -> None:
        self.kind = WHOLE

    def run(self, _tap: Any, _decode: Any, program: Any) -> str:
        """Called with `EvalCallback.run`'s arguments: a replay leaves the first nodes out."""
        self.kind = REPLAY if any(flag & 1 for flag in bytes(program.flags[:8])) else WHOLE
        return "graph program"

    def decode(self, *_arguments: Any) -> str:
        kind, self.kind = self.kind, WHOLE
        return kind


def functions(kind: Pass) -> list[Clocked]:
    """All that gets a clock, where this version has it."""
    engine = "cerebellum.llamacpp"
    return [
        Clocked("llama_cpp.llama_cpp", "llama_decode", kind.decode),
        Clocked("llama_cpp.llama_cpp", "llama_get_logits", WAIT),
        Clocked("llama_cpp.llama_cpp", "llama_synchronize", WAIT),
        Clocked(f"{engine}.tap", "Tap.run", kind.run),
        Clocked(f"{engine}.tap", "Tap._guarded", "callback at stops and outputs, recording"),
        Clocked(f"{engine}.states", "_read", "states kept"),
        Clocked(f"{engine}.states", "_write", "states put back"),
        Clocked(f"{engine}.engine", "quantize_rows", "quantizing"),
        Clocked(f"{engine}.weights", "store_like", "swap: buffer and copy"),
        Clocked(f"{engine}.engine", "score_rows", "scoring"),
        Clocked("cerebellum.scoring.reference", "ReferenceStore.read", "reference rows read"),
        Clocked("cerebellum.study.store", "Study.add_score", "database"),
    ]


class Watch(StepTimes):
    """Clocks count from the beginning of the trials to their end."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__()
        self.clocks = clocks
        self.seconds: dict[tuple[bool, str], float] = {}
        self.calls: dict[tuple[bool, str], int] = {}

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.clocks.reset()
        super().begin(what, total, done)

    def end(self) -> None:
        super().end()
        if self.phases[-1].what == SWEEP:
            self.seconds, self.calls = dict(self.clocks.seconds), dict(self.clocks.calls)


def profiled(options: argparse.Namespace) -> tuple[Watch, float]:
    """The sweep with clocks, and the seconds of an empty call to an engine's process. Raises a `CerebellumError`."""
    clocks = Clocks()
    watch = Watch(clocks)
    with tempfile.TemporaryDirectory(dir=options.scratch) as out:
        with clocks.on(functions(Pass())):
            backend = HereBackend(options.whole)
            api.sweep(options.model, out=out, progress=watch, backend=backend, **sweep_options(options))
        return watch, round_trip(next(Path(out).glob("base-*.gguf"), options.model))


def round_trip(model: Path, calls: int = 200) -> float:
    """Seconds of a call that does nothing, from one process to the other and back."""
    engine = LlamaBackend().open(model, Settings(n_ctx=32))
    try:
        child = engine._child
        child.call("", "build_id")
        started = time.perf_counter()
        for _ in range(calls):
            child.call("", "build_id")
        return (time.perf_counter() - started) / calls
    finally:
        engine.close()


def rows_of(watch: Watch, trip: float) -> tuple[list[list[str]], dict[str, Any]]:
    """The table's rows, largest first, and the same as plain data."""
    phase = watch.phase(SWEEP)
    between = trip * len(phase.steps)
    whole = phase.seconds + between
    main, others = by_label(watch.seconds, True), by_label(watch.seconds, False)
    calls = by_label({key: float(n) for key, n in watch.calls.items()}, True)
    spent = {**main, "between the processes (apart)": between, "everything else": phase.seconds - sum(main.values())}
    rows = [_row(name, seconds, calls.get(name), whole) for name, seconds in sorted(spent.items(), key=lambda x: -x[1])]
    rows += [[f"{name} (other threads, beside)", f"{seconds:.3f}", "", "", ""] for name, seconds in others.items()]
    forward = sum(spent.get(name, 0.0) for name in (WHOLE, REPLAY, WAIT))
    data = {"seconds": whole, "results": len(phase.steps), "main": spent, "others": others, "calls": calls}
    return rows, {**data, "beyond the forward pass, %": 100 * (whole - forward) / forward}


def _row(name: str, seconds: float, calls: float | None, whole: float) -> list[str]:
    share = seconds / whole
    return [
        name,
        f"{seconds:.3f}",
        f"{100 * share:.1f}",
        "" if calls is None else f"{calls:,.0f}",
        f"{1 / max(1 - share, 1e-9):.2f}",
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 where the sweep failed."""
    parser = sweep_parser("profile_sweep", __doc__, chunks=8)
    parser.add_argument("--whole", action="store_true", help="compute every trial whole")
    parser.add_argument("--scratch", type=Path, help="folder for the study (default: the system's)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    # Before llama.cpp is loaded: its threads wait as they do in the engine's own process.
    os.environ.update({**WAITING, **os.environ})
    try:
        watch, trip = profiled(options)
    except CerebellumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows, data = rows_of(watch, trip)
    title = f"{options.model.name} at {options.base}: {data['results']} results in {data['seconds']:.2f} s"
    show(title, ("what", "s", "%", "calls", "free: ×"), rows)
    print(f"Beyond the forward passes: {data['beyond the forward pass, %']:.2f} % of them.")
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
