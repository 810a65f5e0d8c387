"""What one trial costs beside a bare forward pass, and what replay saves: two kinds of sweep in alternation, each with its bare passes.

python -m benchmarks.trial_cost [MODEL] [--base Q3_K_M] [--text FILE] [--ctx 512] [--chunks 4] [--blocks 0,6,13] [--rounds 5]
                                [--whole-only] [-ngl 0]

*bare*: llama.cpp decodes a chunk of the base and nothing else, in the sweep's own process beside each of its passes
(`benchmarks.beside_bare`, a process for each sweep); *with stock waiting*: in a process of its own, its threads spinning as in the stock
programs, which need a machine of their own for it. *whole*: a sweep with replay off (--replay-memory 0). *replayed*: a sweep as it
is. The time of a trial: swapping, quantizing, the forward pass, scoring with KL divergence, the database; the way between the processes
(`profile_sweep`) is not in it. Replay's *once* is the base's pass, whose states the trials begin with, and the self-check.

*whole ÷ bare* is what a trial costs beside the arithmetic, with the machine's noise in it. It is made up of *llama.cpp's part ÷ bare*,
which is nearly the same arithmetic (one tensor has another type) with a graph built for each batch, and *whole ÷ llama.cpp's part*, which
has hardly any noise. Of the former the median pair of passes is surer than the ratio of sums, which a few slow passes move; the product
of the two sure ones is *whole ÷ bare* again. Intervals are of 95 %, over the trials of all rounds, or all pairs; where there is only a
range it is over the rounds. *÷ whole* is a ratio of ratios, each to the bare passes of its own process; the last is of the median chunk
after a trial's first, without quantizing. Trials computed whole alone (``--whole-only``) leave time for more rounds, or for a longer text.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.beside_bare import Beside
from benchmarks.measuring import measured
from benchmarks.ratios import Spread, Sure, median_interval, ratios, spread
from benchmarks.running import CommandFailedError, positive, show
from benchmarks.step_times import sweep_parser
from cerebellum.llamacpp.process import WAITING
from cerebellum.stats.intervals import mean_interval, ratio_values


@dataclass(frozen=True, slots=True)
class Round:
    """A sweep of either kind with its bare passes (``replay`` None: of the first alone), and the seconds of bare passes over all chunks
    with the stock programs' way to wait."""

    whole: Beside
    replay: Beside | None
    bare_stock: float


def run_round(options: argparse.Namespace, folder: Path, number: int) -> Round:
    """One alternation."""
    whole = run_beside(options, folder / f"whole-{number}", "--whole")
    base = next((folder / f"whole-{number}").glob("base-*.gguf"), options.model)  # it may have been of that type
    command = ["benchmarks.bare_pass", base, "--text", options.text, *sizes(options)]
    bare_stock = spread(run_json(command, stock=not options.calm)["seconds"]).median
    replay = None if options.whole_only else run_beside(options, folder / f"replay-{number}")
    return Round(whole, replay, bare_stock)


def run_beside(options: argparse.Namespace, out: Path, *more: str) -> Beside:
    """A sweep into ``out``, in a process of its own."""
    command = ["benchmarks.beside_bare", options.model, "--text", options.text, "--out", out, *sizes(options), *more]
    command += [word for name in ("base", "role", "to") for word in (f"--{name}", getattr(options, name))]
    if options.blocks:
        command += ["--blocks", ",".join(map(str, options.blocks))]
    return Beside.parsed(run_json(command))


def sizes(options: argparse.Namespace) -> list[object]:
    """What a sweep and a bare pass are told alike."""
    own = ["--ctx", options.ctx, "--chunks", options.chunks, "--threads", options.threads, "-ngl", options.gpu_layers]
    return list[object](own)


def run_json(command: Sequence[object], stock: bool = False) -> Any:
    """What a module of the benchmarks prints; ``stock``: threads wait as in the stock programs. Raises CommandFailedError."""
    output = measured([sys.executable, "-m", *map(str, command)], None if stock else WAITING).output
    return json.loads(output.splitlines()[-1])  # native code may have printed before


