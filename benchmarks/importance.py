"""What the benchmarks of importance matrices share: both programs' commands for one job, and their options."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running import OURS, CommandFailedError, positive
from benchmarks.stock import StockBuildError, stock_programs
from cerebellum.cores import n_cores
from cerebellum.llamacpp.protocol import CHUNK_TOKENS


@dataclass(frozen=True, slots=True)
class MatrixJob:
    """A matrix that both programs can make: of the same text, context and chunks."""

    text: Path
    ctx: int
    chunks: int
    threads: int
    process_output: bool = False

    def ours(self, model: Path, out: Path) -> list[str]:
        """The command of `cerebellum imatrix`."""
        return [*OURS, "imatrix", str(model), *self._options(out), "--quiet"]

    def stock(self, model: Path, out: Path) -> list[str]:
        """The command of llama-imatrix, which computes as ours does: no perplexity, quantized types as they are stored.

        Raises StockBuildError.
        """
        return [str(stock_programs().imatrix), "-m", str(model), *self._options(out), "--no-ppl", "--no-repack"]

    def _options(self, out: Path) -> list[str]:
        size = ["-f", self.text, "-c", self.ctx, "--chunks", self.chunks, "-t", self.threads, "-o", out]
        return [*map(str, size), *(["--process-output"] if self.process_output else [])]


def parser_of(program: str, description: str) -> argparse.ArgumentParser:
    """The options that all have: --ctx, --threads, --keep."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=description)
    parser.add_argument("--ctx", type=positive, default=CHUNK_TOKENS)
    parser.add_argument("--threads", type=positive, default=n_cores())
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here")
    return parser


@contextlib.contextmanager
def folder_of(keep: Path | None) -> Iterator[Path]:
    """The folder that is to be kept, or one that goes when the work is done."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def exit_code(work: Callable[[], bool]) -> int:
    """Of a benchmark's ``work``, which says whether all passed: 0 or 1; 2, and the reason, where a program failed."""
    try:
        return 0 if work() else 1
    except (CommandFailedError, StockBuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
