"""What scoring costs: the compiled loops beside the same sums in numpy, and scoring beside the forward pass it follows.

python -m benchmarks.scoring_share [MODEL …] [--threads N] [--repeats 5] [--skip-models] [--json FILE] [-ngl 0]

Times alternate, one of each in turn; shown are medians with the smallest and the largest. The share is of what a sweep does in every
trial: logits of half a context of 512 tokens, against reference rows as the study keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.models import Llama, write_model
from benchmarks.running import show
from cerebellum import bundled
from cerebellum.domain import Chunk
from cerebellum.llamacpp.process import WAITING
from cerebellum.llamacpp.protocol import Settings
from cerebellum.parallel import Threads
from cerebellum.scoring.metrics import INVERSE_TEMPERATURES, ReferenceRows, reference_rows, score_rows
from cerebellum.scoring.reference import default_k

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

#: Rows of the first table at each vocabulary.
SIZES = {1024: 255, 32_000: 64, 262_144: 16}
N_CTX = 512
#: Beside the bundled one: a body so small that the output matrix is nearly all of the work, one of the width, blocks and feed-forward of
#: Gemma 3 270M (the smallest published model with so many words that we know of), and a more usual one.
MODELS = {
    "262,144 words, width 256, 2 blocks": Llama(2, 256, 1024, 262_144, 4, 4),
    "262,144 words, width 640, 18 blocks": Llama(18, 640, 2048, 262_144, 4, 1),
    "262,144 words, width 1024, 8 blocks": Llama(8, 1024, 4096, 262_144, 16, 16),
}


def numpy_sums(logits: Floats, targets: Ids, reference: ReferenceRows) -> list[float]:
    """NLL, its square, the nine tempered sums and KL divergence without the rest's mass: whole arrays in numpy, rows in blocks."""
    n, v = logits.shape
    total = np.zeros(3 + len(INVERSE_TEMPERATURES))
    rows = max(1, (1 << 18) // v)
    for first in range(0, n, rows):
        part = slice(first, min(first + rows, n))
        total += _numpy_block(logits[part], targets[part], reference, part)
    return total.tolist()


def _numpy_block(logits: Floats, targets: Ids, reference: ReferenceRows, part: slice) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    wide -= top[:, None]
    step = np.exp(0.1 * wide).astype(np.float32)
    lse = top + np.log(np.exp(wide, out=wide).sum(axis=1))
    true = logits[np.arange(len(logits)), targets].astype(np.float64)
    power, tempered = step * step, []
    power *= power
    for beta in INVERSE_TEMPERATURES:
        tempered.append((np.log(power.sum(axis=1, dtype=np.float64)) + beta * (top - true)).sum())
        power *= step
    log_p = reference.logits[part] - reference.lse[part, None]
    taken = (
        logits if reference.ids is None else np.take_along_axis(logits, reference.ids[part].astype(np.int64), axis=1)
    )
    kld = (np.exp(log_p) * (log_p - (taken - lse[:, None]))).sum()
    logits.argmax(axis=1)
    logits.min(axis=1)
    nll = lse - true
    return np.array([nll.sum(), (nll**2).sum(), kld, *tempered])


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def beside_numpy(vocabulary: int, k: int | None, repeats: int, threads: Threads) -> list[str]:
    """One row of the first table."""
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((SIZES[vocabulary], vocabulary))).astype(np.float32)
    targets = rng.integers(vocabulary, size=len(logits))
    reference = reference_rows(logits + np.float32(0.1) * rng.standard_normal(logits.shape, np.float32), targets, k)
    times: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):
        old = seconds(lambda: numpy_sums(logits, targets, reference))
        one = seconds(lambda: score_rows(0, logits, targets, reference))
        all_ = seconds(lambda: score_rows(0, logits, targets, reference, threads))
        times.append((old, one, all_))
    old_s, one_s, all_s = zip(*times[1:], strict=True)
    per_row = [spread([1e6 * t / len(logits) for t in each], ".0f") for each in (old_s, one_s, all_s)]
    ratios = [spread([a / b for a, b in zip(old_s, each, strict=True)], ".1f") for each in (one_s, all_s)]
    return [f"{vocabulary:,}", "complete" if k is None else f"{k} words", *per_row, *ratios]


def beside_forward(name: str, path: Path, repeats: int, threads: Threads, gpu_layers: int) -> list[str]:
    """One row of the second table: time in llama.cpp and in scoring, chunk by chunk."""
    from cerebellum.llamacpp.trial.engine import LlamaEngine
    from cerebellum.llamacpp.trial.sums import join_reference, slice_reference

    engine = LlamaEngine(path, Settings(n_ctx=N_CTX, n_threads=threads.n, n_gpu_layers=gpu_layers))
    tokens = np.random.default_rng(0).integers(3, min(1000, engine.n_vocab), N_CTX).astype(np.int32)
    chunk = Chunk(0, tokens)
    k = default_k(engine.n_vocab)
    kept = join_reference([reference_rows(z, t, k, threads) for _, _, z, t in engine.decoder.logits((chunk,), None)])
    forward, scoring = [], []
    for _ in range(repeats + 1):
        start, scored = time.perf_counter(), 0.0
        for _, first, logits, targets in engine.decoder.logits((chunk,), None):
            begun = time.perf_counter()
            score_rows(0, logits, targets, slice_reference(kept, first, first + len(targets)), threads)
            scored += time.perf_counter() - begun
        forward.append(time.perf_counter() - start - scored)
        scoring.append(scored)
    engine.close()
    shares = [100 * s / f for s, f in zip(scoring[1:], forward[1:], strict=True)]
    both = [spread([1e3 * t for t in each[1:]], ".1f") for each in (forward, scoring)]
    return [name, "complete" if k is None else f"{k} words", *both, spread(shares, ".1f")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "model", nargs="*", type=Path, help="files to measure the share on, instead of the bundled and the generated"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-models", action="store_true", help="the first table alone")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU (default: none)")
    parser.add_argument("--json", type=Path, help="write the second table to this file")
    given = parser.parse_args()
    os.environ.update({name: value for name, value in WAITING.items() if name not in os.environ})
    threads = Threads.of(given.threads)
    if not given.model:
        rows = [beside_numpy(v, k, given.repeats, threads) for v in SIZES for k in (None, 256)]
        columns = ["numpy, µs a row", "compiled, 1 thread", f"{given.threads} threads", "numpy ÷ 1", "numpy ÷ all"]
        show("Scoring a row of logits", ["vocabulary", "reference", *columns], rows)
    if given.skip_models:
        return
    size = given.repeats, threads, given.gpu_layers
    found = [beside_forward(path.name, path, *size) for path in given.model or [bundled.MODEL]]
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in () if given.model else MODELS.items():
            path = write_model(Path(folder) / "random.gguf", shape)
            found.append(beside_forward(name, path, *size))
    columns = ["model", "reference", "forward, ms", "scoring, ms", "share, %"]
    show(f"Scoring beside the forward pass of a chunk of {N_CTX}, {given.threads} threads", columns, found)
    if given.json:
        given.json.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
