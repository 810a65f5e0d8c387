"""Refinement by measurement: steps measured from the recipe itself, put together within its bytes, taken only where the interval says so.

A round opens the recipe's own file as a base, so that each step is computed from the block that it changes. The steps are measured on a few
chunks, the recipes that are made of them on others (`judged_chunks`). Where nothing is taken the next round measures and judges on twice
as many chunks. A round begins only if what it may cost at most, judging and writing included, is left of the budget.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cerebellum.allocation.damage import fit
from cerebellum.allocation.exchanges import TAKEN_AT_ONCE, MeasuredStep, Step, as_anchors, exchanges, steadied, steps
from cerebellum.allocation.plan import single_trial
from cerebellum.allocation.recipes import predicted_kld
from cerebellum.allocation.solver import Solution
from cerebellum.allocation.table import Table
from cerebellum.domain import TensorType, Trial, TrialKind
from cerebellum.fleet.node import Made
from cerebellum.gguf import model_file
from cerebellum.gguf.overrides import pairs
from cerebellum.results.allocation import Anchors, Proposal, Refined, Round
from cerebellum.scoring.summary import mean_kld
from cerebellum.stats.intervals import mean_interval
from cerebellum.stats.verdicts import MILLI
from cerebellum.study.runner import Scores, TrialRunner
from cerebellum.verbs.allocation.anchors import LOOKS
from cerebellum.verbs.allocation.measuring import effect_values, recipe_trial, shuffled_chunks
from cerebellum.verbs.session import Session, opened_runner
from cerebellum.verbs.write import make_overrides

#: Chunks that a step is measured on first, and at most how many a proposal is judged on then; both double together.
STEP_CHUNKS, JUDGED_CHUNKS = 2, 32
#: Rounds at most, and the fewest steps that a round is worth.
ROUNDS, LEAST_STEPS = 12, 8
#: Fewer chunks than these, apart from all that anchors were measured on, judge nothing: the anchors' chunks judge too then.
LEAST_APART = 12
#: Chance that refinement takes any recipe, in any round, though it is no better.
ERROR_RATE = 0.05
#: Recipes that a round judges at most: sets of steps, the slopes' choice, the recipe so far.
JUDGED_RECIPES = len(TAKEN_AT_ONCE) + 2


@dataclass(frozen=True, slots=True)
class Spend:
    """``chunks`` of trials that all rounds together may take. ``seconds``: what a chunk is taken to last, where minutes bound the work:
    then making a recipe's tensors, for its file or in memory, counts as the chunks that it lasts (None: it counts nothing)."""

    chunks: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where refinement stands: the types of the table's tensors, those before the last recipe was taken (None: none was), and the chunks
    that a step is measured on."""

    types: Mapping[str, str]
    look: int
    before: Mapping[str, str] | None = None


def usual_spend(n_anchor_chunks: int, n_search: int) -> Spend:
    """Where nobody names minutes: `step_chunks` for steps, and what one round's judging may take."""
    return Spend(int(step_chunks(n_anchor_chunks, n_search)) + judging_cost(first_judged(n_search)))


def step_chunks(n_anchor_chunks: float, n_search: int) -> float:
    """Chunks for steps: as many as the anchors took where `JUDGED_CHUNKS` judge, in proportion fewer where fewer do. They tell only large
    changes apart, which few steps hold."""
    return n_anchor_chunks * first_judged(n_search) / JUDGED_CHUNKS


def first_judged(n_search: int) -> int:
    """Chunks of a search text of ``n_search`` that the first round judges on."""
    return len(judged_chunks(range(n_search), STEP_CHUNKS))


def judging_cost(n_judged: int) -> int:
    """The most chunks that judging a round takes."""
    return JUDGED_RECIPES * n_judged


