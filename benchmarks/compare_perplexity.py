"""Perplexity by the stock llama-perplexity and by `cerebellum perplexity`: same files, same text, same chunks.

python -m benchmarks.compare_perplexity MODEL... --text FILE [--text FILE] --ctx 256 --ctx 512 [--chunks N]

The stock program prints four decimals, so a difference below 5e-5 divided by the perplexity isn't visible. Exit code 1
where a relative difference is larger than --tolerance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.running import CommandFailedError, relative, run_ours, run_stock, show
from benchmarks.stock import StockBuildError, stock_programs
from benchmarks.stock_output import StockOutputError, StockPerplexity, parse_perplexity


@dataclass(frozen=True)
class Comparison:
    """One file on one text at one chunk length, by both programs."""

    model: Path
    text: Path
    n_ctx: int
    stock: StockPerplexity
    perplexity: float
    std_error: float
    chunks: int

    @property
    def difference(self) -> float:
        """Relative difference of the perplexities."""
        return relative(self.perplexity, self.stock.perplexity)

    def row(self) -> list[str]:
        """For the table."""
        chunks = str(self.chunks) if self.chunks == self.stock.chunks else f"{self.stock.chunks} ≠ {self.chunks}"
        figures = [
            f"{self.stock.perplexity:.4f} ± {self.stock.std_error:.4f}",
            f"{self.perplexity:.6f} ± {self.std_error:.4f}",
        ]
        return [self.model.name, self.text.name, str(self.n_ctx), chunks, *figures, f"{self.difference:+.1e}"]


def compare(model: Path, text: Path, n_ctx: int, n_chunks: int | None, stock_options: list[str]) -> Comparison:
    """Measure with both. Raises CommandFailedError, StockOutputError, StockBuildError."""
    limit = [] if n_chunks is None else ["--chunks", str(n_chunks)]
    program = stock_programs().perplexity
    command: list[str | Path] = [
        program,
        "-m",
        model,
        "-f",
        text,
        "-c",
        str(n_ctx),
        *limit,
        "--no-repack",
        *stock_options,
    ]
    stock = run_stock(command, parse_perplexity)
    ours = run_ours("perplexity", model, "--text", text, "--ctx", str(n_ctx), *limit)
    return Comparison(model, text, n_ctx, stock, ours["perplexity"], ours["std_error"], ours["chunks"])


def comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    """Every model × text × chunk length."""
    for model, text, n_ctx in product(options.models, options.text, options.ctx or [512]):
        yield compare(model, text, n_ctx, options.chunks, options.stock_option)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_perplexity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--text", action="append", type=Path, required=True, help="text file; may be repeated")
    parser.add_argument("--ctx", action="append", type=int, help="tokens in a chunk; may be repeated (default 512)")
    parser.add_argument("--chunks", type=int, help="only this many chunks")
    parser.add_argument("--tolerance", type=float, default=5e-5, help="largest relative difference (default 5e-5)")
    parser.add_argument(
        "--stock-option", action="append", default=[], help="one more word for llama-perplexity, as --stock-option=-t4"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 where all agree, 1 where not, 2 where a program failed."""
    options = arguments().parse_args(argv)
    try:
        found = list(comparisons(options))
    except (CommandFailedError, StockOutputError, StockBuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["file", "text", "ctx", "chunks", "llama-perplexity", "cerebellum", "relative difference"]
    show("Perplexity", columns, (comparison.row() for comparison in found))
    agree = all(abs(c.difference) <= options.tolerance and c.chunks == c.stock.chunks for c in found)
    print(f"{'agree' if agree else 'DIFFER'} (tolerance {options.tolerance:g})")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