def figures(rounds: Sequence[Round]) -> dict[str, Sure | Spread]:
    """Name → the figure over all rounds."""
    wholes = [r.whole for r in rounds]
    part, typical = ratio(wholes, "trial", "decoding"), median_pair(wholes)
    found: dict[str, Sure | Spread] = {
        "bare passes over all chunks, s": spread([fmean(each.sums("bare")) for each in wholes]),
        "the same with stock waiting, s": spread([r.bare_stock for r in rounds]),
        "a trial computed whole, s": spread([fmean(each.sums("trial")) for each in wholes]),
        "whole ÷ bare": ratio(wholes, "trial", "bare"),
        "llama.cpp's part ÷ bare": ratio(wholes, "decoding", "bare"),
        "whole ÷ llama.cpp's part": part,
        "llama.cpp's part ÷ bare, the median pair": typical,
        "whole ÷ bare by the last two": part * typical,
    }
    replays = [r.replay for r in rounds if r.replay]
    return {**found, **replay_figures(replays, wholes)} if replays else found


def replay_figures(replays: Sequence[Beside], wholes: Sequence[Beside]) -> dict[str, Sure | Spread]:
    """What replay adds, round by round."""
    return {
        "a trial replayed, s": spread([fmean(each.sums("trial")) for each in replays]),
        "once, s": spread([each.once for each in replays]),
        "replayed with a trial's share of once ÷ whole": ratios(
            [e.to_bare for e in replays], [e.to_bare for e in wholes]
        ),
        "replayed ÷ whole": ratios([e.later_to_bare for e in replays], [e.later_to_bare for e in wholes]),
    }


def ratio(sweeps: Sequence[Beside], above: str, below: str) -> Sure:
    """Of seconds over all chunks, the trials of all sweeps being independent: sum ÷ sum."""
    sums = [np.array([x for each in sweeps for x in each.sums(name)]) for name in (above, below)]
    found = mean_interval(ratio_values(*sums))
    return Sure(found.estimate, found.low, found.high)


def median_pair(sweeps: Sequence[Beside]) -> Sure:
    """llama.cpp's part of a pass ÷ the bare pass beside it."""
    return median_interval(
        [pair.decoding / pair.bare for each in sweeps for own in each.pairs.values() for pair in own]
    )


def compared(options: argparse.Namespace) -> list[Round]:
    """All rounds. Raises CommandFailedError."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        return [run_round(options, Path(folder), number) for number in range(options.rounds)]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = sweep_parser("trial_cost", __doc__, chunks=4)
    parser.add_argument("--rounds", type=positive, default=5, help="of a sweep of each kind (default 5)")
    parser.add_argument(
        "--whole-only", action="store_true", help="no replayed sweeps, which take four tenths of a round"
    )
    parser.add_argument(
        "--calm", action="store_true", help="the stock programs' threads wait as ours do: for a busy machine"
    )
    parser.add_argument("--scratch", type=Path, help="folder for studies (default: the system's)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 where a program failed."""
    options = arguments().parse_args(argv)
    try:
        rounds = compared(options)
    except (CommandFailedError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(options, rounds)
    return 0


def report(options: argparse.Namespace, rounds: Sequence[Round]) -> dict[str, Any]:
    """Table on stdout, JSON where asked; the same as plain data."""
    found = figures(rounds)
    trials, kinds = list(rounds[0].whole.pairs.values()), "whole" if options.whole_only else "whole and replayed"
    what = (
        f"{len(trials)} trials of {options.role} at {options.to} {kinds}, {len(trials[0])} chunks of {options.ctx} tokens of "
        f"{options.text.name}, {options.threads} threads, -ngl {options.gpu_layers}, {len(rounds)} rounds"
    )
    show(f"{options.model.name} at {options.base}: {what}", ("", "", "how sure"), map(row, found.items()))
    data = {
        "what": what,
        "figures": {name: asdict(x) for name, x in found.items()},
        "rounds": [asdict(r) for r in rounds],
    }
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return data


def row(figure: tuple[str, Sure | Spread]) -> tuple[str, str, str]:
    """Name, figure, and what its sureness is."""
    name, x = figure
    digits = 3 if isinstance(x, Spread) else 4
    middle = x.median if isinstance(x, Spread) else x.estimate
    kind = "least and largest" if isinstance(x, Spread) else "95 % interval"
    return name, f"{middle:.{digits}f}", f"{x.low:.{digits}f} to {x.high:.{digits}f} ({kind})"


if __name__ == "__main__":
    sys.exit(main())
