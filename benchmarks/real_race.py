"""Races replayed over the measurements of a full sweep: the same verdicts, the same choice, for how much of the text?

    cerebellum sweep MODEL --role all --to Q2_K --base Q5_K_M --ctx 512 --out STUDY
    python -m benchmarks.real_race STUDY [--allow 0.05] [--roles ffn_down] [--spread OUT.npz]

What a race measures depends on the measurements alone, so the replay is the race that ``sweep --race`` or ``run --race`` would run on
this model and text. One row per set of roles, allowance and seed. The effects per chunk can be saved for `benchmarks.planted_truth`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.running import show
from cerebellum.allocation.effects import SingleEffect
from cerebellum.allocation.policies import Rules, choose_greedy
from cerebellum.domain import Model, role_of
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import quant_type
from cerebellum.stats.fdr import adjusted_p
from cerebellum.stats.intervals import ChunkSums, Interval, mean_interval, paired_values
from cerebellum.stats.racing import RaceRules, RaceState, for_choice, next_step, plan_race, race_state
from cerebellum.stats.sequential import Schedule, sequential_p
from cerebellum.stats.verdicts import Verdict, judge, practical_margin, scale_of
from cerebellum.study.store import Study


@dataclass(frozen=True)
class Swept:
    """A full sweep: per trial its swap and its per-chunk differences from the base, (nats, scored tokens)."""

    base: Model
    base_kld: float
    chunks: tuple[int, ...]
    tensor_types: Mapping[str, tuple[str, str]]
    differences: Mapping[str, ChunkSums]

    def only(self, roles: Sequence[str]) -> Swept:
        """The trials of some roles (all where none is named)."""
        kept = {name: swap for name, swap in self.tensor_types.items() if not roles or role_of(swap[0]) in roles}
        return dataclasses.replace(self, tensor_types=kept, differences={name: self.differences[name] for name in kept})

    def delta_bytes(self, trial: str) -> int:
        """Bytes more than in the base."""
        tensor = self.base.tensor(self.tensor_types[trial][0])
        assert tensor is not None
        return tensor.bytes_as(quant_type(self.tensor_types[trial][1])) - tensor.n_bytes


def load(folder: Path) -> Swept:
    """The sweep in a study's folder. Trials that lack a chunk are left out."""
    import json
    import sqlite3

    (path,) = folder.glob("base-*.gguf")
    with Study.open(folder / "study.sqlite", read_only=True):
        pass  # it is one of ours
    with sqlite3.connect(f"file:{folder / 'study.sqlite'}?mode=ro", uri=True) as db:
        query = """SELECT t.label, t.kind, t.swaps, s.chunk, s.kld, s.n_tokens FROM score s JOIN trial t ON t.id = s.trial
                   JOIN series r ON r.id = t.series WHERE r.name = 'search' AND t.kind IN ('base', 'single')"""
        rows = db.execute(query).fetchall()
    base = {chunk: (kld, n) for _, kind, _, chunk, kld, n in rows if kind == "base"}
    found: dict[str, dict[int, tuple[float, int]]] = {}
    tensor_types: dict[str, tuple[str, str]] = {}
    for label, kind, swapped, chunk, kld, n in rows:
        if kind == "single" and chunk in base:
            ((tensor, to),) = json.loads(swapped).items()
            tensor_types[label] = tensor, to
            found.setdefault(label, {})[chunk] = (kld - base[chunk][0], n)
    whole = {label: sums for label, sums in found.items() if len(sums) == len(base)}
    mean = sum(kld for kld, _ in base.values()) / sum(n for _, n in base.values())
    return Swept(read_model(path), mean, tuple(sorted(base)), {label: tensor_types[label] for label in whole}, whole)


def race(swept: Swept, rules: RaceRules) -> RaceState:
    """The race, handed exactly what each step asks for."""
    measured: dict[str, dict[int, tuple[float, int]]] = {}
    while True:
        state = race_state(rules, sorted(swept.tensor_types), measured)
        step = next_step(state)
        if not step.assignments:
            return state
        for given in step.assignments:
            known = swept.differences[given.trial]
            measured.setdefault(given.trial, {}).update({c: known[c] for c in given.chunks})


