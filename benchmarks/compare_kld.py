"""KL divergence to a reference by the stock llama-perplexity and by `cerebellum measure`: same files, text and chunks.

python -m benchmarks.compare_kld --reference REF MODEL... --text FILE [--ctx 512] [--chunks N]

The two can't agree to the last digit: the stock program keeps the reference's log-probabilities in 16 bits, clamped 16
below the largest, and leaves out tokens less likely than e^-16; ours are exact. So the table shows the difference of
each figure and also in units of the stock figure's own standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.running import CommandFailedError, run, run_ours, run_stock, show
from benchmarks.stock import StockBuildError, stock_programs
from benchmarks.stock_output import Statistic, StockOutputError, parse_divergence
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings
from cerebellum.text.corpus import read_text

#: The stock program's name of a figure → our key in `cerebellum measure --json`.
FIGURES = {
    "Mean PPL(Q)": "perplexity",
    "Mean PPL(base)": "reference_perplexity",
    "Mean KLD": "kld",
    "Maximum KLD": "kld_max",
    "99.9% KLD": "kld_p999",
    "99.0% KLD": "kld_p99",
    "95.0% KLD": "kld_p95",
    "90.0% KLD": "kld_p90",
    "Median KLD": "kld_median",
    "Mean Δp": "mean_dp",
    "RMS Δp": "rms_dp",
    "Same top p": "same_top",
}


@dataclass(frozen=True)
class Figure:
    """One figure of one file by both programs."""

    model: str
    name: str
    stock: Statistic
    ours: float

    @property
    def difference(self) -> float:
        """Ours minus stock's."""
        return self.ours - self.stock.value

    exact: float | None = None

    def row(self) -> list[str]:
        """For the table."""
        in_errors = "" if not self.stock.error else f"{self.difference / self.stock.error:+.2f}"
        error = "" if self.stock.error is None else f"{self.stock.error:.6f}"
        return [
            self.model,
            self.name,
            f"{self.stock.value:.6f}",
            error,
            f"{self.ours:.6f}",
            f"{self.difference:+.6f}",
            in_errors,
            *(
                []
                if self.exact is None
                else [f"{self.stock.value - self.exact:+.1e}", f"{self.ours - self.exact:+.1e}"]
            ),
        ]


def figures(
    model: str, stock: Mapping[str, Statistic], ours: Mapping[str, Any], exact: Mapping[str, float] | None = None
) -> Iterator[Figure]:
    """The figures that both programs give."""
    for name, key in FIGURES.items():
        if name in stock and isinstance(ours.get(key), int | float):
            yield Figure(model, name, stock[name], float(ours[key]), None if exact is None else exact[key])


def exact_figures(options: argparse.Namespace, model: Path) -> dict[str, float]:
    """The same figures from all logits of both files, plainly in float64: slow, and no code of `cerebellum.scoring.metrics`."""
    settings = Settings(n_ctx=options.ctx)
    rows: list[npt.NDArray[np.float64]] = []
    with contextlib.ExitStack() as stack:
        engines = [LlamaBackend().open(path, settings) for path in (options.reference, model)]
        for engine in engines:
            stack.callback(engine.close)
        corpus = engines[0].corpus(options.text.name, read_text(options.text), options.ctx)
        for chunk in corpus.chunks(range(corpus.n_chunks)[: options.chunks]):
            targets = chunk.tokens[options.ctx // 2 + 1 :]
            p, q = (log_softmax(engine.logits((), chunk)) for engine in engines)
            at = np.arange(len(targets))
            same = p.argmax(axis=1) == q.argmax(axis=1)
            rows.append(np.stack([p[at, targets], q[at, targets], (np.exp(p) * (p - q)).sum(axis=1), same], axis=1))
    true_p, true_q, kld, same = np.concatenate(rows).T
    change = np.exp(true_q) - np.exp(true_p)
    percents = {
        "kld_max": 100.0,
        "kld_p999": 99.9,
        "kld_p99": 99.0,
        "kld_p95": 95.0,
        "kld_p90": 90.0,
        "kld_median": 50.0,
    }
    return {
        "perplexity": float(np.exp(-true_q.mean())),
        "reference_perplexity": float(np.exp(-true_p.mean())),
        "kld": float(kld.mean()),
        **{name: float(np.percentile(kld, percent)) for name, percent in percents.items()},
        "mean_dp": float(change.mean()),
        "rms_dp": float(np.sqrt((change**2).mean())),
        "same_top": float(same.mean()),
    }


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Log-probabilities of rows of logits."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def stock_divergences(options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Statistic]]]:
    """Every file's statistics; the reference's log-probabilities lie in a scratch file as long as they are needed."""
    program = stock_programs().perplexity
    shared = ["-c", str(options.ctx), "--no-repack", *options.stock_option]
    limit = [] if options.chunks is None else ["--chunks", str(options.chunks)]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        base = Path(folder) / "reference.kld"
        run([program, "-m", options.reference, "-f", options.text, *shared, *limit, "--kl-divergence-base", base])
        for model in options.models:
            command = [program, "-m", model, *shared, "--kl-divergence-base", base, "--kl-divergence"]
            yield model, run_stock(command, parse_divergence)


def compared(options: argparse.Namespace) -> Iterator[Figure]:
    """Every file × figure. Raises CommandFailedError, StockOutputError, StockBuildError."""
    limit = [] if options.chunks is None else ["--chunks", str(options.chunks)]
    for model, stock in stock_divergences(options):
        command = ["measure", model, "--reference", options.reference, "--text", options.text]
        ours = run_ours(*command, "--ctx", str(options.ctx), *limit)
        exact = exact_figures(options, model) if options.exact else None
        found = list(figures(model.name, stock, ours, exact))
        if not found:
            raise StockOutputError(f"`cerebellum measure` gave none of the keys {', '.join(FIGURES.values())}")
        yield from found


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_kld", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--reference", type=Path, required=True, help="the file the divergence is taken to")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--ctx", type=int, default=512, help="tokens in a chunk (default 512)")
    parser.add_argument("--chunks", type=int, help="only this many chunks")
    parser.add_argument("--exact", action="store_true", help="also from all logits in float64: who is nearer?")
    parser.add_argument("--scratch", type=Path, help="folder for the stock program's file (2 bytes a token and word)")
    parser.add_argument(
        "--tolerance", type=float, default=0.1, help="largest |difference| in standard errors (default 0.1)"
    )
    parser.add_argument(
        "--stock-option", action="append", default=[], help="one more word for llama-perplexity, as --stock-option=-t4"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 where all figures with a standard error agree, 1 where not, 2 where a program failed."""
    options = arguments().parse_args(argv)
    try:
        found = list(compared(options))
    except (CommandFailedError, StockOutputError, StockBuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["file", "figure", "llama-perplexity", "std. error", "cerebellum", "difference", "in std. errors"]
    if options.exact:
        columns += ["stock - float64", "ours - float64"]
    show(f"KL divergence to {options.reference.name}", columns, (figure.row() for figure in found))
    # The base's perplexity is read back from clamped 16-bit values: shown, not judged.
    judged = [figure for figure in found if figure.stock.error and figure.name != "Mean PPL(base)"]
    agree = all(abs(f.difference) <= options.tolerance * (f.stock.error or 0) for f in judged)
    print(f"{'agree' if agree else 'DIFFER'} (tolerance {options.tolerance:g} standard errors)")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
