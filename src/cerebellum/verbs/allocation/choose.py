"""Candidate recipes measured together, paired, on the text that chooses; the best is kept. Only what was measured is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cerebellum.allocation.damage import DamageModel
from cerebellum.allocation.recipes import Candidate, candidates, predicted_kld
from cerebellum.allocation.table import Table
from cerebellum.domain import Trial
from cerebellum.errors import EngineError
from cerebellum.results.allocation import Tried
from cerebellum.scoring.summary import mean_kld
from cerebellum.stats.intervals import mean_interval
from cerebellum.study.runner import Scores, Split
from cerebellum.verbs.allocation.measuring import effect_values, kld_ratio, recipe_trial, shuffled_chunks
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL

#: Chunks of the first look at the candidates: those that are surely worse than the best by then get no more.
FIRST_LOOK = 6


def try_candidates(
    session: Session, table: Table, model: DamageModel, budget: int, split: Split, seed: int
) -> tuple[Tried, ...]:
    """Every belief's recipe, and the stock mix where it fits, measured on ``split``; the one with the least KL divergence is kept."""
    tried = [*candidates(table, model, budget), *stock_candidate(table, model, budget)]
    return measure_candidates(session, table, tried, split, seed)


def stock_candidate(table: Table, model: DamageModel, budget: int) -> list[Candidate]:
    """The base's own types, where they fit the rules of types, and ``budget`` in a file that carries no keys, as stock files are."""
    types = table.base_types
    n_bytes = sum(table.n_bytes(name, kind) for name, kind in types.items())
    if n_bytes > budget + table.extra_bytes or not table.allows(types):
        return []
    return [Candidate(STOCK_MIX, types, n_bytes, predicted_kld(table, model, types))]


def measure_candidates(
    session: Session, table: Table, tried: Sequence[Candidate], split: Split, seed: int
) -> tuple[Tried, ...]:
    """The candidates beside the base, the best marked as kept; of equals the first. Those that can't be measured are left out.

    Raises `EngineError` where none can be.
    """
    runner = session.runner(split)
    tried = unlike(tried)
    trials = {c.name: recipe_trial(session, c.name, c.types) for c in tried}
    scores = runner.measure([BASE_TRIAL, *trials.values()], split.chunks if few(split) else look(split, seed), NAME)
    if not few(split):
        scores |= runner.measure([BASE_TRIAL, *_contenders(trials, scores)], split.chunks, f"{NAME}, the best")
    base: Scores = scores[BASE_TRIAL.label]
    lost = {failure.label for failure in runner.failed(list(trials.values()))}
    measured = {n: scores[t.label] for n, t in trials.items() if t.label in scores and t.label not in lost}
    if not measured:
        raise EngineError(f"no recipe could be measured: {runner.failed(list(trials.values()))[0].reason}")
    longest = max(map(len, measured.values()))
    best = min(measured, key=lambda name: (len(measured[name]) < longest, mean_kld(measured[name])))
    return tuple(
        Tried(
            c,
            c.predicted,
            mean_kld(measured[c.name]),
            kld_ratio(measured[c.name], base),
            table.file_bytes(c.types) - (table.extra_bytes if c.name == STOCK_MIX else 0),
            c.name == best,
            len(measured[c.name]),
        )
        for c in tried
        if c.name in measured
    )


#: Names of the measurement and of the candidate that changes nothing.
NAME, STOCK_MIX = "candidate recipes", "stock mix"


def unlike(tried: Sequence[Candidate]) -> list[Candidate]:
    """The candidates without those whose types an earlier one has."""
    kept: list[Candidate] = []
    for candidate in tried:
        if all(dict(candidate.types) != dict(other.types) for other in kept):
            kept.append(candidate)
    return kept


def few(split: Split) -> bool:
    """Whether the split is too short for a first look."""
    return len(split.chunks) < 2 * FIRST_LOOK


def look(split: Split, seed: int) -> list[int]:
    """The chunks of the first look, in the order of the text."""
    return sorted(shuffled_chunks(split, seed)[:FIRST_LOOK])


def _contenders(trials: Mapping[str, Trial], scores: Mapping[str, Scores]) -> list[Trial]:
    """The trials that may still be the best, after the first look."""
    measured = [trial for trial in trials.values() if trial.label in scores]
    best = min(measured, key=lambda trial: mean_kld(scores[trial.label]), default=None)
    return [
        trial
        for trial in measured
        if best is None
        or trial is best
        or mean_interval(effect_values(scores[trial.label], scores[best.label])).low <= 0.0
    ]
