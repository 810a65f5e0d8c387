"""Importance matrices by the stock llama-imatrix and by `cerebellum imatrix`: tensors, counts and sums, entry by entry; time and memory.

python -m benchmarks.compare_imatrix MODEL… --text FILE [--ctx 512] [--chunks 16] [--threads N] [--process-output] [--keep DIR]

Exit code 1 where the tensors or the counts differ, or a sum by more than 1e-5 of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peak_memory import peaks_of
from benchmarks.running import OURS, CommandFailedError, positive, shortened, show
from benchmarks.stock import StockBuildError, stock_programs
from cerebellum.cores import n_cores
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.importance import Importance
from cerebellum.llamacpp.protocol import CHUNK_TOKENS

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


def compared(model: Path, folder: Path, options: argparse.Namespace) -> tuple[Likeness, list[str]]:
    """Both programs on one model: how alike, and the table's row. Raises CommandFailedError."""
    theirs, ours = (folder / f"{model.stem}.{who}.imatrix.gguf" for who in ("stock", "ours"))
    ours.unlink(missing_ok=True)
    size = ["-f", options.text, "-c", options.ctx, "--chunks", options.chunks, "-t", options.threads, "-o"]
    output = ["--process-output"] if options.process_output else []
    programs = stock_programs()
    stock = timed([programs.imatrix, "-m", model, *size, theirs, *output, "--no-ppl", "--no-repack"])
    own = timed([*OURS, "imatrix", model, *size, ours, *output, "--quiet"])
    found = likeness(read_importance(ours, options.ctx), read_importance(theirs, options.ctx))
    row = [
        model.name,
        f"{found.n_entries}{'' if found.same_names else ' of others'}",
        "same" if found.same_counts else "DIFFER",
        f"{found.same_bits:,} of {found.n_sums:,}",
        f"{found.largest:.1e}",
        f"{own[0] / stock[0]:.2f}",
        f"{own[1] / stock[1]:.2f}",
    ]
    return found, row


def timed(command: Sequence[object]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command, its child included. Raises CommandFailedError."""
    words = [str(word) for word in command]
    print("$", *shortened(words), file=sys.stderr, flush=True)
    started = time.monotonic()
    peaks = peaks_of(words)
    return time.monotonic() - started, peaks.parent + peaks.engine


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_imatrix", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--ctx", type=positive, default=CHUNK_TOKENS)
    parser.add_argument("--chunks", type=positive, default=16)
    parser.add_argument("--threads", type=positive, default=n_cores())
    parser.add_argument("--process-output", action="store_true", help="the output matrix too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 where all pass, 1 where not, 2 where a program failed."""
    options = arguments().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            found = [compared(model, folder, options) for model in options.models]
    except (CommandFailedError, StockBuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = [
        "model",
        "entries",
        "counts",
        "sums with the same bits",
        "largest difference",
        "time ÷ stock",
        "memory ÷ stock",
    ]
    show(f"{options.chunks} chunks of {options.ctx} tokens", columns, (row for _, row in found))
    return 0 if all(each.passes for each, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
