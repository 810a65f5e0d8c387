"""The whole job: from a GGUF to a proven mixed-precision GGUF with its evidence. `cerebellum.api` is how it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum.allocation.effects import Objective
from cerebellum.allocation.plan import SweepPlan, check_choice, plan_sweep, select_tensors
from cerebellum.allocation.policies import POLICIES, Rules, check_policy, choose
from cerebellum.allocation.sizes import file_bytes
from cerebellum.domain import tensor_types_of
from cerebellum.errors import InputError
from cerebellum.evals.score import BASE, FILE, REFERENCE, BenchResult
from cerebellum.files import companions
from cerebellum.gguf import model_file
from cerebellum.gguf.next_token import check_predicts
from cerebellum.gguf.overrides import check_acts, overrides_for
from cerebellum.gguf.types import ftype_name
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.progress import Progress, Silent
from cerebellum.results import Combination, LadderResult, Noise, RunResult, Sweep, SweepResult, Written
from cerebellum.results.part import Part
from cerebellum.results.stock import BesideStock
from cerebellum.scoring.summary import as_json, mean_kld, summarize
from cerebellum.stats.verdicts import scale_of
from cerebellum.study.shards import PartDone
from cerebellum.verbs.allocation.stamped import stamp_within
from cerebellum.verbs.allocation.stock import beside_stock
from cerebellum.verbs.base import base_ftype, planned_types
from cerebellum.verbs.bench import BenchOptions, Questions, bench_in, prepared
from cerebellum.verbs.calibration import ImatrixEffect, check_covered, imatrix_effect, wants_imatrix, with_imatrix
from cerebellum.verbs.compose import better_set, combine
from cerebellum.verbs.doubts import OWN_REFERENCE, allowance_doubts, base_is_reference, race_doubts, refuse_hopeless
from cerebellum.verbs.finished import claimed, note_job
from cerebellum.verbs.inputs import check_base
from cerebellum.verbs.machine import hardware
from cerebellum.verbs.noise_floor import measure_noise
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.race import run_race
from cerebellum.verbs.session import Session, open_session
from cerebellum.verbs.sweep import BASE_TRIAL, SweepOptions, make_plan, run_sweep
from cerebellum.verbs.text import split_facts
from cerebellum.verbs.validity import check_session, refuse_invalid
from cerebellum.verbs.warned import tell
from cerebellum.verbs.write import leave_overrides, recipe_path, write_trial

#: Writes the report of a result into a folder, and gives what its ``report.json`` holds.
Publish = Callable[[RunResult, Path], dict[str, Any]]

#: Tokens that a question and its answer have at least, however short the chunks of the sweep are.
BENCH_CTX = 2048


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """How to choose. ``allowed_damage``: share of the base's own KL divergence that the demotions together may add.

    ``max_growth_share`` of the base's file, where given, becomes ``max_growth_bytes``. ``trust_perplexity``: let perplexity choose even
    where the ladder says that it can't rank anything.
    """

    policy: str = "greedy"
    objective: Objective = "kld"
    allowed_damage: float = 0.05
    max_growth_bytes: int | None = 0
    max_growth_share: float | None = None
    n_random: int = 3
    seed: int = 0
    trust_perplexity: bool = False

    @property
    def by_perplexity(self) -> bool:
        """Whether perplexity decides, which it may only where the ladder shows it valid."""
        return self.policy == "published" or self.objective == "nll"

    def on(self, base_bytes: int) -> ChoiceOptions:
        """The same for a base of so many bytes."""
        if self.max_growth_share is None:
            return self
        return replace(self, max_growth_bytes=int(self.max_growth_share * base_bytes))


def run_session(
    options: SessionOptions,
    sweep_options: SweepOptions,
    choice_options: ChoiceOptions,
    *,
    backend: Backend,
    publish: Publish,
    progress: Progress | None = None,
    bench_options: BenchOptions | None = None,
) -> RunResult:
    """Base, sweep, choice, combination with controls, file, proof, benchmarks, report, in ``options.out``. Resumes what was begun there.

    ``publish`` writes the report of what is known, into a folder. Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    check_policy(choice_options.policy)
    check_sweep(options, sweep_options, backend)
    check_writable(options, sweep_options)
    questions = None if bench_options is None else prepared({}, bench_options)
    options = claimed(options, settings_of_choice(sweep_options, choice_options), bench_options)
    options = calibrated(options, sweep_options, backend, progress or Silent())
    plan = check_measurable(options, sweep_options, backend)
    if not choice_options.by_perplexity and of_own_reference(options):
        refuse_hopeless(plan, model_file.read_model(options.model))
    with open_session(options, backend, progress or Silent()) as session:
        result = choose_and_write(session, sweep_options, choice_options.on(session.base.model.file_bytes))
        if questions is not None:
            result = asked(session, result, questions, publish)
        session.study.set_fact("result", publish(result, options.out))
        return result


