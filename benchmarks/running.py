"""What the comparisons share: running the stock programs and our own command line, and printing tables."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.stock_output import StockOutputError

Parsed = TypeVar("Parsed")

OURS = [sys.executable, "-c", "import sys; from cerebellum.cli import main; sys.exit(main())"]


class CommandFailedError(RuntimeError):
    """A program ended with an error; the message holds the command and the end of what it printed."""


def run(command: Sequence[str | Path]) -> str:
    """Run a program to its end; its stdout and stderr as one text. Raises CommandFailedError."""
    words = [str(word) for word in command]
    print("$", *shortened(words), file=sys.stderr, flush=True)
    # Stock programs echo pieces of the text they read, which a chunk may cut inside a character.
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise CommandFailedError(f"{' '.join(shortened(words))} ended with {done.returncode}:\n{output[-1500:]}")
    return output


def run_stock(command: Sequence[str | Path], parse: Callable[[str], Parsed], attempts: int = 5) -> Parsed:
    """Run a stock program and read its output; again where the end of it is missing.

    The programs print from a thread that is not always waited for: about one llama-perplexity in ten ends with exit
    code 0 and without its last lines. Raises CommandFailedError, StockOutputError.
    """
    for _ in range(attempts - 1):
        try:
            return parse(run(command))
        except StockOutputError:
            print("  (its last lines were lost; once more)", file=sys.stderr, flush=True)
    return parse(run(command))


def run_ours(*arguments: str | Path) -> Any:
    """Run a `cerebellum` command with --json; what it printed, parsed. Raises CommandFailedError."""
    words = [*OURS, *map(str, arguments), "--json"]
    print("$", *shortened(words), file=sys.stderr, flush=True)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandFailedError(f"{' '.join(shortened(words))} ended with {done.returncode}:\n{done.stderr[-1500:]}")
    return json.loads(done.stdout)


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; the first column is text, the others figures."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console()
    # Piped into a file, rich assumes 80 columns and would cut figures off.
    (console if console.is_terminal else Console(width=160)).print(table)


def positive(text: str) -> int:
    """A number of things on a command line, at least one. Raises argparse's error."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def relative(ours: float, stock: float) -> float:
    """(ours − stock) / |stock|; absolute where stock is zero."""
    return (ours - stock) / abs(stock) if stock else ours - stock


def shortened(words: Sequence[str]) -> list[str]:
    words = ["cerebellum", *words[len(OURS) :]] if list(words[: len(OURS)]) == OURS else list(words)
    return [Path(word).name if "/" in word else word for word in words]
