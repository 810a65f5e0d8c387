"""The whole job: from a GGUF to a proven mixed-precision GGUF with its evidence. `cerebellum.api` is how it is called."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cerebellum import gguf_file
from cerebellum.backend import Backend, Settings
from cerebellum.effects import Objective
from cerebellum.keys import sha256_file
from cerebellum.plan import check_choice
from cerebellum.progress import Progress, Silent
from cerebellum.quants import ftype_name
from cerebellum.select import POLICIES, Choice, Rules, check_policy, choose
from cerebellum.summary import as_json
from cerebellum.tasks.score import BASE, FILE, REFERENCE, BenchResult
from cerebellum.verbs.bench import BenchOptions, Questions, bench_study, prepared
from cerebellum.verbs.compose import Combination, combine
from cerebellum.verbs.job import Base, Job, JobOptions, open_job
from cerebellum.verbs.noise import Noise, measure_noise
from cerebellum.verbs.sweep import Sweep, SweepOptions, run_sweep
from cerebellum.verbs.text import split_facts
from cerebellum.verbs.validity import LadderResult, check_job, refuse_invalid
from cerebellum.verbs.write import Written, companions, recipe_path, write_recipe
from cerebellum.verdict import MILLI, SCALE, scale_of

#: Tokens that a question and its answer have at least, however short the chunks of the sweep are.
BENCH_CTX = 2048


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """How to choose. ``allowed_damage``: share of the base's own KL divergence that the demotions together may add.

    ``trust_perplexity``: let perplexity choose even where the ladder says that it can't rank anything.
    """

    policy: str = "greedy"
    objective: Objective = "kld"
    allowed_damage: float = 0.05
    max_growth_bytes: int | None = 0
    n_random: int = 3
    seed: int = 0
    trust_perplexity: bool = False

    @property
    def by_perplexity(self) -> bool:
        """Whether perplexity decides, which it may only where the ladder shows it valid."""
        return self.policy == "published" or self.objective == "nll"


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run found. ``written`` is None where the policy chose nothing: then the base is the recipe. ``validity`` is the ladder, where
    perplexity chose; ``bench`` what the written file, the base and the reference answered, where tasks were named."""

    model: str
    base: Base
    sweep: Sweep
    choice: Choice
    alternatives: tuple[Choice, ...]
    combination: Combination | None
    written: Written | None
    noise: Noise
    validity: LadderResult | None
    bench: BenchResult | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found, without a choice."""

    model: str
    base: Base
    sweep: Sweep
    noise: Noise
    facts: dict[str, Any] = field(default_factory=dict)


def run_job(
    options: JobOptions,
    sweep_options: SweepOptions,
    choice_options: ChoiceOptions,
    *,
    backend: Backend,
    progress: Progress | None = None,
    bench_options: BenchOptions | None = None,
) -> RunResult:
    """Base, sweep, choice, combination with controls, file, proof, benchmarks, report, in ``options.out``. Resumes what was begun there.

    Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.report import write_report
    from cerebellum.report.plain import summary_of

    check_policy(choice_options.policy)
    check_sweep(options, sweep_options)
    questions = None if bench_options is None else prepared({}, bench_options)
    with open_job(options, backend, progress or Silent()) as job:
        validity = gate(job, choice_options)
        noise = take_noise(job)
        sweep = run_sweep(job, sweep_options, None if choice_options.by_perplexity else choice_options.allowed_damage)
        warn(job, sweep)
        rules = rules_of(sweep, sweep_options, choice_options)
        choice = choose(choice_options.policy, sweep.effects, rules)
        alternatives = tuple(choose(name, sweep.effects, rules) for name in POLICIES if name != choice_options.policy)
        job.progress.note(f"choice ({choice.policy}): {choice.reason}")
        combination, written = None, None
        if choice.effects:
            combination = combine(job, sweep, choice, alternatives, choice_options.n_random, choice_options.seed)
            written = write_recipe(job, combination)
        facts = {**facts_of(job), "choice": as_json(choice_options)}
        if written is None and questions is not None:
            facts["not_asked"] = list(questions.names)
        if written is None and (left := left_from_before(job)):
            facts["left_from_before"] = left
        result = RunResult(
            options.model.name,
            job.base,
            sweep,
            choice,
            alternatives,
            combination,
            written,
            noise,
            validity,
            facts=facts,
        )
        if questions is not None:
            if written is not None:  # what is known by now is worth a report, however the benchmarks end
                write_report(replace(result, facts={**facts, "unfinished": list(questions.names)}), options.out)
            result = replace(result, bench=bench_job(job, written, questions))
        write_report(result, options.out)
        job.study.set_fact("result", summary_of(result))
        return result


