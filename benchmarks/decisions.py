"""The decisions of a sweep, read from what `cerebellum sweep --json` prints: a verdict for each trial, and what greedy would choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebellum.allocation.effects import SingleEffect
from cerebellum.allocation.policies import Rules, choose_greedy
from cerebellum.stats.verdicts import Verdict, scale_of

#: `run`'s default: the share of the base's own KL divergence that smaller types may add.
ALLOW = 0.05
EFFECT_FIELDS = tuple(SingleEffect.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Trial ("tensor=type") → verdict; the trials that greedy takes; how much of the text was measured for it."""

    verdicts: Mapping[str, str]
    chosen: frozenset[str]
    share: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the trials that the whole text decides (not *undecided*), how many a race gives the same word, and how many the same way by KL
    divergence (*drift* is damage with a falling perplexity, which takes more text to see); how many say the opposite; of the choice by the
    whole text how many a race takes too, and how many others it takes."""

    clear: int
    same: int
    same_way: int
    opposite: int
    chosen: int
    chosen_too: int
    others: int


def decisions(result: Mapping[str, Any]) -> Decisions:
    """From the parsed JSON."""
    rows, race = result["sweep"], result.get("race")
    effects = [SingleEffect(**{name: row[name] for name in EFFECT_FIELDS}) for row in rows]
    verdicts = {_name(e): row["contrast"]["judgement"]["verdict"] for e, row in zip(effects, rows, strict=True)}
    divergence = result["base"]["divergence"]["mean"]["estimate"]
    taken = choose_greedy(effects, Rules(allowed_damage=ALLOW * scale_of(divergence))).effects
    share = race["n_chunks"] / race["n_chunks_full"] if race else 1.0
    return Decisions(verdicts, frozenset(map(_name, taken)), share)


def compare(whole: Decisions, raced: Decisions) -> Agreement:
    """What a race kept of the decisions on the whole text."""
    clear = [trial for trial, verdict in whole.verdicts.items() if verdict != Verdict.UNDECIDED]
    same = sum(raced.verdicts[trial] == whole.verdicts[trial] for trial in clear)
    ends = {str(Verdict.IMPROVES), str(Verdict.DAMAGES)}
    same_way = sum(_way(raced.verdicts[trial]) == _way(whole.verdicts[trial]) for trial in clear)
    opposite = sum({whole.verdicts[trial], raced.verdicts[trial]} == ends for trial in whole.verdicts)
    too = len(whole.chosen & raced.chosen)
    return Agreement(len(clear), same, same_way, opposite, len(whole.chosen), too, len(raced.chosen) - too)


def _way(verdict: str) -> str:
    return str(Verdict.DAMAGES) if verdict == Verdict.DRIFT else verdict


def _name(effect: SingleEffect) -> str:
    return f"{effect.tensor}={effect.to_type}"
