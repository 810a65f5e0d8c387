"""Sweeps beside the loop of the stock programs: time, memory, bytes written, in alternation on the same model, text and chunks.

python -m benchmarks.sweep_speed small|race|medium|e2b [--rounds 5] [--json FILE]      (each size can be changed by an option)

*stock*: for each trial llama-quantize with an override, llama-perplexity over the text, delete the file (`benchmarks.stock_loop`). *ours*:
`cerebellum sweep` as a whole process, from the unquantized file to the printed result. *race*: the same with --race, or --race --allow.
All write to fresh folders below --scratch. Wall clocks are compared; processor time stands beside them, for machines that do other work.
*trials alone* leaves out on both sides what is done once: the stock loop's reference logits and base; our base, reference and noise floor.
The parts: *speed* is all that; *cost*, a trial beside a bare forward pass, whole and replayed; *share*, what scoring takes of a pass of 512
tokens; *written*, what trials write and hold in memory.

Decisions are those of the sweep over the whole text: each trial's verdict, and which tensors the greedy choice takes within the allowance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import trial_cost
from benchmarks.decisions import ALLOW
from benchmarks.measuring import measured
from benchmarks.models import NoRoomError
from benchmarks.running import OURS, CommandFailedError, run, run_ours
from benchmarks.step_times import block_numbers
from benchmarks.stock import StockBuildError, StockPrograms, stock_programs
from benchmarks.stock_loop import StockLoop, run_loop
from benchmarks.stock_output import StockOutputError
from benchmarks.sweep_cases import CASES, Case, Ready, ready
from benchmarks.sweep_report import Ours, Round, show_rounds, show_written
from benchmarks.trials_write import Written, trials_write
from cerebellum.errors import CerebellumError

PARTS = ("speed", "cost", "share", "written")


def rounds_of(case: Ready, programs: StockPrograms, rounds: int) -> Iterator[Round]:
    """Ours, or the race where the case is one, then the stock loop; again and again. What a race should decide is asked of a sweep over
    the whole text, which stays in the scratch folder: its time is not compared."""
    whole: Ours | None = None
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=case.scratch) as name:
            folder = Path(name)
            ours = None if case.case.race else sweep(case, folder / "study")
            whole = ours or whole or sweep(case, case.scratch / f"whole-{case.name}")
            race = sweep(case, folder / "race", *racing(case.case)) if case.case.race else None
            yield Round(stock(case, programs, whole, number, folder), ours, race, whole)


def racing(case: Case) -> list[str]:
    """The options of a race to each trial's verdict, or to the choice."""
    return ["--race"] if case.race_to == "verdicts" else ["--race", "--allow", str(ALLOW)]


def sweep(case: Ready, out: Path, *more: str) -> Ours:
    """Our whole sweep, with its base's size."""
    usage = measured([*OURS, *case.sweep(out, *more)])
    return Ours(usage, json.loads(usage.output))


def stock(case: Ready, programs: StockPrograms, ours: Ours, number: int, folder: Path) -> StockLoop:
    """The loop over the trials that our sweep had; where only some are run, other ones in each round: all are the same work."""
    tensor_types = ours.tensor_types
    n = min(case.case.stock_trials or len(tensor_types), len(tensor_types))
    some = [tensor_types[(number * n + i) % len(tensor_types)] for i in range(n)]
    return run_loop(programs, case.model, case.case.base, some, len(tensor_types), case.text, folder)


def written_by_trials(case: Ready) -> Written:
    """A study begun with one block alone, then the others watched."""
    first = (case.case.blocks or (0,))[:1]
    with tempfile.TemporaryDirectory(dir=case.scratch) as name:
        study, temporary = Path(name) / "study", Path(name) / "temporary"
        begin, go_on = case.sweep(study, blocks=first), case.sweep(study)
        return trials_write([*OURS, *begin], [*OURS, *go_on], study, temporary)


