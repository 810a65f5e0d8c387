"""Planted truth: do the intervals, the false-discovery control and the racing keep their promises, and what do they
save?

Each replicate draws a sweep whose true effects are known, races it to the end, and compares. Chunk effects are as
measured: strong trials with a paired t of 10 to 30 on 24 chunks, weaker ones, many exact nulls; a chunk's difficulty is
shared by all trials (so they are correlated) and right-skewed, and single chunks stick out (Student noise with 5
degrees of freedom).

    python benchmarks/planted_truth.py                     racing against the full text
    python benchmarks/planted_truth.py --compare           the spending functions side by side
    python benchmarks/planted_truth.py --intervals         Student, Hall and the shipped interval on textbook
    populations python benchmarks/planted_truth.py --spread FILE.npz   resample measured chunks: array effects[trial,
    chunk], nats per token
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from cerebellum.allocation.effects import SingleEffect
from cerebellum.allocation.policies import Rules, choose_greedy
from cerebellum.stats.fdr import adjusted_p
from cerebellum.stats.intervals import Interval, mean_interval, quantile_to_reach
from cerebellum.stats.racing import RaceRules, RaceState, for_choice, next_step, plan_race, race_state
from cerebellum.stats.sequential import Spending, front_spending
from cerebellum.stats.verdicts import Verdict, judge

Floats = npt.NDArray[np.float64]
TOKENS = 256


def obrien_fleming(alpha: float, fraction: float) -> float:
    """O'Brien-Fleming-like 4 - 4Φ(z[1-alpha/4]/sqrt(t)) (Lan & DeMets 1983)."""
    return float(4.0 * ndtr(ndtri(alpha / 4.0) / math.sqrt(fraction)))


def pocock(alpha: float, fraction: float) -> float:
    """Pocock-like alpha·ln(1 + (e-1)t) (Lan & DeMets 1983)."""
    return alpha * math.log1p((math.e - 1.0) * fraction)


SPENDINGS: dict[str, Spending] = {"front": front_spending, "pocock": pocock, "obrien-fleming": obrien_fleming}


@dataclass(frozen=True)
class World:
    """True means [m] and chunk effects [m, n] of one replicate, nats per token."""

    truth: Floats
    effects: Floats


def synthetic(rng: np.random.Generator, args: argparse.Namespace) -> World:
    """Strong, weak and null trials. Unit: the standard deviation of a null trial's chunk difference is 0.001 nats."""
    m, n = args.trials, args.chunks
    n_strong, n_weak = round(m * args.strong), round(m * args.weak)
    t24 = np.concatenate([rng.uniform(10, 30, n_strong), rng.uniform(2, 8, n_weak), np.zeros(m - n_strong - n_weak)])
    t24 *= rng.choice([-1.0, 1.0], m, p=[0.2, 0.8])
    difficulty = rng.gamma(4.0, 0.25, n)
    own = rng.gamma(4.0, 0.25, (m, n))
    hardness = (difficulty + own) / 2.0
    shared = rng.standard_t(5, n) / np.sqrt(5 / 3)
    noise = (0.5 * shared + np.sqrt(0.75) * rng.standard_t(5, (m, n)) / np.sqrt(5 / 3)) * np.sqrt(difficulty)
    # mean/sd of a chunk is t/sqrt(24); hardness adds sd 0.35 of the mean, noise the rest
    ratio = np.abs(t24) / np.sqrt(24.0)
    rest = np.where(ratio > 0, np.sqrt(np.maximum(1.0 / np.maximum(ratio, 1e-9) ** 2 - 0.125, 0.02)), 1.0)
    mean = np.sign(t24) * np.where(ratio > 0, 0.001 / rest, 0.0)
    return World(mean, mean[:, None] * hardness + 0.001 * noise)


def resampled(rng: np.random.Generator, args: argparse.Namespace, measured: Floats) -> World:
    """Means and spreads of measured trials; a share of the trials gets a mean of zero. A simulated chunk is a measured one for all
    trials, and each trial's deviation there is that of a random trial (in units of its spread, signs turned so that effects point one
    way): what is hard for one is hard for all, and rare large deviations come as often as over all trials together.

    With ``--own-chunks`` a trial's deviations are its own. Then a trial whose effect lies in one chunk of 84 is the truth to be found, and
    a sample that lacks the chunk (37 % of them) can't know: a worst case.
    """
    mean, spread = measured.mean(axis=1), measured.std(axis=1, ddof=1)
    unit = (measured - mean[:, None]) / spread[:, None] * np.where(mean < 0, -1.0, 1.0)[:, None]
    rows = rng.integers(0, len(measured), args.trials)
    columns = rng.integers(0, measured.shape[1], args.chunks)
    others = rng.integers(0, len(measured), (args.trials, args.chunks))
    drawn = unit[rows][:, columns] if args.own_chunks else unit[others, columns[None, :]]
    nulls = np.arange(args.trials) >= round(args.trials * (args.strong + args.weak))
    truth = np.where(nulls, 0.0, mean[rows])
    signs = np.where(nulls, rng.choice([-1.0, 1.0], args.trials), np.where(mean[rows] < 0, -1.0, 1.0))
    return World(truth, truth[:, None] + (signs * spread[rows])[:, None] * drawn)


