"""The chosen tensors measured together, in memory: the recipe, the sum of its single effects, and its controls."""

from __future__ import annotations

from collections.abc import Sequence

from cerebellum.allocation.effects import predict_additive
from cerebellum.allocation.plan import blanket_trial, random_trials
from cerebellum.allocation.policies import Choice
from cerebellum.domain import Trial, TrialKind, tensor_types_of
from cerebellum.errors import EngineError
from cerebellum.gguf.overrides import pairs
from cerebellum.results import Combination, Comparison, Row, Sweep
from cerebellum.scoring.summary import contrast, summarize
from cerebellum.study.runner import Split
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL, delta_bytes


def combine(
    session: Session, sweep: Sweep, choice: Choice, alternatives: Sequence[Choice], n_random: int, seed: int
) -> Combination:
    """Measure the chosen set, what other policies would have chosen, and the controls, on the search and the report split."""
    recipe = Trial("recipe", TrialKind.RECIPE, choice.tensor_types)
    others = [Trial(f"policy {c.policy}", TrialKind.RECIPE, c.tensor_types) for c in alternatives if c.effects]
    trials = [BASE_TRIAL, recipe, *others, *controls(session, sweep, choice, n_random, seed)]
    return Combination(
        choice,
        recipe,
        predict_additive(sweep.effects, choice.tensor_types),
        compare(session, session.search, trials),
        compare(session, session.report, trials),
    )


def better_set(combination: Combination, room: int | None) -> str:
    """Why the recipe isn't worth a file, in words: a set that was measured with it is nearer to the reference beyond the interval on both
    texts, and fits the size allowed (``room``: bytes of growth, None: any). "" where there is none."""
    search = {row.trial.label: row for row in combination.search.rows}
    taken = combination.report.rows[1].delta_bytes
    for row in combination.report.rows:
        label = row.trial.label
        fits = row.delta_bytes <= taken or room is None or row.delta_bytes <= room > 0
        if fits and row.trial.tensor_types and label in search and _beats(row) and _beats(search[label]):
            return f"{label}, which fits the size allowed, is nearer to the reference than the recipe, beyond the interval, on both texts"
    return ""


def _beats(row: Row) -> bool:
    """Whether a set is surely nearer to the reference than the recipe; by the change of NLL where there is no reference."""
    return row.from_recipe is not None and (row.from_recipe.kld or row.from_recipe.ppl).high < 0.0


def controls(session: Session, sweep: Sweep, choice: Choice, n_random: int, seed: int) -> list[Trial]:
    """The base requantized without overrides, a blanket per type, random sets like the choice."""
    blankets = [
        blanket_trial(sweep.plan, kind) for kind in dict.fromkeys(kind for p in sweep.plan.planned for kind in p.asked)
    ]
    return [requantized(session), *blankets, *random_trials(sweep.plan, choice.tensor_types, n_random, seed)]


def requantized(session: Session) -> Trial:
    """What llama.cpp makes of the base when told its own file type again: the fair baseline where that changes types."""
    types = session.backend.types(
        session.base.model.path, session.base.ftype, pairs(session.base.mix.lines), session.options.imatrix
    )
    changed = {name: kind for name, kind in types.items() if kind != session.base.model.types[name]}
    return Trial("base requantized", TrialKind.REQUANTIZED, tensor_types_of(changed))


def compare(session: Session, split: Split, trials: list[Trial]) -> Comparison:
    """Measure ``trials`` (base first, recipe second) on a split and contrast them. Raises `EngineError` where the recipe fails."""
    runner = session.runner(split)
    scores = runner.measure(trials, split.chunks, f"comparison, {split.name} text")
    failed = runner.failed(trials)
    if trials[1].label not in scores:
        why = next(failure.reason for failure in failed if failure.label == trials[1].label)
        raise EngineError(
            f"the recipe can't be measured on the {split.name} text: {why}; try again with --retry-failed"
        )
    base, recipe = scores[trials[0].label], scores[trials[1].label]
    rows = tuple(
        Row(
            trial,
            delta_bytes(session, trial),
            summarize(scores[trial.label]),
            contrast(scores[trial.label], base, noise_floor=session.noise_floor) if trial is not trials[0] else None,
            contrast(scores[trial.label], recipe, noise_floor=session.noise_floor) if trial is not trials[1] else None,
        )
        for trial in trials
        if trial.label in scores
    )
    return Comparison(split.name, rows, failed)
