"""Importance matrices by the stock llama-imatrix and by `cerebellum imatrix`: tensors, counts and sums, entry by entry; time and memory.

python -m benchmarks.compare_imatrix MODEL… --text FILE [--ctx 512] [--chunks 16] [--threads N] [--repeat 1] [--process-output]
    [--keep DIR]

With --repeat the two programs run alternately so many times; time and memory are the median of each pair's ratio, with the least and the
largest. Memory is the sum of our two processes' peaks, ours and llama.cpp's. The table also has the seconds of one run: on a tiny model
most of them are starting, so take many chunks. Exit code 1 where the tensors or the counts differ, or a sum by more than 1e-5 of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.importance import MatrixJob, exit_code, folder_of, parser_of
from benchmarks.peak_memory import peaks_of
from benchmarks.ratios import ratios, spread
from benchmarks.running import positive, shortened, show
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.importance import Importance

#: The largest relative difference of a sum that passes.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Likeness:
    """How alike two importance matrices are. ``largest``: relative difference of a sum; ``same_bits``: sums that are the same float."""

    n_entries: int
    same_names: bool
    same_counts: bool
    n_sums: int
    same_bits: int
    largest: float

    @property
    def passes(self) -> bool:
        """Same tensors, same counts, sums within `TOLERANCE`."""
        return self.same_names and self.same_counts and self.largest <= TOLERANCE


def likeness(ours: Importance, stock: Importance) -> Likeness:
    """Compare entry by entry."""
    shared = ours.entries.keys() & stock.entries.keys()
    pairs = [(ours.entries[name], stock.entries[name]) for name in sorted(shared)]
    largest, same_bits, n_sums = 0.0, 0, 0
    for one, other in pairs:
        a, b = one.values.astype(np.float64), other.values.astype(np.float64)
        n_sums, same_bits = n_sums + a.size, same_bits + int((a == b).sum())
        difference = np.abs(a - b) / np.where(b == 0, 1.0, np.abs(b))
        largest = max(largest, float(difference.max(initial=0.0)))
    return Likeness(
        len(shared),
        ours.entries.keys() == stock.entries.keys(),
        all(np.array_equal(one.counts, other.counts) for one, other in pairs),
        n_sums,
        same_bits,
        largest,
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """A model by both programs: how alike, seconds and peak bytes of each run of ours and of stock's."""

    model: str
    likeness: Likeness
    ours: Sequence[tuple[float, int]]
    stock: Sequence[tuple[float, int]]

    @property
    def row(self) -> list[str]:
        """The table's row."""
        alike = self.likeness
        seconds, sizes = ([[run[i] for run in runs] for runs in (self.ours, self.stock)] for i in (0, 1))
        return [
            self.model,
            f"{alike.n_entries}{'' if alike.same_names else ' of others'}",
            "same" if alike.same_counts else "DIFFER",
            f"{alike.same_bits:,} of {alike.n_sums:,}",
            f"{alike.largest:.1e}",
            f"{spread(seconds[0]).median:.1f}, {spread(seconds[1]).median:.1f}",
            share(*seconds),
            share(*sizes),
        ]


def share(ours: Sequence[float], stock: Sequence[float]) -> str:
    """The median of the pairs' ratios, and where there are several the least and the largest."""
    pairs = ratios(ours, stock)
    return pairs.text() if pairs.n > 1 else f"{pairs.median:.2f}"


def compared(model: Path, folder: Path, options: argparse.Namespace) -> Compared:
    """Both programs on one model, one after the other, again and again. Raises CommandFailedError, StockBuildError."""
    job = MatrixJob(options.text, options.ctx, options.chunks, options.threads, options.process_output)
    theirs, ours = (folder / f"{model.stem}.{who}.imatrix.gguf" for who in ("stock", "ours"))
    runs: list[tuple[tuple[float, int], tuple[float, int]]] = []
    for _ in range(options.repeat):
        ours.unlink(missing_ok=True)
        runs.append((timed(job.ours(model, ours)), timed(job.stock(model, theirs))))
    alike = likeness(read_importance(ours, options.ctx), read_importance(theirs, options.ctx))
    return Compared(model.name, alike, *zip(*runs, strict=True))


def timed(command: Sequence[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command, its child included. Raises CommandFailedError."""
    print("$", *shortened(command), file=sys.stderr, flush=True)
    started = time.monotonic()
    peaks = peaks_of(list(command))
    return time.monotonic() - started, peaks.parent + peaks.engine


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_of("compare_imatrix", __doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--chunks", type=positive, default=16)
    parser.add_argument("--repeat", type=positive, default=1, help="runs of each program")
    parser.add_argument("--process-output", action="store_true", help="the output matrix too")
    return parser


COLUMNS = (
    "model", "entries", "counts", "sums of the same bits", "difference", "s, ours and stock", "time ÷ stock", "memory ÷ stock",
)  # fmt: skip


def table(options: argparse.Namespace) -> bool:
    """Print the table; whether all pass."""
    with folder_of(options.keep) as folder:
        models = [compared(model, folder, options) for model in options.models]
    show(f"{options.chunks} chunks of {options.ctx} tokens", COLUMNS, (each.row for each in models))
    return all(each.likeness.passes for each in models)


def main(argv: list[str] | None = None) -> int:
    """0 where all pass, 1 where not, 2 where a program failed."""
    options = arguments().parse_args(argv)
    return exit_code(lambda: table(options))


if __name__ == "__main__":
    sys.exit(main())
