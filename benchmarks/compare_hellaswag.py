"""HellaSwag by the stock llama-perplexity and by our responder, task by task, on the same text file and by the same rule.

python -m benchmarks.compare_hellaswag MODEL... --data FOLDER --tasks 200

The stock program's rule: of the four endings the one with the highest mean log-probability a token, from the first token in which the four
differ. It takes tasks in a random order of a fixed seed, which is followed here (mt19937 as libstdc++ draws from it), and prints the
share right so far after each, from which each task's verdict is read. Exit code 1 where more than --tolerance tasks differ.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.running import CommandFailedError, run_stock, show
from benchmarks.stock import StockBuildError, stock_programs
from benchmarks.stock_output import StockOutputError
from cerebellum.answers import Continuation, Responder
from cerebellum.backend import Settings
from cerebellum.domain import Tokens
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.tasks.local import read_text

N_CTX = 2048
_ROW = re.compile(r"^(\d+)\t\s*([\d.]+)%", re.MULTILINE)


def drawn(n: int, seed: int = 1) -> list[int]:
    """The order in which the stock program takes ``n`` tasks: each drawn from those left."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed)
    left, order = list(range(n)), []
    while left:
        order.append(left.pop(_below(generator, len(left))))
    return order


def _below(generator: np.random.MT19937, n: int) -> int:
    """A whole number under ``n`` from 32 random bits (D. Lemire 2019, ACM TOMACS 29, 3), as libstdc++'s uniform_int_distribution."""
    product = int(generator.random_raw()) * n
    while (product & 0xFFFFFFFF) < (2**32 - n) % n:
        product = int(generator.random_raw()) * n
    return product >> 32


def parse(output: str, n: int) -> list[bool]:
    """Each task's verdict, in the stock program's order. Raises `StockOutputError` where rows are missing."""
    rows = [(int(number), float(share)) for number, share in _ROW.findall(output)]
    if [number for number, _ in rows] != list(range(1, n + 1)):
        raise StockOutputError(f"{len(rows)} of {n} tasks were printed")
    right = [round(number * share / 100.0) for number, share in rows]
    return [bool(now - before) for before, now in zip([0, *right], right, strict=False)]


def stock_verdicts(program: Path, model: Path, lines: Sequence[str], threads: int) -> list[bool]:
    """The stock program's verdict on each task of the file, in the file's order."""
    n = len(lines) // 6
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        how = ["--hellaswag", "--hellaswag-tasks", str(n), "-c", str(N_CTX), "-t", str(threads), "--no-repack"]
        command: list[str | Path] = [program, "-m", model, "-f", file.name, *how]
        verdicts = run_stock(command, lambda output: parse(output, n))
    return [verdict for _, verdict in sorted(zip(drawn(n), verdicts, strict=True))]


def our_verdicts(responder: Responder, lines: Sequence[str]) -> list[bool]:
    """The same by our log-likelihoods."""
    tasks = [lines[i : i + 6] for i in range(0, len(lines), 6)]
    texts = responder.tokenize([f"{t[0]} {ending}" for t in tasks for ending in t[2:]], special=True, parse=False)
    requests = [c for i in range(0, len(texts), 4) for c in split(texts[i : i + 4])]
    means = np.zeros(len(requests))
    for number, answer in responder.likelihoods(requests):
        means[number] = answer.total / len(requests[number].continuation)
    chosen = means.reshape(-1, 4).argmax(axis=1)
    return [int(choice) == int(task[1]) for choice, task in zip(chosen, tasks, strict=True)]


def split(endings: Sequence[Tokens]) -> list[Continuation]:
    """Four whole texts as one context and what follows it in each."""
    shortest = min(map(len, endings))
    same = np.all([ending[:shortest] == endings[0][:shortest] for ending in endings], axis=0)
    n = int(np.argmin(same)) if not same.all() else shortest - 1
    return [Continuation(ending[:n], ending[n:]) for ending in endings]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with hellaswag_val_full.txt.bz2")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tolerance", type=int, default=1, help="tasks that may differ: near ties turn with the batch")
    options = parser.parse_args()
    text, _, _ = read_text(options.data, "hellaswag_val_full.txt.bz2", "hellaswag_val_full.txt")
    lines, rows, worst = text.split("\n")[: 6 * options.tasks], [], 0
    try:
        program = stock_programs().perplexity
        for model in options.models:
            stock = stock_verdicts(program, model, lines, options.threads)
            settings = Settings(n_ctx=N_CTX, n_threads=options.threads)
            with contextlib.closing(LlamaBackend().respond(model, settings, settings.n_ctx)) as responder:
                ours = our_verdicts(responder, lines)
            differ = sum(a != b for a, b in zip(stock, ours, strict=True))
            rows.append((model.name, len(ours), sum(stock), sum(ours), differ))
            worst = max(worst, differ)
    except (CommandFailedError, StockBuildError, StockOutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show("HellaSwag, stock and ours", ("model", "tasks", "stock right", "ours right", "differ"), rows)
    return int(worst > options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
