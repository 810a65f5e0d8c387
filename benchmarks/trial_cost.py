"""What one trial costs beside a bare forward pass, and what replay saves: the two kinds of sweep and a bare pass in alternation.

python -m benchmarks.trial_cost [MODEL] [--base Q3_K_M] [--text FILE] [--ctx 512] [--chunks 4] [--blocks 0,6,13] [--rounds 5] [-ngl 0]

*bare*: llama.cpp decodes a chunk of the base and nothing else, in the sweep's own process right before each of its passes
(`benchmarks.beside_bare`, a process for each sweep); *bare, stock*: in a process of its own, its threads waiting as in the stock programs,
which need a machine of their own for it. *whole*: a sweep with replay off. *replayed*: a sweep as it is. The time of a trial is the whole
time of a sweep's trials over their number: swapping, quantizing, scoring with KL divergence, the database, and for replay the capture of
the base's states and the self-check are all in it. *its decoding*: llama.cpp's part of that, by a clock on its function; what a trial
costs beyond it is told to a tenth of a percent, where the ratio to a bare pass, which is of the same work, has the machine's noise in it.
Ratios are of what one process measured; *replayed ÷ whole* is the ratio of the two to their bare passes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.beside_bare import Beside
from benchmarks.measuring import measured
from benchmarks.ratios import Spread, ratios, spread
from benchmarks.running import CommandFailedError, show
from benchmarks.step_times import add_sweep_arguments
from cerebellum.llamacpp.process import WAITING


@dataclass(frozen=True, slots=True)
class Round:
    """A sweep of either kind with its bare passes, and the seconds of the stock programs' way to wait."""

    whole: Beside
    replay: Beside
    bare_stock: float


def run_round(options: argparse.Namespace, folder: Path, number: int) -> Round:
    """One alternation."""
    base = folder / "bare.gguf"
    whole = run_beside(options, folder / f"whole-{number}", "--whole")
    if not base.exists():
        (written,) = (folder / f"whole-{number}").glob("base-*.gguf")
        os.link(written, base)
    command = ["benchmarks.bare_pass", base, "--text", options.text, *sizes(options)]
    bare_stock = spread(run_json(command, stock=not options.calm)["seconds"]).median
    return Round(whole, run_beside(options, folder / f"replay-{number}"), bare_stock)


def run_beside(options: argparse.Namespace, out: Path, *more: str) -> Beside:
    """A sweep into ``out``, in a process of its own."""
    command = ["benchmarks.beside_bare", options.model, "--text", options.text, "--out", out, *sizes(options), *more]
    command += [word for name in ("base", "role", "to") for word in (f"--{name}", getattr(options, name))]
    if options.blocks:
        command += ["--blocks", ",".join(map(str, options.blocks))]
    return Beside(**run_json(command))


def sizes(options: argparse.Namespace) -> list[object]:
    """What a sweep and a bare pass are told alike."""
    own = ["--ctx", options.ctx, "--chunks", options.chunks, "--threads", options.threads, "-ngl", options.gpu_layers]
    return list[object](own)


def run_json(command: Sequence[object], stock: bool = False) -> Any:
    """What a module of the benchmarks prints; ``stock``: threads wait as in the stock programs. Raises CommandFailedError."""
    return json.loads(measured([sys.executable, "-m", *map(str, command)], None if stock else WAITING).output)


def figures(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Name → the figure over all rounds."""
    wholes, replays = [r.whole for r in rounds], [r.replay for r in rounds]
    return {
        "bare forward pass, s": spread([each.bare for each in wholes]),
        "bare forward pass, stock, s": spread([r.bare_stock for r in rounds]),
        "computed whole, s": spread([each.trial for each in wholes]),
        "computed whole ÷ bare": spread([each.trial / each.bare for each in wholes]),
        "its decoding ÷ bare (the same work)": spread([each.decoding / each.bare for each in wholes]),
        "computed whole ÷ its decoding": spread([each.trial / each.decoding for each in wholes]),
        "replayed, s": spread([each.trial for each in replays]),
        "replayed ÷ its decoding": spread([each.trial / each.decoding for each in replays]),
        "replayed ÷ bare": spread([each.trial / each.bare for each in replays]),
        "replayed ÷ whole": ratios([e.trial / e.bare for e in replays], [e.trial / e.bare for e in wholes]),
        "the same without what is done once": ratios(
            [each.trial_step / each.bare_step for each in replays],
            [each.trial_step / each.bare_step for each in wholes],
        ),
    }


def compared(options: argparse.Namespace) -> list[Round]:
    """All rounds. Raises CommandFailedError."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        return [run_round(options, Path(folder), number) for number in range(options.rounds)]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trial_cost", description=__doc__.splitlines()[0] if __doc__ else None
    )
    add_sweep_arguments(parser, chunks=4)
    parser.add_argument("--rounds", type=int, default=5)
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
    except CommandFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(options, rounds)
    return 0


def report(options: argparse.Namespace, rounds: Sequence[Round]) -> dict[str, Any]:
    """Table on stdout, JSON where asked; the same as plain data."""
    found = figures(rounds)
    what = f"{options.chunks} chunks of {options.ctx} tokens, {options.threads} threads, {len(rounds)} rounds"
    rows = [(name, f"{x.median:.3f}", f"{x.low:.3f}", f"{x.high:.3f}") for name, x in found.items()]
    show(f"{options.model.name} at {options.base}: {what}", ("a trial", "median", "least", "largest"), rows)
    data = {
        "what": what,
        "figures": {name: asdict(x) for name, x in found.items()},
        "rounds": [asdict(r) for r in rounds],
    }
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return data


if __name__ == "__main__":
    sys.exit(main())