def judged_chunks(order: Sequence[int], look: int) -> Sequence[int]:
    """The chunks that recipes are judged on: none that a step was measured on, and none that an anchor was, if enough others are left."""
    apart = order[max(look, LOOKS[-1]) :]
    return (apart if len(apart) >= LEAST_APART else order[look:])[: JUDGED_CHUNKS * look // STEP_CHUNKS]


def level_of(number: int, n_proposals: int) -> float:
    """The level of each interval in round ``number`` (from 1): all rounds together err with `ERROR_RATE` at most, since the sum of
    1 / (r · (r + 1)) is 1."""
    return 1.0 - ERROR_RATE / (number * (number + 1)) / n_proposals


def refine(
    session: Session, table: Table, anchors: Anchors, types: Mapping[str, str], budget: int, spend: Spend, seed: int
) -> Refined:
    """Rounds until nothing is found or no other round fits into ``spend``; ``budget``: bytes of the table's tensors."""
    order = shuffled_chunks(session.search, seed)
    state, rounds = _Place(dict(types), STEP_CHUNKS), list[Round]()
    while len(rounds) < ROUNDS and 2 * state.look <= len(order):
        left = spend.chunks - sum(r.n_chunks for r in rounds)
        if _most_steps(left, 0, state.look, table, order) < LEAST_STEPS:
            break
        recipe = recipe_trial(session, "recipe so far", state.types)
        known = session.runner(session.search).measure([recipe], sorted(order[: state.look]), "recipe so far")
        if recipe.label not in known:  # it was taken on other chunks
            session.progress.note(
                "refinement: the recipe that was taken last can't be measured on all chunks, so it is dropped"
            )
            return Refined(state.before or state.types, _untaken(rounds))
        with recipe_runner(session, recipe, spend.seconds) as (runner, making):
            most = _most_steps(left, making, state.look, table, order)
            if most < LEAST_STEPS:
                break
            kld = mean_kld(known[recipe.label])
            wanted = steps(table, anchors.model, state.types, kld, most)
            measured = _measure_steps(runner, wanted, order[: state.look])
        proposed = _proposals(table, anchors, state.types, measured, kld, budget)
        judged = judged_chunks(order, state.look)
        proposals = _judged(session, recipe, proposed, state.types, judged, len(rounds) + 1)
        n_judged = len(proposals) + bool(proposals)
        cost = state.look * (1 + len(wanted)) + n_judged * len(judged) + making * (1 + n_judged)
        rounds.append(Round(len(wanted), state.look, proposals, cost))
        session.progress.note(sentence(rounds[-1]))
        state = _next(state, proposed, proposals)
    return Refined(state.types, tuple(rounds))


def _most_steps(left: int, making: int, look: int, table: Table, order: Sequence[int]) -> int:
    """Steps that ``left`` chunks hold beside writing the recipe's file, measuring it, and judging; ``making`` a recipe's tensors counts
    as so many chunks."""
    rest = left - judging_cost(len(judged_chunks(order, look))) - making * (1 + JUDGED_RECIPES)
    return min(2 * len(table.names), rest // look - 1)


def _next(state: _Place, proposed: Sequence[Solution], proposals: Sequence[Proposal]) -> _Place:
    """From the recipe that was taken, or from the same one on twice as many chunks."""
    taken = next((i for i, p in enumerate(proposals) if p.taken), None)
    if taken is None:
        return replace(state, look=2 * state.look)
    return _Place(proposed[taken].types, state.look, state.types)


def _untaken(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """The rounds, the last of which took nothing after all."""
    kept = [replace(one, proposals=tuple(replace(p, taken=False) for p in one.proposals)) for one in rounds[-1:]]
    return (*rounds[:-1], *kept)


def _proposals(
    table: Table, anchors: Anchors, types: Mapping[str, str], measured: Sequence[MeasuredStep], kld: float, budget: int
) -> list[Solution]:
    """Recipes of the steps that promise most, and what the slopes say with the steps among their anchors; no two alike."""
    if not measured:
        return []
    room = budget - sum(table.n_bytes(n, k) for n, k in types.items())
    solutions = exchanges(types, measured, kld, anchors.model.misfit, room, table.groups)
    model = fit(table.roles, [*anchors.anchors, *as_anchors(measured, kld)])
    anew = table.best(model.damage, budget)
    change = predicted_kld(table, model, anew.types) - predicted_kld(table, model, types)
    if dict(anew.types) != dict(types) and all(dict(anew.types) != dict(s.types) for s in solutions) and change < 0.0:
        solutions.append(Solution(anew.types, anew.n_bytes, change))
    return solutions


def _judged(
    session: Session,
    recipe: Trial,
    solutions: Sequence[Solution],
    types: Mapping[str, str],
    chunks: Sequence[int],
    number: int,
) -> tuple[Proposal, ...]:
    """The proposals beside the recipe on chunks that their steps weren't measured on; the best is taken if its whole interval is below
    zero. One that can't be measured, or can't be compared since the recipe can't, has no change."""
    trials = [recipe_trial(session, f"proposal {i}", s.types) for i, s in enumerate(solutions, start=1)]
    if not trials:
        return ()
    scores = session.runner(session.search).measure([recipe, *trials], sorted(chunks), "refined recipes")
    level = level_of(number, len(trials))
    start = scores.get(recipe.label)
    proposals = []
    for trial, solution in zip(trials, solutions, strict=True):
        changed = sum(solution.types[n] != types[n] for n in types)
        change = None
        if start is not None and trial.label in scores:
            change = mean_interval(effect_values(scores[trial.label], start), level)
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


def _measure_steps(runner: TrialRunner, wanted: Sequence[Step], chunks: Sequence[int]) -> list[MeasuredStep]:
    """The steps measured from the recipe; those that can't be measured are left out."""
    itself = Trial("recipe itself", TrialKind.BASE)
    trials = {s: single_trial(TensorType(s.tensor, s.type)) for s in wanted}
    scores = runner.measure([itself, *trials.values()], sorted(chunks), "steps from the recipe")
    start: Scores = scores[itself.label]
    effects = []
    for step, trial in trials.items():
        if trial.label in scores:
            values = effect_values(scores[trial.label], start)
            error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else abs(float(values.mean()))
            effects.append(MeasuredStep(step, float(values.mean()), error))
    return steadied(effects, len(chunks))


@contextlib.contextmanager
def recipe_runner(session: Session, recipe: Trial, seconds: float | None) -> Iterator[tuple[TrialRunner, int]]:
    """Measures trials that start from the recipe: its file, written for this round, is opened as a base. And the chunks that making its
    tensors counts as."""
    path = session.options.out / ".refined.gguf"
    try:
        started = time.monotonic()
        overrides = pairs(make_overrides(session, recipe))
        session.backend.quantize(session.options.model, path, session.base.ftype, overrides, session.options.imatrix)
        making = 0 if seconds is None else math.ceil(_making_seconds(session, time.monotonic() - started) / seconds)
        made = Made(session.base.ftype, tuple(overrides))
        with opened_runner(session, model_file.read_model(path), session.search, made) as runner:
            yield runner, making
    finally:
        path.unlink(missing_ok=True)


def _making_seconds(session: Session, lasted: float) -> float:
    """How long a recipe's tensors are taken to need: as it was the first time in this study, so that a resumed run counts the same."""
    name = f"seconds to make a recipe's tensors, {session.options.settings.n_threads} threads"
    known = session.study.fact(name)
    if known is None:
        session.study.set_fact(name, known := lasted)
    return float(known)