def choose_and_write(session: Session, sweep_options: SweepOptions, choice_options: ChoiceOptions) -> RunResult:
    """Sweep, choice, combination with controls, and the file where the chosen set is better than the base."""
    doubt_first(session, sweep_options)
    validity = gate(session, choice_options)
    noise = take_noise(session)
    if not choice_options.by_perplexity:
        session.workspace.warn(allowance_doubts(choice_options.allowed_damage, first_kld(session), noise))
    effect = take_effect(session)
    allowed_damage = None if choice_options.by_perplexity else choice_options.allowed_damage
    sweep = measure_sweep(session, sweep_options, allowed_damage)
    warn(session, sweep)
    rules = rules_of(sweep, sweep_options, choice_options)
    choice = choose(choice_options.policy, sweep.effects, rules)
    alternatives = tuple(choose(name, sweep.effects, rules) for name in POLICIES if name != choice_options.policy)
    session.progress.note(f"choice ({choice.policy}): {choice.reason}")
    combination, unwritten = None, ""
    recorded: tuple[Written | None, BesideStock | None] = (None, None)
    if choice.effects:
        combination = combine(session, sweep, choice, alternatives, choice_options.n_random, choice_options.seed)
    note_job(session.study, session.options)
    if combination is not None:
        unwritten = better_set(combination, choice_options.max_growth_bytes)
    if combination is not None and not unwritten:
        recorded = write_beside_stock(session, combination, choice_options.max_growth_bytes)
    written, beside = recorded
    facts = {**facts_of(session), "choice": as_json(choice_options)}
    if unwritten and combination is not None:
        lines = leave_overrides(session, combination.recipe)
        facts |= {
            "unwritten": unwritten,
            "unwritten_overrides": {lines.name: lines.read_text(encoding="utf-8").splitlines()},
        }
        session.progress.note(f"no file is written: {unwritten}")
    if effect is not None:
        facts["imatrix"] |= {"effect": effect.as_json()}
    if written is None and (left := left_from_before(session)):
        facts["left_from_before"] = left
    model = session.options.model.name
    return RunResult(
        model,
        session.base,
        sweep,
        choice,
        alternatives,
        combination,
        written,
        noise,
        validity,
        facts=facts,
        beside=beside,
    )


def write_beside_stock(
    session: Session, combination: Combination, max_growth_bytes: int | None
) -> tuple[Written, BesideStock]:
    """The chosen set's file, proven, and where it stands among the stock files."""
    recipe = combination.recipe
    written = write_trial(session, recipe, stamp=stamp_within(session, recipe, max_growth_bytes))
    return written, among_stock(session, combination)


def asked(session: Session, result: RunResult, questions: Questions, publish: Publish) -> RunResult:
    """The result with the benchmarks' answers. What is known before is worth a report, however the benchmarks end."""
    names = list(questions.names)
    if result.written is None:
        result = replace(result, facts={**result.facts, "not_asked": names})
    else:
        publish(replace(result, facts={**result.facts, "unfinished": names}), session.options.out)
    return replace(result, bench=bench_session(session, result.written, questions))