def race(world: World, rules: RaceRules, names: list[str]) -> RaceState:
    """Race to the end, handing over exactly what each step asks for."""
    measured: dict[str, dict[int, tuple[float, int]]] = {}
    while True:
        state = race_state(rules, names, measured)
        step = next_step(state)
        if not step.assignments:
            return state
        for a in step.assignments:
            row = world.effects[int(a.trial)]
            measured.setdefault(a.trial, {}).update({c: (float(row[c]) * TOKENS, TOKENS) for c in a.chunks})


def full_text(world: World, alpha: float, rate: float, margin: float) -> list[Verdict]:
    """The verdicts of a sweep over the whole text, looked at once."""
    from scipy.special import stdtr

    p = [2 * float(stdtr(len(x) - 1, -quantile_to_reach(x))) for x in world.effects]
    adjusted = adjusted_p(p)
    return [
        judge(mean_interval(x, 1 - alpha), margin=margin, significant=bool(q <= rate)).verdict
        for x, q in zip(world.effects, adjusted, strict=True)
    ]


def one(world: World, args: argparse.Namespace, spending: Spending, seed: int) -> dict[str, float]:
    """Figures of one replicate."""
    m, n = world.effects.shape
    names = [f"{i:04d}" for i in range(m)]
    order, schedule = plan_race(range(n), seed, first=args.first, growth=args.growth, spending=spending)
    rules = RaceRules(order, schedule, alpha=args.alpha, rate=args.rate, margin=args.margin)
    state = race(world, rules, names)
    stood = state.standings
    low = np.array([s.interval.low for s in stood if s.interval])
    high = np.array([s.interval.high for s in stood if s.interval])
    hit = (low <= world.truth) & (world.truth <= high)
    said = np.array([s.verdict in (Verdict.IMPROVES, Verdict.DAMAGES) for s in stood])
    improves = np.array([s.verdict is Verdict.IMPROVES for s in stood])
    false = said & ((world.truth == 0) | ((world.truth < 0) != improves))
    full = full_text(world, args.alpha, args.rate, args.margin)
    other = [Verdict.UNDECIDED not in (s.verdict, v) and s.verdict is not v for s, v in zip(stood, full, strict=True)]
    clear = np.array([v is not Verdict.UNDECIDED for v in full])
    same = np.array([s.verdict is v for s, v in zip(stood, full, strict=True)])
    chunks = np.array([s.n_chunks for s in stood])
    choice = choice_race(world, args, spending, seed)
    early = chunks < n
    return {
        "hits": float(hit.sum()), "trials": m,
        "hits_early": float(hit[early].sum()), "trials_early": float(early.sum()),
        "fdp": float(false.sum() / max(said.sum(), 1)), "same": float(same.sum()), "opposite": float(sum(other)),
        "same_clear": float((same & clear).sum()), "clear": float(clear.sum()), "tokens": float(chunks.sum() / (m * n)),
        "tokens_clear": float(chunks[clear].sum() / max(clear.sum() * n, 1)),
        "tokens_nonnull": float(chunks[world.truth != 0].mean() / n), **choice,
    }  # fmt: skip


def choice_race(world: World, args: argparse.Namespace, spending: Spending, seed: int) -> dict[str, float]:
    """The race that ends in a greedy choice (all trials save the same), against the choice from the full text."""
    m, n = world.effects.shape
    names = [f"{i:04d}" for i in range(m)]
    order, schedule = plan_race(range(n), seed, first=args.first, growth=args.growth, spending=spending)
    rules = RaceRules(order, schedule, alpha=args.alpha, rate=args.rate, margin=args.margin)
    rules = for_choice(rules, dict.fromkeys(names, 1), dict(zip(names, names, strict=True)), args.allowed)
    state = race(world, rules, names)
    stood = {s.trial: s.interval for s in state.standings if s.interval}
    hits = [stood[t].low <= truth <= stood[t].high for t, truth in zip(names, world.truth, strict=True)]
    full = greedy(
        {t: mean_interval(x, 1 - args.alpha) for t, x in zip(names, world.effects, strict=True)}, args.allowed
    )
    chosen = greedy(stood, args.allowed)
    return {
        "choice_tokens": state.n_measured / (m * n), "choice_hits": float(sum(hits)), "choice_size": float(len(full)),
        "choice_same": float(len(full & chosen)), "choice_other": float(len(chosen - full)),
    }  # fmt: skip


