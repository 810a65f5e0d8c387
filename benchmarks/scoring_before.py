"""What scoring costs beside scoring as it was at another commit: the same rows, both in one run.

python -m benchmarks.scoring_before [--commit 7dbb527^1] [--rounds 9] [--threads 2]

The commit (by default the last one whose reference kept the largest words and lumped the rest) is checked out beside the project for the
run. Each round times both, in a process each, one after the other, in turn; shown are the ratio of the medians and of the rounds the
smallest and the largest. It needs the project's history: a shallow clone lacks the commit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.running import show

ROOT = Path(__file__).resolve().parents[1]
#: Words and rows: SmolLM2's vocabulary and Gemma's.
SIZES = {49_152: 255, 262_144: 64}
#: One round: compile, then the least of five passes over the rows, in seconds.
TIMED = """
import json, sys, time
import numpy as np
from cerebellum.parallel import Threads
from cerebellum.scoring.metrics import reference_rows, score_rows
from cerebellum.scoring.reference import DEFAULT_K
words, n, threads = map(int, sys.argv[1:])
random = np.random.default_rng(0)
reference = random.normal(0.0, 4.0, (n, words)).astype(np.float32)
trial = reference + random.normal(0.0, 0.1, (n, words)).astype(np.float32)
targets = random.integers(0, words, n)
pool = Threads.of(threads)
rows = reference_rows(reference, targets, DEFAULT_K, pool)
times = []
for _ in range(6):
    began = time.perf_counter()
    score_rows(0, trial, targets, rows, pool)
    times.append(time.perf_counter() - began)
print(json.dumps(min(times[1:])))
pool.close()
"""


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The project as it was at ``commit``, in a folder for a while."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def seconds(tree: Path, words: int, rows: int, threads: int) -> float:
    """Time of scoring ``rows`` rows of ``words`` words by the package in ``tree``."""
    command = [sys.executable, "-P", "-c", TIMED, str(words), str(rows), str(threads)]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(command, env=environment, cwd=tree, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def compared(before: Path, words: int, rows: int, threads: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds before and now, a pair a round; who begins alternates."""
    pairs = []
    for i in range(rounds):
        trees = (before, ROOT) if i % 2 == 0 else (ROOT, before)
        times = {tree: seconds(tree, words, rows, threads) for tree in trees}
        pairs.append((times[before], times[ROOT]))
    old, new = zip(*pairs, strict=True)
    return list(old), list(new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="7dbb527^1")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    lines = []
    with checked_out(given.commit) as before:
        for words, rows in SIZES.items():
            old, new = compared(before, words, rows, given.threads, given.rounds)
            ratios = [b / a for a, b in zip(old, new, strict=True)]
            a, b = statistics.median(old), statistics.median(new)
            per_row = (f"{1e3 * a / rows:.3f}", f"{1e3 * b / rows:.3f}")
            lines.append((f"{words:,}", *per_row, f"{b / a:.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"))
    show("Scoring, milliseconds a row", ("words", f"at {given.commit}", "now", "now ÷ before"), lines)


if __name__ == "__main__":
    main()
