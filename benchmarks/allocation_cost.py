"""What an allocation costs beside the full sweep of all tensors and types, and beside the loop of the stock programs for the very trials
that it made.

    python -m benchmarks.allocation_cost [--model M --text F --report-text F] [--like Q3_K_M] [--rounds 3] [--sample 6] [--json FILE]

A round: the whole `cerebellum run` as a process, then a sweep of every tensor at one type on as many chunks, then the stock loop. Its
trials are those that the run's study holds, of the source and of whole recipes, each on as many chunks as the run gave it. ``--sample``
trials of each round are really run, spread evenly over all in the order of their kind and length and other ones in each round; the time of
the loop is that of one times their number, and the reference's logits of both texts, made once. The loop gets a trial's chunks in one go,
though the run looks, decides and goes on. The noise floor has no counterpart in the loop and is not counted there; ours has it.

The full sweep (each tensor at each type that it can have, on all search chunks) is never run: its time is the measured sweep's, or that of
a stock trial on all search chunks, times the number of cells. Wall and processor time are compared; on a machine that does other work only
the second says something. ``--calm`` as in `benchmarks.sweep_speed`.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.measuring import Usage, measured
from benchmarks.ratios import Spread, ratios, spread
from benchmarks.running import OURS, positive, show
from benchmarks.stock import StockPrograms, stock_programs
from benchmarks.stock_loop import Text, override_of, stock_divergence
from cerebellum import bundled
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import FTYPES

#: Trials of a run's study that the stock loop would have to make; what is left out is the noise floor's.
_TRIALS = """
    SELECT trial.kind, trial.label, trial.swaps, series.name, count(*)
    FROM trial JOIN series ON series.id = trial.series JOIN score ON score.trial = trial.id
    WHERE json_extract(series.facts, '$.noise') IS NULL GROUP BY trial.id ORDER BY trial.kind, count(*), trial.label
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One of the run's: ``swaps`` (tensor → type) of the source where it is a ``single``, of the stock mix else; ``chunks`` of ``text``."""

    kind: str
    label: str
    swaps: dict[str, str]
    text: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall and processor time."""

    wall: float
    cpu: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __mul__(self, times: float) -> Seconds:
        return Seconds(self.wall * times, self.cpu * times)


@dataclass(frozen=True, slots=True)
class Round:
    """One alternation. ``run``: ours, whole. ``loop``: the stock loop for the run's trials. ``sweep``, ``stock_sweep``: all cells."""

    run: Seconds
    loop: Seconds
    sweep: Seconds
    stock_sweep: Seconds
    n_trials: int
    n_chunks: int
    n_singles: int
    n_cells: int


def trials_of(study: Path) -> list[Trial]:
    """What a run measured, without its noise floor."""
    with closing(sqlite3.connect(f"file:{study / 'study.sqlite'}?mode=ro", uri=True)) as connection:
        rows = connection.execute(_TRIALS).fetchall()
    return [
        Trial(kind, label, json.loads(swaps), text, n) for kind, label, swaps, text, n in rows if kind != "reference"
    ]


def cells_of(study: Path) -> int:
    """Cells of tensor and type, of the tensors that may change."""
    return sum(len(t["types"]) for t in json.loads((study / "sensitivity.json").read_text())["tensors"])


class Loop:
    """The stock programs on one model, with the reference's logits of each text and number of chunks."""

    def __init__(self, given: argparse.Namespace, programs: StockPrograms, scratch: Path) -> None:
        self.given, self.programs, self.scratch = given, programs, scratch
        self.logits: dict[tuple[str, int], Path] = {}
        self.kinds = {t.name: t.type for t in read_model(given.model).tensors}

    def text(self, name: str, chunks: int) -> Text:
        path = self.given.text if name == "search" else self.given.report_text
        return Text(path, self.given.ctx, chunks, self.given.threads, calm=self.given.calm)

    def reference(self, name: str, chunks: int) -> Seconds:
        """Make the logits of so many chunks of a text."""
        text, out = self.text(name, chunks), self.scratch / f"{name}-{chunks}.logits"
        command = [self.programs.perplexity, "-m", self.given.model, *text.stock(), "--kl-divergence-base", out]
        self.logits[name, chunks] = out
        return seconds(measured(command, text.environment))

    def trial(self, trial: Trial) -> Seconds:
        """Quantize to a file, measure, delete."""
        out, text = self.scratch / "trial.gguf", self.text(trial.text, trial.chunks)
        if (trial.text, trial.chunks) not in self.logits:
            self.reference(trial.text, trial.chunks)
        lines = self.scratch / "types.txt"
        lines.write_text("\n".join(self.overrides(trial)) + "\n")
        options = ["--tensor-type-file", lines] if lines.stat().st_size > 1 else []
        base = "Q8_0" if trial.kind == "single" or trial.label == "source" else self.given.like
        quantize = [self.programs.quantize, *options, self.given.model, out, base, str(text.threads)]
        try:
            made = measured(quantize, text.environment)
            self.prove(trial, out)
            command: list[str | Path] = [self.programs.perplexity, "-m", out, *text.stock()]
            command += ["--kl-divergence-base", self.logits[trial.text, trial.chunks], "--kl-divergence"]
            used, _ = stock_divergence(command, text.environment)
        finally:
            out.unlink(missing_ok=True)
        return seconds(made) + seconds(used)

    def overrides(self, trial: Trial) -> list[str]:
        """Of a single trial: its own type, all others as in the source (an unquantized base would ignore overrides)."""
        own = [override_of(name, kind) for name, kind in trial.swaps.items()]
        return [*own, f".*={source_type(self.kinds)}"] if trial.kind == "single" or trial.label == "source" else own

    def prove(self, trial: Trial, path: Path) -> None:
        """Raises RuntimeError where the file doesn't hold the trial's types."""
        kinds = {t.name: t.type for t in read_model(path).tensors}
        if wrong := [name for name, kind in trial.swaps.items() if kinds[name] != kind]:
            raise RuntimeError(f"{trial.label}: llama-quantize stored {wrong[0]} as {kinds[wrong[0]]}")