def sweep_job(
    options: JobOptions,
    sweep_options: SweepOptions,
    allowed_damage: float | None = None,
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> SweepResult:
    """The sweep alone. `run_job` on the same folder takes its measurements over.

    ``allowed_damage``: a race lets go what a choice within it can't take, as `run_job`'s does.
    """
    check_sweep(options, sweep_options)
    with open_job(options, backend, progress or Silent(), reports=False) as job:
        noise = take_noise(job)
        sweep = run_sweep(job, sweep_options, allowed_damage)
        warn(job, sweep)
        return SweepResult(options.model.name, job.base, sweep, noise, facts_of(job))


def bench_job(job: Job, written: Written | None, questions: Questions) -> BenchResult | None:
    """The written file, its base and the reference on the tasks; None where nothing was written."""
    if written is None:
        job.progress.note("no benchmarks: nothing was chosen, so there is no file to compare with its base")
        return None
    job.close_engines()
    files = {FILE: written.path, BASE: job.base.model.path, REFERENCE: job.reference_path}
    settings = replace(
        job.options.settings, n_ctx=max(job.options.settings.n_ctx, BENCH_CTX), n_ubatch=Settings().n_ubatch
    )
    return bench_study(job.backend, job.study, files, questions, settings, job.options.out, job.progress)


def warn(job: Job, sweep: Sweep) -> None:
    """Say what makes a sweep's figures less useful than they look."""
    found: list[str] = []
    divergence, n_vocab = sweep.base.divergence, job.engines[0].n_vocab
    if divergence and scale_of(divergence.mean.estimate) != divergence.mean.estimate:
        found.append(
            "The base is (all but) its own reference, so it has no KL divergence that --allow could be a share of: it is a share of "
            f"{MILLI * SCALE:g} thousandths of a nat a token instead, and no larger type can pay. Give --reference "
            "with the unquantized model if you have it."
        )
    if sweep.base.perplexity > n_vocab:
        found.append(
            f"The base's perplexity, {sweep.base.perplexity:,.0f}, is worse than guessing among its {n_vocab:,} tokens: "
            "model and text don't belong together."
        )
    job.warnings += found
    for warning in found:
        job.progress.note(f"warning: {warning}")


def check_sweep(options: JobOptions, sweep_options: SweepOptions) -> None:
    """What can be known of a sweep from the model's header alone. Raises `TensorChoiceError` or `TypeChoiceError`."""
    source = gguf_file.read_model(options.model)
    if options.base is not None:
        ftype_name(options.base)
    check_choice(source, sweep_options.roles, sweep_options.types, sweep_options.blocks, options.imatrix is not None)


def left_from_before(job: Job) -> list[str]:
    """Files that an earlier run with other options wrote here."""
    path = recipe_path(job)
    return [p.name for p in (path, *companions(path)) if p.exists()]


def take_noise(job: Job) -> Noise:
    """The noise floor, measured and put in force."""
    noise = measure_noise(job)
    job.noise_floor = noise.floor
    return noise


def gate(job: Job, options: ChoiceOptions) -> LadderResult | None:
    """Where perplexity is to choose: the ladder. Raises `RefusedError` where it says that perplexity can't."""
    if not options.by_perplexity:
        return None
    found = check_job(job)
    job.progress.note(f"perplexity as a judge: {found.report.verdict}. {found.report.reason}")
    refuse_invalid(found, options.trust_perplexity)
    return found


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


def facts_of(job: Job) -> dict[str, Any]:
    """On what and with what all figures were measured."""
    return {
        "model": {"file": job.source.path.name, "sha256": job.source_sha256, "architecture": job.source.architecture},
        "base": {"ftype": job.base.ftype, "file_bytes": job.base.model.file_bytes, "quantized_twice": job.base.twice},
        "reference": {**job.reference_facts, "file": job.reference_path.name},
        "imatrix": job.options.imatrix
        and {"file": job.options.imatrix.name, "sha256": sha256_file(job.options.imatrix)},
        "build": job.build,
        "settings": job.options.settings.as_key(),
        "splits": {
            job.search.name: split_facts(job.search, job.options.text),
            job.report.name: split_facts(job.report, job.options.report_text or job.options.text),
        },
        "command": list(job.options.command),
        "warnings": list(job.warnings),
    }
