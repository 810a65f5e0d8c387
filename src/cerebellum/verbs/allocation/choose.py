"""Candidate recipes measured together, paired, on the text that chooses; the best is kept. Only what was measured is believed."""

from __future__ import annotations

from collections.abc import Sequence

from cerebellum.allocate.damage import DamageModel
from cerebellum.allocate.recipes import Candidate, candidates
from cerebellum.allocate.table import Table
from cerebellum.results.allocation import Tried
from cerebellum.scoring.summary import mean_kld
from cerebellum.study.runner import Scores, Split
from cerebellum.verbs.allocation.measuring import kld_ratio, recipe_trial
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL


def try_candidates(session: Session, table: Table, model: DamageModel, budget: int, split: Split) -> tuple[Tried, ...]:
    """Every belief's recipe measured on ``split``; the one with the least KL divergence is kept."""
    found = candidates(table, model, budget)
    return measure_candidates(session, table, found, split, "candidate recipes")


def measure_candidates(
    session: Session, table: Table, found: Sequence[Candidate], split: Split, what: str
) -> tuple[Tried, ...]:
    """The candidates beside the base, the best marked as kept; of equals the first."""
    trials = {c.name: recipe_trial(session, c.name, c.types) for c in found}
    scores = session.runner(split).measure([BASE_TRIAL, *trials.values()], split.chunks, what)
    base: Scores = scores[BASE_TRIAL.label]
    measured = {name: mean_kld(scores[trial.label]) for name, trial in trials.items()}
    best = min(measured, key=lambda name: measured[name])
    return tuple(
        Tried(
            c,
            c.predicted,
            measured[c.name],
            kld_ratio(scores[trials[c.name].label], base),
            table.file_bytes(c.types),
            c.name == best,
        )
        for c in found
    )