#: Settings of a choice by the name of their option, where that differs.
_OPTIONS = {
    "allowed_damage": "allow",
    "max_growth_bytes": "max-growth",
    "n_random": "random",
    "trust_perplexity": "trust-perplexity",
}


def among_stock(session: Session, combination: Combination) -> BesideStock:
    """The recipe among stock files on the report text; a stock file that can't be measured is told and left out."""
    recipe, base = combination.recipe, session.base.model
    limit = file_bytes(base, recipe.types(base.types))
    beside, failed = beside_stock(session, base, session.report, recipe, limit)
    for failure in failed:
        session.progress.note(f"{failure.label} can't be measured, so nothing is compared with it: {failure.reason}")
    return beside


def settings_of_choice(sweep: SweepOptions, choice: ChoiceOptions) -> dict[str, Any]:
    """The settings of a sweep and its choice, by the names of their options."""
    race = sweep.race
    return {
        **{_OPTIONS.get(name, name): value for name, value in as_json(choice).items() if name != "max_growth_share"},
        "role": sorted(sweep.roles),
        "to": sorted(sweep.types),
        "blocks": None if sweep.blocks is None else sorted(sweep.blocks),
        "race": race is not None,
        "budget-tokens": race and race.budget_tokens,
        "budget-minutes": race and race.budget_minutes,
        "thresholds": as_json(sweep.thresholds),
    }


