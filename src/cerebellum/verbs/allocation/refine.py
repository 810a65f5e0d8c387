"""Refinement by measurement: steps measured from the recipe itself, put together within its bytes, taken only where the interval says so.

A round opens the recipe's own file as a base, so that each step is computed from the block that it changes. The steps are measured on a few
chunks, the recipes that are made of them on others, which had no part in it. Where nothing is taken the next round measures on twice as
many chunks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cerebellum.allocation.damage import fit
from cerebellum.allocation.exchanges import Measured, Step, as_anchors, exchanges, steadied, steps
from cerebellum.allocation.plan import single_trial
from cerebellum.allocation.recipes import predicted_kld
from cerebellum.allocation.solver import Solution, solve
from cerebellum.allocation.table import Table
from cerebellum.domain import TensorType, Trial, TrialKind
from cerebellum.fleet.node import Made
from cerebellum.gguf.overrides import pairs
from cerebellum.results.allocation import Anchors, Proposal, Refined, Round
from cerebellum.scoring.summary import mean_kld
from cerebellum.stats.intervals import mean_interval
from cerebellum.stats.verdicts import MILLI
from cerebellum.study.runner import Scores, TrialRunner
from cerebellum.verbs.allocation.measuring import effect_values, recipe_trial, shuffled_chunks
from cerebellum.verbs.session import Session
from cerebellum.verbs.write import make_overrides

#: Chunks that a step is measured on first, and at most how many a proposal is judged on.
STEP_CHUNKS, JUDGED_CHUNKS = 2, 32
#: Rounds at most, and the fewest steps that a round is worth.
ROUNDS, LEAST_STEPS = 12, 8
#: Chance that any proposal of a round is taken though it is no better.
ERROR_RATE = 0.05


@dataclass(frozen=True, slots=True)
class _Place:
    """Where refinement stands: the types of the table's tensors, and the chunks that a step is measured on."""

    types: Mapping[str, str]
    look: int


