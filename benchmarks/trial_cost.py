"""What one trial costs beside a bare forward pass, and what replay saves: the two kinds of sweep and a bare pass in alternation.

python -m benchmarks.trial_cost MODEL [--base Q3_K_M] [--text FILE] [--ctx 512] [--chunks 4] [--blocks 0,6,13] [--rounds 5]
                                [-ngl 0]

*bare*: llama.cpp decodes the same chunks of the base and nothing else (`benchmarks.bare_pass`), its threads waiting as those of our engine
do; *bare, stock*: waiting as in the stock programs, which need a machine of their own for it. *whole*: a sweep with replay off. *replay*:
a sweep as it is. The time of a trial is the whole time of a sweep's trials over their number: swapping, quantizing, scoring with KL
divergence, the database, and for replay the capture of the base's states and the self-check are all in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import measured
from benchmarks.ratios import Spread, ratios, spread
from benchmarks.running import CommandFailedError, show
from benchmarks.step_times import BASE, SWEEP, Timed, WholeBackend, can_replay, timed_sweep
from cerebellum import bundled
from cerebellum.errors import CerebellumError
from cerebellum.llamacpp.process import WAITING


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds for all chunks: a bare pass, and a trial (mean over the trials) of either kind; the trials' own, without what is done
    once for all of them."""

    bare: float
    bare_stock: float
    whole: float
    whole_steps: float
    replay: float | None
    replay_steps: float | None


def run_round(options: argparse.Namespace, folder: Path, number: int) -> Round:
    """One alternation."""
    base = folder / "bare.gguf"
    size = ["--text", options.text, "--ctx", options.ctx, "--chunks", options.chunks, "--threads", options.threads]
    size += ["-ngl", options.gpu_layers]
    whole = timed(options, folder / f"whole-{number}", whole=True)
    if not base.exists():
        (written,) = (folder / f"whole-{number}").glob("base-*.gguf")
        os.link(written, base)
    command = [sys.executable, "-m", "benchmarks.bare_pass", base, *size]
    words = [str(word) for word in command]
    bare, bare_stock = (
        bare_seconds(words, environment) for environment in (WAITING, WAITING if options.calm else None)
    )
    replay = timed(options, folder / f"replay-{number}", whole=False) if can_replay() else None
    return Round(
        bare,
        bare_stock,
        per_trial(whole, whole=True),
        per_step(whole, options.chunks),
        None if replay is None else per_trial(replay, whole=False),
        None if replay is None else per_step(replay, options.chunks),
    )


def bare_seconds(words: Sequence[str], environment: Mapping[str, str] | None) -> float:
    """The median pass of a process that does nothing else."""
    return spread(json.loads(measured(words, environment).output)["seconds"]).median


def timed(options: argparse.Namespace, out: Path, whole: bool) -> Timed:
    """A sweep into ``out``."""
    return timed_sweep(
        options.model, out, backend=WholeBackend() if whole else None, base=options.base, role=options.role, to=options.to,
        blocks=options.blocks, text=options.text, report_text=bundled.REPORT_TEXT, ctx=options.ctx, chunks=options.chunks,
        threads=options.threads, gpu_layers=options.gpu_layers,
    )  # fmt: skip


def per_trial(timed: Timed, whole: bool) -> float:
    """Seconds of all trials over their number; where they are replayed, the base's too, whose pass the replays begin with."""
    phase = timed.times.phase(SWEEP)
    bases = sum(seconds for label, seconds in phase.steps if label == BASE)
    return (phase.seconds - (bases if whole else 0.0)) / len(timed.trial_seconds())


def per_step(timed: Timed, chunks: int) -> float:
    """The mean over trials of their chunks' median, for all chunks: no trial's quantizing, nothing done once. Over the trials of one role
    that is the mean over blocks."""
    trials = timed.trial_seconds().values()
    return chunks * statistics.fmean(spread(seconds).median for seconds in trials)


def figures(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Name → the figure over all rounds."""
    bare = [r.bare for r in rounds]
    found = {
        "bare forward pass, s": spread(bare),
        "bare forward pass, stock, s": spread([r.bare_stock for r in rounds]),
        "trial computed whole, s": spread([r.whole for r in rounds]),
        "trial computed whole ÷ bare": ratios([r.whole for r in rounds], bare),
        "the same without quantizing ÷ bare": ratios([r.whole_steps for r in rounds], bare),
    }
    replays = [(r.replay, r.replay_steps, r) for r in rounds if r.replay is not None and r.replay_steps is not None]
    if replays:
        found |= {
            "trial replayed, s": spread([replay for replay, _, _ in replays]),
            "trial replayed ÷ whole": spread([replay / r.whole for replay, _, r in replays]),
            "the same without what is done once ÷ whole": spread([steps / r.whole_steps for _, steps, r in replays]),
            "trial replayed ÷ bare": spread([replay / r.bare for replay, _, r in replays]),
        }
    return found


def compared(options: argparse.Namespace) -> list[Round]:
    """All rounds. Raises CommandFailedError or a CerebellumError."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        return [run_round(options, Path(folder), number) for number in range(options.rounds)]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trial_cost", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("model", type=Path, help="the unquantized file")
    parser.add_argument("--text", type=Path, default=bundled.SEARCH_TEXT)
    for name, default in (("base", "Q3_K_M"), ("role", "ffn_gate"), ("to", "Q2_K")):
        parser.add_argument(f"--{name}", default=default)
    for name, number in (("ctx", 512), ("chunks", 4), ("threads", os.cpu_count() or 1), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--blocks", type=block_numbers, help="as in 0,6,13 (default: all)")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU (default: none)")
    parser.add_argument(
        "--calm", action="store_true", help="the stock programs' threads wait as ours do: for a busy machine"
    )
    parser.add_argument("--scratch", type=Path, help="folder for studies (default: the system's)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def block_numbers(text: str) -> list[int]:
    """``0,6,13`` → [0, 6, 13]"""
    return [int(word) for word in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 where a program failed."""
    options = arguments().parse_args(argv)
    try:
        rounds = compared(options)
    except (CommandFailedError, CerebellumError) as error:
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
    if not can_replay():
        print("This version has no replay: every trial is computed whole.")
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
