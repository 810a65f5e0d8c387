"""What the eval callback costs at each node of a graph: passes over two tokens with it and without, in alternation.

python -m benchmarks.callback_cost [MODEL] [--repeats 400] [--rounds 5] [-ngl 0]

Two tokens are little arithmetic, so that a node's share can be seen; the program leaves nothing out and has no stop, but places the logits,
which takes Python once a pass and saves a copy of two rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.ratios import spread
from benchmarks.running import show
from cerebellum import bundled
from cerebellum.backend import Settings
from cerebellum.domain import Chunk
from cerebellum.llamacpp.process import WAITING


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.callback_cost", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("model", type=Path, nargs="?", default=bundled.MODEL)
    parser.add_argument("--repeats", type=int, default=400, help="passes of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU (default: none)")
    options = parser.parse_args()
    os.environ.update({**WAITING, **os.environ})  # before llama.cpp is loaded
    found = [measured(options.model, options.repeats, options.gpu_layers) for _ in range(options.rounds)]
    rows = [
        (name, spread(values).text(3))
        for name, values in zip(
            ("nodes", "with it, ms", "without, ms", "µs a node"), zip(*found, strict=True), strict=True
        )
    ]
    show(f"The callback in a pass of {options.model.name} over two tokens, one thread", ("what", "median"), rows)


def measured(model: Path, repeats: int, gpu_layers: int) -> tuple[float, float, float, float]:
    """Nodes; median milliseconds of a pass with the callback and without; microseconds a node, from the median difference."""
    from cerebellum.llamacpp.engine import LlamaEngine

    watched, alone = (
        LlamaEngine(model, Settings(n_ctx=32, n_threads=1, replay_bytes=n, n_gpu_layers=gpu_layers)) for n in (1, 0)
    )
    bundle = (Chunk(0, np.array([1, 2], np.int32), np.array([False, True])),)
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        watched.decoder.pass_over(bundle, None)
        between = time.perf_counter()
        alone.decoder.pass_over(bundle, None)
        times.append((between - started, time.perf_counter() - between))
    n = sum(map(len, watched.decoder.graphs(bundle)))
    watched.close()
    alone.close()
    difference = statistics.median(a - b for a, b in times[1:])
    own, other = (1e3 * statistics.median(each) for each in zip(*times[1:], strict=True))
    return n, own, other, 1e6 * difference / n


if __name__ == "__main__":
    main()