def refine(
    session: Session, table: Table, anchors: Anchors, types: Mapping[str, str], budget: int, chunks: int, seed: int
) -> Refined:
    """Rounds until nothing is found or ``chunks`` chunks of trials are spent; ``budget``: bytes of the table's tensors."""
    order = shuffled_chunks(session.search, seed)
    place, rounds = _Place(dict(types), STEP_CHUNKS), list[Round]()
    while len(rounds) < ROUNDS and 2 * place.look <= len(order):
        most = min(2 * len(table.names), (chunks - sum(r.n_chunks for r in rounds)) // place.look)
        if most < LEAST_STEPS:
            break
        done, place = _round(session, table, anchors, place, budget, most, order)
        rounds.append(done)
    return Refined(place.types, tuple(rounds))


def _round(
    session: Session,
    table: Table,
    anchors: Anchors,
    place: _Place,
    budget: int,
    most: int,
    order: Sequence[int],
) -> tuple[Round, _Place]:
    types, look = place.types, place.look
    recipe = recipe_trial(session, "recipe so far", types)
    known = session.runner(session.search).measure([recipe], sorted(order[:look]), "recipe so far")
    kld = mean_kld(known[recipe.label])
    wanted = steps(table, anchors.model, types, kld, most)
    with recipe_runner(session, recipe) as runner:
        measured = _measure_steps(runner, wanted, order[:look])
    proposed = _proposals(table, anchors, types, measured, kld, budget)
    judged = order[look : look + JUDGED_CHUNKS]
    proposals = _judged(session, recipe, proposed, types, judged)
    taken = next((i for i, p in enumerate(proposals) if p.taken), None)
    cost = look * (1 + len(wanted)) + len(judged) * (len(proposals) + bool(proposals))
    done = Round(len(wanted), look, proposals, cost)
    session.progress.note(sentence(done))
    return done, _Place(types, 2 * look) if taken is None else _Place(proposed[taken].types, look)


def _proposals(
    table: Table, anchors: Anchors, types: Mapping[str, str], measured: Sequence[Measured], kld: float, budget: int
) -> list[Solution]:
    """Recipes of the steps that promise most, and what the slopes say with the steps among their anchors; no two alike."""
    if not measured:
        return []
    room = budget - sum(table.n_bytes(n, k) for n, k in types.items())
    found = exchanges(types, measured, kld, anchors.model.misfit, room)
    model = fit(table.roles, [*anchors.anchors, *as_anchors(measured, kld)])
    anew = solve(table.offers(model.damage), budget)
    change = predicted_kld(table, model, anew.types) - predicted_kld(table, model, types)
    if dict(anew.types) != dict(types) and all(dict(anew.types) != dict(s.types) for s in found) and change < 0.0:
        found.append(Solution(anew.types, anew.n_bytes, change))
    return found


def _judged(
    session: Session, recipe: Trial, found: Sequence[Solution], types: Mapping[str, str], chunks: Sequence[int]
) -> tuple[Proposal, ...]:
    """The proposals beside the recipe on chunks that had no part in them; the best is taken if its whole interval is below zero."""
    trials = [recipe_trial(session, f"proposal {i}", s.types) for i, s in enumerate(found, start=1)]
    if not trials:
        return ()
    scores = session.runner(session.search).measure([recipe, *trials], sorted(chunks), "refined recipes")
    level = 1.0 - ERROR_RATE / len(trials)
    start = scores[recipe.label]
    proposals = []
    for trial, solution in zip(trials, found, strict=True):
        changed = sum(solution.types[n] != types[n] for n in types)
        change = mean_interval(effect_values(scores[trial.label], start), level) if trial.label in scores else None
        proposals.append(Proposal(changed, solution.cost, change, False))
    measured = [(p.change.estimate, i) for i, p in enumerate(proposals) if p.change is not None]
    best = min(measured, default=(0.0, -1))[1]
    return tuple(
        replace(p, taken=i == best and p.change is not None and p.change.high < 0.0) for i, p in enumerate(proposals)
    )


def sentence(done: Round) -> str:
    """What a round brought, for the terminal."""
    measured = [p for p in done.proposals if p.change is not None]
    best = next((p for p in measured if p.taken), None) or min(
        measured, key=lambda p: p.change.estimate if p.change else 0.0, default=None
    )
    if best is None or best.change is None:
        return f"refinement: none of {done.n_steps} steps promises anything"
    low, high = best.change.low * MILLI, best.change.high * MILLI
    return (
        f"refinement: {best.n_changed} changed types together change KL divergence by {best.change.estimate * MILLI:.4f} thousandths "
        f"[{low:.4f}, {high:.4f}], {best.predicted * MILLI:.4f} predicted: {'taken' if best.taken else 'not taken'}"
    )


def _measure_steps(runner: TrialRunner, wanted: Sequence[Step], chunks: Sequence[int]) -> list[Measured]:
    """The steps measured from the recipe; those that can't be measured are left out."""
    own = Trial("recipe itself", TrialKind.BASE)
    trials = {s: single_trial(TensorType(s.tensor, s.type)) for s in wanted}
    scores = runner.measure([own, *trials.values()], sorted(chunks), "steps from the recipe")
    start: Scores = scores[own.label]
    found = []
    for step, trial in trials.items():
        if trial.label in scores:
            values = effect_values(scores[trial.label], start)
            error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else abs(float(values.mean()))
            found.append(Measured(step, float(values.mean()), error))
    return steadied(found, len(chunks))


@contextlib.contextmanager
def recipe_runner(session: Session, recipe: Trial) -> Iterator[TrialRunner]:
    """Measures trials that start from the recipe: its file, written for this round, is opened as a base."""
    path = session.options.out / ".refined.gguf"
    types = recipe.types(session.base.model.types)
    with contextlib.ExitStack() as stack:
        stack.callback(path.unlink, missing_ok=True)
        overrides = pairs(make_overrides(session, recipe))
        session.backend.quantize(session.options.model, path, session.base.ftype, overrides, session.options.imatrix)
        engines = stack.enter_context(session.engines_on(path, Made(session.base.ftype, tuple(overrides))))
        split, store = session.search, session.reference_store(session.search)
        yield TrialRunner(engines, session.study, session.series(split), types, split.corpus, store, session.progress)
