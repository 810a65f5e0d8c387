"""How the cost of a sweep grows with blocks, text, vocabulary and types: measured exponents, on generated models.

python -m benchmarks.growth [--rounds 3] [--json FILE]

One thing grows at a time, the others stay. *trials*: seconds of all trials of a sweep, with the base's pass and the self-check.
*a trial*: the median of the trials; what is done once falls on the first or the base and is not in it. *whole*: the sweep from the
unquantized file to its result, which also quantizes the base, keeps the reference and measures the noise floor. An exponent b means
cost ∝ size^b, by least squares through the logarithms; its range is over the rounds.

What to expect: trials grow with the square of the blocks (twice as many of twice the length; replay halves it, whatever the number), and in
proportion to text and to types; a vocabulary adds to the last matrix and to scoring alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import NoRoomError, small, write_model
from benchmarks.ratios import Spread, slopes
from benchmarks.running import show
from benchmarks.step_times import SWEEP, timed_sweep
from cerebellum import bundled
from cerebellum.errors import CerebellumError

TYPES = ("Q2_K", "Q4_K", "Q5_K", "Q6_K")
CTX, CHUNKS = 256, 8


@dataclass(frozen=True, slots=True)
class Size:
    """One sweep: a generated model, and how much is done with it."""

    blocks: int = 6
    vocabulary: int = 1024
    chunks: int = CHUNKS
    types: int = 1

    def model(self, folder: Path) -> Path:
        """The model, generated where it isn't there yet. Raises NoRoomError."""
        path = folder / f"blocks-{self.blocks}-vocabulary-{self.vocabulary}.gguf"
        return path if path.exists() else write_model(path, small(self.blocks, self.vocabulary, width=512))


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a sweep: of all its trials, of the one in the middle, as a whole."""

    trials: float
    trial: float
    whole: float


#: What grows → its sizes, and the sweep of each.
GROWING: Mapping[str, tuple[tuple[int, ...], Callable[[int], Size]]] = {
    "blocks": ((6, 12, 24), lambda n: Size(blocks=n)),
    "text (chunks)": ((8, 16, 64), lambda n: Size(chunks=n)),
    "vocabulary": ((1024, 8192, 65536), lambda n: Size(vocabulary=n)),
    "types": ((1, 2, 4), lambda n: Size(types=n)),
}


def measure(size: Size, models: Path, threads: int) -> Cost:
    """One sweep in a fresh study. Raises a `CerebellumError`, NoRoomError."""
    with tempfile.TemporaryDirectory(dir=models) as out:
        timed = timed_sweep(
            size.model(models), Path(out), base="Q3_K_M", role="ffn_gate", to=TYPES[: size.types], ctx=CTX, chunks=size.chunks,
            text=bundled.SEARCH_TEXT, report_text=bundled.REPORT_TEXT, threads=threads,
        )  # fmt: skip
    trial = statistics.median(sum(seconds) for seconds in timed.trial_seconds().values())
    return Cost(timed.times.phase(SWEEP).seconds, trial, timed.seconds)


def exponents(sizes: Sequence[int], rounds: Sequence[Sequence[Cost]]) -> dict[str, Spread]:
    """The exponents of the three costs; ``rounds`` hold the costs in the order of ``sizes``."""
    return {
        name: slopes(sizes, [[getattr(cost, name) for cost in costs] for costs in rounds])
        for name in ("trials", "trial", "whole")
    }


def table(what: str, sizes: Sequence[int], rounds: Sequence[Sequence[Cost]]) -> list[list[str]]:
    """A row a size with the median's seconds, then the exponents."""
    rows = []
    for at, size in enumerate(sizes):
        costs = sorted((costs[at] for costs in rounds), key=lambda cost: cost.trials)
        middle = costs[len(costs) // 2]
        rows.append([what, f"{size:,}", f"{middle.trials:.2f}", f"{1000 * middle.trial:.1f}", f"{middle.whole:.2f}"])
    found = exponents(sizes, rounds)
    return [*rows, [f"{what}: exponent", "", *(found[name].text() for name in ("trials", "trial", "whole"))]]


def grown(options: argparse.Namespace) -> dict[str, Any]:
    """All of it, with the table on stdout. Raises a `CerebellumError`, NoRoomError."""
    rows, data = list[list[str]](), dict[str, Any]()
    # The size that all begin with is measured once a round.
    known: list[dict[Size, Cost]] = [{} for _ in range(options.rounds)]
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for what in options.only or GROWING:
            sizes, size_of = GROWING[what]
            for costs in known:
                for size in map(size_of, sizes):
                    costs[size] = costs.get(size) or measure(size, Path(folder), options.threads)
            rounds = [[costs[size_of(n)] for n in sizes] for costs in known]
            rows += table(what, sizes, rounds)
            found = {name: asdict(x) for name, x in exponents(sizes, rounds).items()}
            data[what] = {
                "sizes": sizes,
                "rounds": [[asdict(c) for c in costs] for costs in rounds],
                "exponents": found,
            }
            print(f"{what}: done", file=sys.stderr, flush=True)
    title = f"Generated llama of width 512, chunks of {CTX} tokens, ffn_gate; {options.threads} threads, {options.rounds} rounds"
    show(title, ("what grows", "size", "trials, s", "a trial, ms", "whole, s"), rows)
    return data


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 where a sweep failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=GROWING, help="only this; may be repeated")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scratch", type=Path, help="folder for models and studies (default: the system's)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    try:
        data = grown(options)
    except (CerebellumError, NoRoomError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
