"""HellaSwag by the stock llama-perplexity and by our responder: same files, same tasks, item by item.

python -m benchmarks.compare_hellaswag MODEL... --data hellaswag_val_full.txt[.bz2] [--tasks N]

The stock program takes context and ending as one text, scores the tokens after what the four share, and means over them. It draws
its tasks with a generator of fixed seed, which is repeated here (as GNU's C++ library draws). It prints no scores, only the running
accuracy: where an outcome differs, our margin says whether that was a tie that rounding decides. Exit code 1 where any differs.
"""

from __future__ import annotations

import argparse
import bz2
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.running import CommandFailedError, run_stock, show
from benchmarks.stock import StockBuildError, stock_programs
from benchmarks.stock_output import StockOutputError, parse_hellaswag
from cerebellum.llamacpp.generate.protocol import Continuation, Responder
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings

#: Lines of a task: context, number of the right ending, four endings.
LINES, ENDINGS = 6, 4
#: Tokens for one task of ours; the longest has far fewer.
N_CTX = 1024


@dataclass(frozen=True)
class Task:
    """``lines`` as in the file."""

    lines: tuple[str, ...]

    @property
    def right(self) -> int:
        """The number of the right ending."""
        return int(self.lines[1])

    @property
    def texts(self) -> list[str]:
        """Context and ending, four times."""
        return [f"{self.lines[0]} {ending}" for ending in self.lines[2:]]


@dataclass(frozen=True)
class Outcome:
    """One task by both. ``margin``: how far our likeliest ending is ahead of the next, nats a token."""

    stock: bool
    ours: bool
    margin: float


def read_tasks(path: Path) -> list[Task]:
    """All tasks of the file that llama-perplexity reads, bzip2 or plain."""
    data = path.read_bytes()
    lines = (bz2.decompress(data) if path.suffix == ".bz2" else data).decode().rstrip("\n").split("\n")
    return [Task(tuple(lines[at : at + LINES])) for at in range(0, len(lines), LINES)]


def stock_order(n: int, seed: int = 1) -> list[int]:
    """In which order the program takes ``n`` tasks that it takes all: each drawn evenly from those left, by mt19937."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed)
    left = list(range(n))
    return [left.pop(_below(len(left), generator)) for _ in range(n)]


def _below(n: int, generator: np.random.MT19937) -> int:
    """An even number below ``n`` by Lemire's multiplication (2019), as libstdc++ draws from a 32-bit generator."""
    while True:
        product = int(generator.random_raw()) * n
        if product % 2**32 >= (2**32 - n) % n:
            return product >> 32


def by_stock(model: Path, tasks: Sequence[Task]) -> list[bool]:
    """Whether each was answered rightly. Raises CommandFailedError, StockOutputError, StockBuildError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(line for task in tasks for line in task.lines))
        file.flush()
        command: list[str | Path] = [stock_programs().perplexity, "-m", model, "-f", file.name, "--no-repack"]
        command += ["--hellaswag", "--hellaswag-tasks", str(len(tasks))]
        found = run_stock(command, lambda output: parse_hellaswag(output, len(tasks)))
    return [right for _, right in sorted(zip(stock_order(len(tasks)), found, strict=True))]


def by_us(responder: Responder, tasks: Sequence[Task]) -> list[tuple[bool, float]]:
    """Whether each was answered rightly, and the margin."""
    requests = [request for task in tasks for request in _requests(responder, task)]
    means = np.full(len(requests), np.nan)
    for number, answer in responder.likelihoods(requests):
        assert answer.n_cut == 0
        means[number] = answer.total / len(requests[number].continuation)
    rows = means.reshape(-1, ENDINGS)
    margins = np.diff(np.sort(rows, axis=1)[:, -2:], axis=1)[:, 0]
    rights = [int(row.argmax()) == task.right for row, task in zip(rows, tasks, strict=True)]
    return list(zip(rights, margins.tolist(), strict=True))


def _requests(responder: Responder, task: Task) -> list[Continuation]:
    """The context is what the tokens of the four texts have in common."""
    texts = responder.tokenize(task.texts, special=True, parse=False)
    n = min(map(len, texts))
    differ = np.flatnonzero(np.any([tokens[:n] != texts[0][:n] for tokens in texts], axis=0))
    common = int(differ[0]) if len(differ) else n
    return [Continuation(tokens[:common], tokens[common:]) for tokens in texts]


def compare(model: Path, tasks: Sequence[Task]) -> list[Outcome]:
    """Each task by both programs. Raises CommandFailedError, StockOutputError, StockBuildError."""
    stock = by_stock(model, tasks)
    responder = LlamaBackend().respond(model, Settings(), N_CTX)
    try:
        return [Outcome(a, b, margin) for a, (b, margin) in zip(stock, by_us(responder, tasks), strict=True)]
    finally:
        responder.close()


def row(model: Path, outcomes: Sequence[Outcome]) -> list[str]:
    """For the table."""
    margins = [outcome.margin for outcome in outcomes if outcome.stock != outcome.ours]
    counts = [sum(outcome.stock for outcome in outcomes), sum(outcome.ours for outcome in outcomes), len(margins)]
    smallest = min(outcome.margin for outcome in outcomes)
    return [
        model.name,
        str(len(outcomes)),
        *map(str, counts),
        f"{max(margins):.1e}" if margins else "",
        f"{smallest:.1e}",
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 where all agree, 1 where not, 2 where a program failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_hellaswag", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="HellaSwag in llama-perplexity's layout, .txt or .bz2")
    parser.add_argument("--tasks", type=int, default=200, help="the first so many tasks of the file (default 200)")
    options = parser.parse_args(argv)
    tasks = read_tasks(options.data)[: options.tasks]
    try:
        found = {model: compare(model, tasks) for model in options.models}
    except (CommandFailedError, StockOutputError, StockBuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["file", "tasks", "stock right", "ours right", "differ", "largest margin of these", "smallest margin"]
    show("HellaSwag, item by item", columns, (row(model, outcomes) for model, outcomes in found.items()))
    agree = all(outcome.stock == outcome.ours for outcomes in found.values() for outcome in outcomes)
    print("agree" if agree else "DIFFER")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