def greedy(intervals: Mapping[str, Interval], allowed: float) -> set[str]:
    """What `cerebellum.allocation.policies.choose_greedy` takes where every trial saves one byte."""
    effects = [
        SingleEffect(t, None, "", "", "Q2_K", -1, 0.0, kld=x.estimate, kld_low=x.low, kld_high=x.high)
        for t, x in intervals.items()
    ]
    return {e.tensor for e in choose_greedy(effects, Rules(allowed_damage=allowed)).effects}


def simulate(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """All replicates; replicate i has seed (--seed, i), so their order doesn't matter."""
    measured = None if args.spread is None else np.asarray(np.load(args.spread)["effects"], dtype=np.float64)
    rows = []
    for i in range(args.replicates):
        rng = np.random.default_rng([args.seed, i])
        world = synthetic(rng, args) if measured is None else resampled(rng, args, measured)
        rows.append(one(world, args, SPENDINGS[name], i))
    total = {k: float(np.sum([r[k] for r in rows])) for k in rows[0]}
    mean = {k: v / len(rows) for k, v in total.items()}
    return {
        "spending": name,
        "coverage": total["hits"] / total["trials"],
        "coverage_early": total["hits_early"] / max(total["trials_early"], 1.0),
        "false_discovery_rate": mean["fdp"],
        "fdr_standard_error": float(np.std([r["fdp"] for r in rows]) / np.sqrt(len(rows))),
        "tokens": mean["tokens"],
        "tokens_true_effects": mean["tokens_nonnull"],
        "tokens_where_full_is_clear": mean["tokens_clear"],
        "same_verdict": total["same"] / total["trials"],
        "same_where_full_is_clear": total["same_clear"] / max(total["clear"], 1.0),
        "contradicts_full": total["opposite"] / total["trials"],
        "choice_coverage": total["choice_hits"] / total["trials"],
        "choice_tokens": mean["choice_tokens"],
        "choice_size": mean["choice_size"],
        "choice_same": total["choice_same"] / max(total["choice_size"], 1.0),
        "choice_others": mean["choice_other"],
    }


def intervals(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Coverage (95 %) of the three interval methods for few chunks on populations from symmetric to badly skewed."""
    rng = np.random.default_rng(args.seed)
    populations: dict[str, Callable[[tuple[int, int]], Floats]] = {
        "normal": rng.standard_normal, "Student, 3 df": lambda s: rng.standard_t(3, s),
        "gamma, shape 2": lambda s: rng.gamma(2, 1, s) - 2, "exponential": lambda s: rng.exponential(1, s) - 1,
        "log-normal, 0.5": lambda s: rng.lognormal(0, 0.5, s) - np.exp(0.125),
    }  # fmt: skip
    rows = []
    for n in (6, 10, 24, 48):
        for name, draw in populations.items():
            sample = draw((args.replicates * 20, n))
            row: dict[str, Any] = {"chunks": n, "population": name}
            for method in ("t", "hall", "skew"):
                row[method] = float(np.mean([not mean_interval(x, 0.95, method).excludes(0.0) for x in sample]))
            rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """One line per figure, one column per row: readable whatever the number of figures."""
    for key in rows[0]:
        cells = [f"{r[key]:>16.4g}" if isinstance(r[key], float) else f"{r[key]!s:>16}" for r in rows]
        print(f"{key:<28}{''.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spread", help="npz with array effects[trial, chunk] of measured differences, nats per token")
    parser.add_argument("--own-chunks", action="store_true", help="with --spread: a trial's deviations are its own")
    parser.add_argument("--replicates", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--strong", type=float, default=0.5, help="share of strong trials")
    parser.add_argument("--weak", type=float, default=0.2, help="share of weak trials; the rest are exact nulls")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--rate", type=float, default=0.05, help="false-discovery rate asked for")
    parser.add_argument("--margin", type=float, default=0.0003, help="equivalence margin, nats per token")
    parser.add_argument("--allowed", type=float, default=0.002, help="nats per token that a choice may cost")
    parser.add_argument("--first", type=int, default=6, help="chunks of the first look")
    parser.add_argument("--growth", type=float, default=1.6, help="factor between looks")
    parser.add_argument("--spending", default="front", choices=list(SPENDINGS))
    parser.add_argument("--compare", action="store_true", help="all spending functions")
    parser.add_argument("--intervals", action="store_true", help="interval methods on textbook populations")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    spendings = list(SPENDINGS) if args.compare else [args.spending]
    rows = intervals(args) if args.intervals else [simulate(args, s) for s in spendings]
    print(json.dumps(rows, indent=1)) if args.json else show(rows)


if __name__ == "__main__":
    main()