def sweep_session(
    options: SessionOptions,
    sweep_options: SweepOptions,
    allowed_damage: float | None = None,
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> SweepResult:
    """The sweep alone. `run_session` on the same folder takes its measurements over.

    ``allowed_damage``: a race lets go what a choice within it can't take, as `run_session`'s does.
    """
    check_sweep(options, sweep_options, backend)
    options = calibrated(options, sweep_options, backend, progress or Silent())
    check_measurable(options, sweep_options, backend)
    with open_session(options, backend, progress or Silent(), reports=False) as session:
        doubt_first(session, sweep_options)
        noise = take_noise(session)
        if allowed_damage is not None:
            tell(allowance_doubts(allowed_damage, first_kld(session), noise), session.progress, session.warnings)
        sweep = measure_sweep(session, sweep_options, allowed_damage)
        warn(session, sweep)
        return SweepResult(options.model.name, session.base, sweep, noise, facts_of(session))


def sweep_part(
    options: SessionOptions,
    sweep_options: SweepOptions,
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> Part:
    """The part ``options.shard`` of a sweep, kept in ``options.out``: `cerebellum.verbs.merge` joins the parts."""
    check_sweep(options, sweep_options, backend)
    if sweep_options.race is not None:
        raise InputError(
            "a race chooses its next trials by all that was measured before, so it has no parts: leave out race (--race, --budget-…) or "
            "shard (--shard)"
        )
    options = calibrated(options, sweep_options, backend, progress or Silent())
    check_measurable(options, sweep_options, backend)
    with open_session(options, backend, progress or Silent(), reports=False) as session:
        take_noise(session)
        return part_of(session, lambda: run_sweep(session, make_plan(session, sweep_options), sweep_options))


def part_of(session: Session, measure: Callable[[], object]) -> Part:
    """What ``measure`` did until other parts' trials were lacking."""
    shard = session.options.shard
    assert shard is not None
    try:
        measure()
    except PartDone as done:
        return Part(
            session.options.out,
            shard.number,
            shard.of,
            done.what,
            done.n_trials,
            done.n_cells,
            done.n_new,
            done.n_failed,
            done.n_lacking,
        )
    return Part(session.options.out, shard.number, shard.of)


def measure_sweep(session: Session, options: SweepOptions, allowed_damage: float | None) -> Sweep:
    """The sweep, as a race where one is asked for.

    ``allowed_damage``: a race drops the trials that surely cost too much to be chosen; see `verbs.race.run_race`.
    """
    plan = make_plan(session, options)
    if options.race is None:
        return run_sweep(session, plan, options)
    return run_race(session, plan, options, options.race, allowed_damage)


def bench_session(
    session: Session, written: Written | None, questions: Questions, folder: Path | None = None
) -> BenchResult | None:
    """The written file, its base and the reference on the tasks, items into ``folder`` (None: the job's); None where nothing was
    written."""
    if written is None:
        session.progress.note("no benchmarks: nothing was chosen, so there is no file to compare with its base")
        return None
    session.close_engines()
    files = {FILE: written.path, BASE: session.base.model.path, REFERENCE: session.reference_path}
    settings = replace(
        session.options.settings, n_ctx=max(session.options.settings.n_ctx, BENCH_CTX), n_ubatch=Settings().n_ubatch
    )
    workspace = replace(session.workspace, settings=settings, warnings=[])
    return bench_in(workspace, files, questions, folder or session.options.out)


def doubt_first(session: Session, options: SweepOptions) -> None:
    """Say what is known before the first trial: a base that is its own reference, a race that can't pay, a text of another model."""
    doubts = [OWN_REFERENCE] if of_own_reference(session.options) else []
    if options.race is not None:
        doubts += race_doubts(len(session.search.chunks), options.race.seed)
    tell(doubts, session.progress, session.warnings)
    warn_of_text(session)


def of_own_reference(options: SessionOptions) -> bool:
    """Whether the base is the very file that KL divergence is taken to."""
    source = model_file.read_model(options.model)
    return base_is_reference(source, options.base, options.mix, options.reference in (None, options.model))


def first_kld(session: Session) -> float:
    """The base's mean KL divergence on the chunks of the noise floor, nats a token."""
    chunks = session.reference.noise_context.chunks
    return mean_kld(session.runner(session.search).measure([BASE_TRIAL], chunks, "base")[BASE_TRIAL.label])


def warn(session: Session, sweep: Sweep) -> None:
    """Say what makes a sweep's figures less useful than they look."""
    sentences: list[str] = []
    divergence = sweep.base.divergence
    if divergence and scale_of(divergence.mean.estimate) != divergence.mean.estimate:
        sentences.append(OWN_REFERENCE)
    tell([*sentences, *guesses(session, sweep.base.perplexity)], session.progress, session.warnings)


def warn_of_text(session: Session) -> None:
    """Say that model and text don't belong together, where a few chunks show it: an allocation's `warn`, before its hours."""
    chunks = session.reference.noise_context.chunks
    base = session.runner(session.search).measure([BASE_TRIAL], chunks, "base")[BASE_TRIAL.label]
    tell(guesses(session, summarize(base).perplexity), session.progress, session.warnings)


def guesses(session: Session, perplexity: float) -> list[str]:
    """A warning where the base is worse than guessing."""
    n_vocab = session.engines[0].n_vocab
    if perplexity <= n_vocab:
        return []
    return [
        f"The base's perplexity, {perplexity:,.0f}, is worse than guessing among its {n_vocab:,} tokens: model and text don't belong "
        "together."
    ]


def check_sweep(options: SessionOptions, sweep_options: SweepOptions, backend: Backend) -> None:
    """What can be known of a sweep from the model's header alone. Raises `ModelFileError`, `TensorChoiceError` or
    `TypeChoiceError`."""
    source = model_file.read_model(options.model)
    check_predicts(source)
    if options.base is not None:
        ftype_name(options.base)
    has_imatrix = options.imatrix is not None or wants_imatrix(options, sweep_options.types, backend)
    check_choice(source, sweep_options.roles, sweep_options.types, sweep_options.blocks, has_imatrix)


def calibrated(
    options: SessionOptions, sweep_options: SweepOptions, backend: Backend, progress: Progress
) -> SessionOptions:
    """``options`` with the importance matrix that the job is to have, and that it covers what the sweep tries of it."""
    options = with_imatrix(options, sweep_options.types, backend, progress)
    check_covered(options, sweep_options.roles, sweep_options.types, sweep_options.blocks, progress)
    return options


def take_effect(session: Session) -> ImatrixEffect | None:
    """Whether the importance matrix helps here, told where there is one."""
    effect = imatrix_effect(session)
    if effect is not None:
        session.progress.note(effect.sentence)
    return effect


def check_writable(options: SessionOptions, sweep_options: SweepOptions) -> None:
    """A recipe of these trials can be written: the base takes overrides, and each tensor can be named alone. Raises `OverrideError`."""
    source = model_file.read_model(options.model)
    check_base(options, source)
    check_acts(base_ftype(source, options.base))
    chosen = select_tensors(source, sweep_options.roles, sweep_options.blocks)
    overrides_for(tensor_types_of((tensor.name, tensor.type) for tensor in chosen), source)


def check_measurable(options: SessionOptions, sweep_options: SweepOptions, backend: Backend) -> SweepPlan:
    """The plan of what is left to measure beside the base, whose types a dry run tells. Raises as `plan_sweep` and `planned_types` do."""
    source = model_file.read_model(options.model)
    types = planned_types(backend, source, options.imatrix, options.base, options.mix)
    has_imatrix = options.imatrix is not None
    roles, kinds, blocks = sweep_options.roles, sweep_options.types, sweep_options.blocks
    return plan_sweep(source, types, roles, kinds, blocks, has_imatrix=has_imatrix)


def left_from_before(session: Session) -> list[str]:
    """Files that an earlier run with other options wrote here."""
    path = recipe_path(session.options, session.source)
    return [p.name for p in (path, *companions(path)) if p.exists()]


def take_noise(session: Session) -> Noise:
    """The noise floor, measured and put in force."""
    noise = measure_noise(session)
    session.noise_floor = noise.floor
    return noise


def gate(session: Session, options: ChoiceOptions) -> LadderResult | None:
    """Where perplexity is to choose: the ladder. Raises `RefusedError` where it says that perplexity can't."""
    if not options.by_perplexity:
        return None
    ladder = check_session(session)
    session.progress.note(f"perplexity as a judge: {ladder.report.verdict}. {ladder.report.reason}")
    refuse_invalid(ladder, options.trust_perplexity)
    return ladder


def rules_of(sweep: Sweep, sweep_options: SweepOptions, options: ChoiceOptions) -> Rules:
    """The policy's rules; the allowed damage in nats a token is a share of the base's own divergence, whichever objective chooses."""
    divergence = sweep.base.divergence
    scale = scale_of(divergence.mean.estimate if divergence else 0.0)
    return Rules(
        thresholds=sweep_options.thresholds,
        objective=options.objective,
        allowed_damage=options.allowed_damage * scale,
        max_growth_bytes=options.max_growth_bytes,
    )


def imatrix_facts(session: Session) -> dict[str, Any] | None:
    """Which importance matrix was used, and for which tensors it was left out."""
    used, left_out = session.options.imatrix, session.left_out
    if used is None:
        return None
    facts = {"file": used.name, "sha256": sha256_file(used)}
    return facts if left_out is None else {**facts, "left_out": left_out.as_json()}


def facts_of(session: Session) -> dict[str, Any]:
    """On what and with what all figures were measured."""
    return {
        "model": {
            "file": session.source.path.name,
            "sha256": session.source_sha256,
            "architecture": session.source.architecture,
        },
        "base": {
            "ftype": session.base.ftype,
            "file_bytes": session.base.model.file_bytes,
            "quantized_twice": session.base.twice,
        },
        "reference": {**session.reference_facts, "file": session.reference_path.name},
        "imatrix": imatrix_facts(session),
        "build": session.build,
        "hardware": hardware(session.backend, session.options.settings),
        "settings": session.options.settings.as_key(),
        "splits": {
            session.search.name: split_facts(session.search, session.options.text),
            session.report.name: split_facts(session.report, session.options.report_text or session.options.text),
        },
        "command": list(session.options.command),
        "warnings": list(session.warnings),
    }