def choice(swept: Swept, intervals: Mapping[str, Interval], allow: float) -> frozenset[str]:
    """Tensors the greedy policy takes."""
    effects = []
    for trial, x in intervals.items():
        tensor, to = swept.tensor_types[trial]
        size = swept.delta_bytes(trial)
        effects.append(
            SingleEffect(
                tensor, None, role_of(tensor), "", to, size, 0.0, kld=x.estimate, kld_low=x.low, kld_high=x.high
            )
        )
    rules = Rules(allowed_damage=allow * scale_of(swept.base_kld))
    return frozenset(f"{e.tensor}={e.to_type}" for e in choose_greedy(effects, rules).effects)


def full_verdicts(swept: Swept, intervals: Mapping[str, Interval]) -> dict[str, Verdict]:
    """The words of a sweep over the whole text."""
    trials = list(intervals)
    raw = [sequential_p(x, Schedule((len(x),))) for x in (values(swept, trial) for trial in trials)]
    margin = practical_margin(swept.base_kld)
    return {
        trial: judge(intervals[trial], margin=margin, significant=bool(p <= 0.05)).verdict
        for trial, p in zip(trials, adjusted_p(raw), strict=True)
    }


def values(swept: Swept, trial: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Per-chunk differences of a trial, nats a token."""
    sums = swept.differences[trial]
    return paired_values(sums, {chunk: (0.0, n) for chunk, (_, n) in sums.items()})


def rows_of(swept: Swept, name: str, allow: float, seed: int) -> list[str]:
    """One row of the table."""
    intervals = {trial: mean_interval(values(swept, trial)) for trial in swept.tensor_types}
    order, schedule = plan_race(swept.chunks, seed)
    total = len(swept.tensor_types) * len(order)
    rules = RaceRules(order, schedule, margin=practical_margin(swept.base_kld))
    judged = race(swept, rules)
    words = full_verdicts(swept, intervals)
    clear = [s for s in judged.standings if words[s.trial] is not Verdict.UNDECIDED]
    same_words = sum(s.verdict is words[s.trial] for s in clear)
    opposite = sum({s.verdict, words[s.trial]} == {Verdict.IMPROVES, Verdict.DAMAGES} for s in judged.standings)
    saved = {trial: -swept.delta_bytes(trial) for trial in swept.tensor_types}
    tensors = {trial: swap[0] for trial, swap in swept.tensor_types.items()}
    chosen = race(swept, for_choice(rules, saved, tensors, allow * scale_of(swept.base_kld)))
    whole, raced = (
        choice(swept, intervals, allow),
        choice(swept, {s.trial: s.interval for s in chosen.standings if s.interval}, allow),
    )
    return [
        name, str(len(swept.tensor_types)), f"{allow:g}", str(seed),
        f"{100 * judged.n_measured / total:.0f} %", f"{same_words} of {len(clear)}", str(opposite),
        f"{100 * chosen.n_measured / total:.0f} %", f"{len(raced & whole)} of {len(whole)}", str(len(raced - whole)),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a full sweep")
    parser.add_argument("--allow", action="append", type=float, help="as in `run`; may be repeated (default 0.05)")
    parser.add_argument(
        "--roles", action="append", help="roles with commas between; may be repeated (default: all measured)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--spread", type=Path, help="save the effects per chunk [trial, chunk], nats a token (npz)")
    options = parser.parse_args()
    swept = load(options.study)
    if options.spread:
        np.savez(options.spread, effects=np.stack([values(swept, trial) for trial in sorted(swept.tensor_types)]))
    rows = []
    for named in options.roles or [""]:
        part = swept.only([role for role in named.split(",") if role])
        for allow in options.allow or [0.05]:
            rows += [rows_of(part, named or "all", allow, seed) for seed in range(options.seeds)]
    columns = ["roles", "trials", "allow", "seed", "verdicts: text", "clear words kept", "opposite"]
    columns += ["choice: text", "chosen as in full", "others"]
    title = f"{swept.base.path.name}: {len(swept.chunks)} chunks; KL divergence of the base {swept.base_kld:.3g} nats a token"
    show(title, columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
