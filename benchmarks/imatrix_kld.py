"""What an importance matrix is worth: KL divergence of files made with ours, with stock llama-imatrix's and with none, on a report text.

python -m benchmarks.imatrix_kld MODEL --calibration FILE --report FILE [--types Q2_K,IQ2_S,IQ3_S,Q3_K_M,Q4_K_M] [--ctx 512] [--chunks 12]
    [--imatrix-chunks 40] [--threads N] [--no-stock] [--keep DIR]

A row a type: mean KL divergence to MODEL in thousandths of a nat a token with its 95 % interval, and whether the files of both matrices
have the same bytes. Exit code 1 where the two matrices' figures differ by more than their intervals allow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.importance import MatrixJob, exit_code, folder_of, parser_of
from benchmarks.running import OURS, positive, run, run_ours, show
from benchmarks.stock import stock_programs
from cerebellum.gguf.model_file import open_weights
from cerebellum.gguf.types import FTYPES, NEEDS_IMATRIX

TYPES = "Q2_K,IQ2_S,IQ3_S,Q3_K_M,Q4_K_M"
#: Whose matrix, in the order of the columns.
NONE, MADE, STOCK = "none", "ours", "stock"


@dataclass(frozen=True, slots=True)
class Divergence:
    """Mean KL divergence, nats a token, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def cell(self) -> str:
        """In thousandths."""
        return f"{1e3 * self.mean:.2f} [{1e3 * self.low:.2f}, {1e3 * self.high:.2f}]"

    def is_apart(self, other: Divergence) -> bool:
        """Whether the intervals have nothing in common."""
        return self.high < other.low or other.high < self.low


def matrices(options: argparse.Namespace, folder: Path) -> dict[str, Path | None]:
    """Each matrix by whose it is, made now. Raises CommandFailedError, StockBuildError."""
    job = MatrixJob(options.calibration, options.ctx, options.imatrix_chunks, options.threads)
    ours, stock = folder / "ours.imatrix.gguf", folder / "stock.imatrix.gguf"
    run(job.ours(options.model, ours))
    if not options.stock:
        return {NONE: None, MADE: ours}
    run(job.stock(options.model, stock))
    return {NONE: None, MADE: ours, STOCK: stock}


def written(model: Path, folder: Path, kind: str, made: Mapping[str, Path | None]) -> dict[str, Path]:
    """A file of one type with each matrix that it can be had with. Stock llama-quantize makes the one with stock's matrix."""
    files = {}
    for whose, matrix in made.items():
        if matrix is None and needs_matrix(kind):
            continue
        files[whose] = folder / f"{kind}.{whose}.gguf"
        given = [] if matrix is None else ["--imatrix", str(matrix)]
        if whose == STOCK:
            run([stock_programs().quantize, *given, model, files[whose], kind])
        else:
            run([*OURS, "quantize", model, kind, *given, "--out", files[whose], "--force", "--quiet"])
    return files


def measured(options: argparse.Namespace, files: Sequence[Path]) -> list[Divergence]:
    """All files on the report text, beside one pass of the reference."""
    limit = [] if options.chunks is None else ["--chunks", str(options.chunks)]
    words = ["--reference", options.model, "--text", options.report, "--ctx", options.ctx, "--threads", options.threads]
    figures = run_ours("compare", *files, *map(str, words), *limit, "--quiet")["files"]
    return [Divergence(each["kld"], each["kld_low"], each["kld_high"]) for each in figures]


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, byte for byte; their metadata name different matrices."""
    first, second = open_weights(one), open_weights(other)
    return first.model.types == second.model.types and all(
        first.raw(t.name).tobytes() == second.raw(t.name).tobytes() for t in first.model.tensors
    )


def rows(options: argparse.Namespace, folder: Path) -> Iterator[tuple[bool, list[str]]]:
    """For each type whether it passes, and its row."""
    made = matrices(options, folder)
    files = {kind: written(options.model, folder, kind, made) for kind in options.types.upper().split(",")}
    everything = [path for own in files.values() for path in own.values()]
    divergences = dict(zip(everything, measured(options, everything), strict=True))
    for kind, paths in files.items():
        cells = [divergences[paths[whose]].cell if whose in paths else "can't be had" for whose in made]
        passes = True
        if STOCK in paths:
            cells.append("same" if same_tensors(paths[MADE], paths[STOCK]) else "others")
            passes = not divergences[paths[MADE]].is_apart(divergences[paths[STOCK]])
        yield passes, [kind, *cells]


def needs_matrix(kind: str) -> bool:
    """Whether stock llama-quantize makes no file of this type without a matrix."""
    return FTYPES[kind][1] in NEEDS_IMATRIX or kind in ("Q2_K_S", "IQ3_XS")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = parser_of("imatrix_kld", __doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL", help="the unquantized model")
    parser.add_argument("--calibration", type=Path, required=True, help="the text that makes the matrices")
    parser.add_argument("--report", type=Path, required=True, help="another text, to measure on")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--chunks", type=positive, help="only so many chunks of the report text")
    parser.add_argument("--imatrix-chunks", type=positive, default=40)
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="without stock llama-imatrix")
    return parser


def table(options: argparse.Namespace) -> bool:
    """Print the table; whether all pass."""
    with folder_of(options.keep) as folder:
        judged = list(rows(options, folder))
    columns = ["type", "no matrix", "ours", *(["stock's", "tensors of both"] if options.stock else [])]
    title = f"Mean KL divergence to {options.model.name}, thousandths of a nat a token"
    show(title, columns, (row for _, row in judged))
    return all(passes for passes, _ in judged)


def main(argv: list[str] | None = None) -> int:
    """0 where all pass, 1 where not, 2 where a program failed."""
    options = arguments().parse_args(argv)
    return exit_code(lambda: table(options))


if __name__ == "__main__":
    sys.exit(main())