def cost(case: Ready, rounds: int) -> dict[str, Any]:
    """The cost of one trial beside a bare pass."""
    of = case.case
    options = argparse.Namespace(
        model=case.model, text=case.text.path, base=of.base, role=of.role.split(",")[0].replace("all", "ffn_gate"), to=of.to,
        blocks=None if of.blocks is None else list(of.blocks), ctx=of.ctx, chunks=of.cost_chunks, threads=case.text.threads,
        rounds=rounds, whole_only=False, calm=case.text.calm, gpu_layers=case.text.gpu_layers, scratch=case.scratch, json=None,
    )  # fmt: skip
    return trial_cost.report(options, trial_cost.compared(options))


def share(case: Ready, rounds: int) -> Any:
    """How much of the base's forward pass scoring takes."""
    with tempfile.TemporaryDirectory(dir=case.scratch) as name:
        base, kept = Path(name) / f"{case.model.stem}-{case.case.base}.gguf", Path(name) / "share.json"
        run_ours("quantize", case.model, case.case.base, "--out", base)
        size = ["--threads", str(case.text.threads), "--repeats", str(rounds), "--json", str(kept)]
        size += ["-ngl", str(case.text.gpu_layers)]
        print(run([sys.executable, "-m", "benchmarks.scoring_share", base, *size]))
        return json.loads(kept.read_text())


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep_speed", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default 5)")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated (default: all)")
    parser.add_argument("--model", type=Path, help="another unquantized file")
    parser.add_argument("--text", type=Path, help="UTF-8 text (default: the bundled search text)")
    for name in ("base", "role", "to"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--blocks", type=block_numbers, help="as in 0,6,13")
    for name, what in (
        ("ctx", "tokens in a chunk"), ("ubatch-size", "tokens that ours decodes at a time"),
        ("chunks", "chunks of text"), ("cost-chunks", "chunks of the comparison with a bare pass"),
        ("stock-trials", "trials of the stock loop that are really run in a round"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, help=what)
    parser.add_argument("--race", action="store_true", default=None, help="race as well")
    parser.add_argument("--race-to", choices=("choice", "verdicts"), help="what a race settles (default: the choice)")
    parser.add_argument("--threads", type=int, help="of both sides (default: all cores)")
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0, help="layers on the GPU, on both sides")
    parser.add_argument(
        "--calm", action="store_true", help="the stock programs' threads wait as ours do: for a busy machine"
    )
    parser.add_argument(
        "--repack", action="store_true", help="the stock programs repack weights, as they do by default (ours can't)"
    )
    parser.add_argument("--scratch", type=Path, help="folder for generated models and studies (default: the system's)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser


def case_of(options: argparse.Namespace) -> Case:
    """The named case with what the options change."""
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Case)}
    changed = {name: value for name, value in given.items() if value is not None}
    if "blocks" in changed:
        changed["blocks"] = tuple(changed["blocks"])
    return dataclasses.replace(CASES[options.case], **changed)


def compared(case: Ready, options: argparse.Namespace) -> dict[str, Any]:
    """Every part that was asked for: tables on stdout, all of it as plain data."""
    parts, found = options.part or PARTS, dict[str, Any]()
    if "speed" in parts:
        rounds = list(rounds_of(case, stock_programs(), options.rounds if case.case.alternated else 1))
        found["speed"] = show_rounds(case, rounds)
    if "cost" in parts:
        found["cost"] = cost(case, options.rounds if case.case.alternated else 1)
    if "share" in parts:
        found["share"] = share(case, options.rounds)
    if "written" in parts:
        found["written"] = show_written(case, written_by_trials(case))
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the tables; 1 where a program failed."""
    options = arguments().parse_args(argv)
    scratch = options.scratch or Path(tempfile.gettempdir())
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        stock = {"calm": options.calm, "repack": options.repack}
        size = options.threads, options.gpu_layers
        case = ready(case_of(options), options.case, scratch, options.text, *size, **stock)
        found = compared(case, options)
    except (CommandFailedError, StockOutputError, StockBuildError, NoRoomError, CerebellumError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
