"""What trials need of llama.cpp that a bare pass doesn't: a callback at each node of a graph, and a graph built for each batch.

python -m benchmarks.callback_cost [MODEL] [--repeats 400] [--rounds 5] [-ngl 0]

Passes over two tokens with it and without, in alternation: that is little arithmetic, so that the rest can be seen. The callback's program
leaves nothing out and has no stop; where logits are placed (on the processor) that is done once a pass, and what a pass begins with: so
a node costs at most what is shown. Graphs are built anew, or reused, in bare passes (`benchmarks.bare_pass`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.bare_pass import BarePass
from benchmarks.ratios import spread
from benchmarks.running import positive, show
from cerebellum import bundled
from cerebellum.domain import Chunk
from cerebellum.errors import CerebellumError, EngineError
from cerebellum.llamacpp.process import WAITING
from cerebellum.llamacpp.protocol import Settings


def main() -> int:
    """Print the table; 1 where there is no callback."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.callback_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, nargs="?", default=bundled.MODEL)
    parser.add_argument("--repeats", type=positive, default=400, help="passes of each kind in a round (default 400)")
    parser.add_argument("--rounds", type=positive, default=5, help="default 5")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU (default: none)")
    options = parser.parse_args()
    os.environ.update({**WAITING, **os.environ})  # before llama.cpp is loaded
    try:
        size = options.model, options.repeats, options.gpu_layers
        found = [(*callback(*size), *building(*size)) for _ in range(options.rounds)]
    except CerebellumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    names = (
        "nodes",
        "a pass with the callback, ms",
        "without, ms",
        "µs a node, at most",
        "building its graph, ms a pass",
    )
    rows = [(name, spread(values).text(3)) for name, values in zip(names, zip(*found, strict=True), strict=True)]
    title = (
        f"A pass of {options.model.name} over two tokens, one thread, {options.repeats} passes, {options.rounds} rounds"
    )
    show(title, ("", "median of the rounds"), rows)
    return 0


def alternated(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median milliseconds of either, and of the difference; neither is always the first."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * repeats + 2):
        is_one = number % 4 in (0, 3)
        started = time.perf_counter()
        one() if is_one else other()
        found[is_one].append(1e3 * (time.perf_counter() - started))
    ones, others = found[True][1:], found[False][1:]
    return (
        statistics.median(ones), statistics.median(others), statistics.median(a - b for a, b in zip(ones, others, strict=True))
    )  # fmt: skip


def building(model: Path, repeats: int, gpu_layers: int) -> tuple[float]:
    """Milliseconds a pass that a graph of its own takes."""
    anew, reusing = (BarePass(model, 32, 32, 1, gpu_layers, reuse=reuse) for reuse in (False, True))
    _, _, difference = alternated(lambda: anew.run([1, 2]), lambda: reusing.run([1, 2]), repeats)
    anew.close()
    reusing.close()
    return (difference,)


def callback(model: Path, repeats: int, gpu_layers: int) -> tuple[float, float, float, float]:
    """Nodes; milliseconds of a pass with the callback and without; microseconds a node. Raises a `CerebellumError`."""
    from cerebellum.llamacpp.trial.engine import LlamaEngine
    from cerebellum.llamacpp.trial.eval_callback import whole_program

    watched, alone = (
        LlamaEngine(model, Settings(n_ctx=32, n_threads=1, replay_bytes=n, n_gpu_layers=gpu_layers)) for n in (1, 0)
    )
    bundle = (Chunk(0, np.array([1, 2], np.int32), np.array([False, True])),)
    watched.decoder.pass_over(bundle, None)
    programs = [whole_program(graph) for graph in watched.decoder.graphs(bundle)]
    n = sum(len(program.graph) for program in programs)
    if not n:
        raise EngineError(f"{model.name} is computed without a callback here")
    with_it, without, difference = alternated(
        lambda: watched.decoder.pass_over(bundle, programs), lambda: alone.decoder.pass_over(bundle, None), repeats
    )
    watched.close()
    alone.close()
    return n, with_it, without, 1e3 * difference / n


if __name__ == "__main__":
    sys.exit(main())
