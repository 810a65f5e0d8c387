"""Two engines with a core each beside one engine with two threads: the same study, the same bits, and how long each takes.

    python -m benchmarks.workers                        the bundled model, 8 rounds; about ten minutes on two cores that do nothing else
    python -m benchmarks.workers --rounds 12 --chunks 16 --json FILE

Each round sweeps the same trials both ways, from a copy of a study that has the reference, the base and the noise floor, in turn first
the one and then the other. Timed is the sweep: the engines are open when it begins. Printed is the ratio of the two times of a round, its
median with a 95 % interval (order statistics), and whether every sum of every chunk of every trial is the same in all studies. Exit code 1
where one differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.ratios import median_interval, spread
from benchmarks.running import positive, show
from cerebellum import api
from cerebellum.bundled import MODEL, SEARCH_TEXT
from cerebellum.cores import n_cores
from cerebellum.progress import Silent

#: Name → (engines, threads of each).
WAYS = {"2 workers on a core each": (2, 1), "1 worker with 2 threads": (1, 2)}
ROWS = """
    SELECT series.key, trial.key, chunk, n_tokens, nll, nll2, tempered, kld, kld2, kld_var, same_top, dp, dp2, dp4, kld_tokens, digest
    FROM score JOIN trial ON trial.id = score.trial JOIN series ON series.id = trial.series ORDER BY series.key, trial.key, chunk
"""


class SweepClock(Silent):
    """Seconds of the sweep alone."""

    seconds = 0.0
    _began: float | None = None

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._began = time.perf_counter() if what == "sweep" else None

    def end(self) -> None:
        if self._began is not None:
            self.seconds, self._began = time.perf_counter() - self._began, None


def sweep(out: Path, options: argparse.Namespace, workers: int, threads: int, **more: Any) -> float:
    """Seconds of a sweep into the study in ``out``."""
    clock = SweepClock()
    api.sweep(
        options.model, text=options.text, out=out, role=options.role, to="Q2_K", ctx=options.ctx, chunks=options.chunks,
        workers=workers, threads=threads, progress=clock, **more,
    )  # fmt: skip
    return clock.seconds


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """All that a study says of its measurements."""
    with closing(sqlite3.connect(folder / "study.sqlite")) as db:
        return db.execute(ROWS).fetchall()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--text", type=Path, default=SEARCH_TEXT)
    parser.add_argument("--role", default="ffn_gate,ffn_up,ffn_down")
    parser.add_argument("--ctx", type=positive, default=256)
    parser.add_argument("--chunks", type=positive, default=8)
    parser.add_argument("--rounds", type=positive, default=8, help="six are the fewest that give an interval")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    if n_cores() < 2:
        parser.error("two cores are needed")
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    n_odd, n_rows = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        begun, known = Path(temporary) / "begun", None
        sweep(begun, options, 1, 2, blocks="0")
        for number in range(options.rounds):
            for name in list(WAYS)[:: 1 if number % 2 else -1]:
                out = Path(temporary) / "round"
                shutil.copytree(begun, out)
                seconds[name].append(sweep(out, options, *WAYS[name]))
                measured = rows(out)
                known = known or measured
                n_odd, n_rows = n_odd + (measured != known), len(measured)
                shutil.rmtree(out)
                print(f"round {number + 1}: {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    two, one = seconds.values()
    ratio = median_interval([a / b for a, b in zip(two, one, strict=True)])
    table = [(name, spread(times).text(), len(times)) for name, times in seconds.items()]
    show("A sweep both ways: seconds", ("", "median (least to largest)", "rounds"), table)
    print(
        f"2 workers ÷ 1 worker with 2 threads: {ratio.estimate:.3f} (95 % interval {ratio.low:.3f} to {ratio.high:.3f})"
    )
    print(f"{n_rows} rows of each study: " + (f"{n_odd} studies DIFFER" if n_odd else "the same bits in all"))
    if options.json:
        kept = {"seconds": seconds, "ratio": [ratio.estimate, ratio.low, ratio.high], "n_rows": n_rows, "n_odd": n_odd}
        options.json.write_text(json.dumps(kept, indent=1))
    return 1 if n_odd else 0


if __name__ == "__main__":
    sys.exit(main())