def source_type(kinds: dict[str, str]) -> str:
    """The type of most matrices of an unquantized file."""
    found = [kind for kind in kinds.values() if kind in ("F16", "BF16")] or ["F32"]
    return max(set(found), key=found.count).lower()


def seconds(usage: Usage) -> Seconds:
    return Seconds(usage.seconds, usage.cpu_seconds)


def sampled(trials: Sequence[Trial], n: int, number: int, rounds: int) -> list[Trial]:
    """``n`` trials spread evenly over all, other ones in every round."""
    step = len(trials) / n
    return [trials[int((i + (number + 0.5) / rounds) * step)] for i in range(n)]


def one_round(given: argparse.Namespace, programs: StockPrograms, number: int, scratch: Path) -> Round:
    """Ours, a sweep of one type, the stock loop's sample."""
    size = ["--ctx", str(given.ctx), "--chunks", str(given.chunks), "--threads", str(given.threads)]
    texts = ["--text", str(given.text), "--report-text", str(given.report_text)]
    study = scratch / "run"
    words = ["run", str(given.model), "--like", given.like, *texts, *size, "--imatrix", "none", "--out", str(study)]
    ours = seconds(measured([*OURS, *words]))
    trials, n_cells = trials_of(study), cells_of(study)
    words = ["sweep", str(given.model), "--base", given.like, "--role", "all", "--to", given.to, *texts, *size]
    swept = measured([*OURS, *words, "--out", str(scratch / "sweep"), "--json"])
    n_swept = len(json.loads(swept.output)["sweep"])
    loop = Loop(given, programs, scratch)
    lengths = {name: max(t.chunks for t in trials if t.text == name) for name in ("search", "report")}
    once = [loop.reference(name, chunks) for name, chunks in lengths.items()]
    each = [loop.trial(t) for t in sampled(trials, given.sample, number, given.rounds)]
    singles = [t for t in trials if t.kind == "single"]
    whole = loop.trial(replace(singles[(number * 37) % len(singles)], chunks=given.chunks))
    mean = sum(each[1:], each[0]) * (1.0 / len(each))
    return Round(
        ours, sum(once[1:], once[0]) + mean * len(trials), seconds(swept) * (n_cells / n_swept), once[0] + whole * n_cells,
        len(trials), sum(t.chunks for t in trials), len(singles), n_cells,
    )  # fmt: skip


def rows(rounds: Sequence[Round]) -> list[tuple[str, str, str]]:
    """(what, wall, processor time) with the least and the largest of the rounds."""

    def minutes(name: str, clock: str) -> str:
        return f"{spread([getattr(getattr(r, name), clock) / 60 for r in rounds]).text(1)} min"

    def times(name: str, clock: str) -> str:
        values = [[getattr(getattr(r, which), clock) for r in rounds] for which in (name, "run")]
        found: Spread = ratios(*values)
        return found.text(1)

    names = {
        "run": "the allocation, as a whole process", "loop": "stock loop, the same trials",
        "sweep": "our sweep of all tensors and types", "stock_sweep": "stock loop of all tensors and types",
    }  # fmt: skip
    own = [(label, minutes(name, "wall"), minutes(name, "cpu")) for name, label in names.items()]
    return own + [(f"{names[n]} ÷ the allocation", times(n, "wall"), times(n, "cpu")) for n in [*names][1:]]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=bundled.MODEL, help="an unquantized file")
    parser.add_argument("--text", type=Path, default=bundled.SEARCH_TEXT)
    parser.add_argument("--report-text", type=Path, default=bundled.REPORT_TEXT)
    parser.add_argument("--like", default="Q3_K_M", choices=FTYPES, help="stock file whose bytes are taken")
    parser.add_argument("--to", default="Q2_K", help="type of the sweep that stands for all types")
    parser.add_argument("--ctx", type=positive, default=512)
    parser.add_argument("--chunks", type=positive, default=16, help="of each text")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument(
        "--sample", type=positive, default=6, help="trials of the stock loop that are really run in a round"
    )
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="of both sides")
    parser.add_argument(
        "--calm", action="store_true", help="the stock programs' threads wait as ours do: for a busy machine"
    )
    parser.add_argument("--scratch", type=Path, help="folder for studies and files (default: the system's)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    programs, rounds = stock_programs(), list[Round]()
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory(dir=given.scratch) as name:
            rounds.append(one_round(given, programs, number, Path(name)))
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
        if given.json:
            given.json.write_text(json.dumps([asdict(r) for r in rounds], indent=1))
    show(
        f"{given.model.name} at the bytes of {given.like}, {given.chunks} chunks of {given.ctx} tokens, {given.threads} threads, "
        f"{len(rounds)} rounds",
        ("", "wall", "processor time"),
        rows(rounds),
    )
    r = rounds[-1]
    print(
        f"{r.n_trials} trials on {r.n_chunks} chunks ({r.n_singles} of single tensors); the full sweep: {r.n_cells} trials on "
        f"{r.n_cells * given.chunks} chunks"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
