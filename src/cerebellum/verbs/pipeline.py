"""The whole job: from a GGUF to a proven mixed-precision GGUF with its evidence. `cerebellum.api` is how it is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cerebellum.backend import Backend
from cerebellum.effects import Objective
from cerebellum.measure import Split
from cerebellum.progress import Progress, Silent
from cerebellum.select import POLICIES, Choice, Rules, check_policy, choose
from cerebellum.summary import as_json
from cerebellum.verbs.compose import Combination, combine
from cerebellum.verbs.job import Base, Job, JobOptions, open_job
from cerebellum.verbs.sweep import Sweep, SweepOptions, run_sweep
from cerebellum.verbs.write import Written, write_recipe


@dataclass(frozen=True, slots=True)
class ChoiceOptions:
    """How to choose. ``allowed_damage``: share of the base's own KL divergence that the demotions together may add."""

    policy: str = "greedy"
    objective: Objective = "kld"
    allowed_damage: float = 0.05
    max_growth_bytes: int | None = 0
    n_random: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run found. ``written`` is None where the policy chose nothing: then the base is the recipe."""

    model: str
    base: Base
    sweep: Sweep
    choice: Choice
    alternatives: tuple[Choice, ...]
    combination: Combination | None
    written: Written | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found, without a choice."""

    model: str
    base: Base
    sweep: Sweep
    facts: dict[str, Any] = field(default_factory=dict)


def run_job(
    options: JobOptions,
    sweep_options: SweepOptions,
    choice_options: ChoiceOptions,
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> RunResult:
    """Base, sweep, choice, combination with controls, file, proof, report, in ``options.out``. Resumes what was begun there.

    Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.report import write_report
    from cerebellum.report.plain import summary_of

    check_policy(choice_options.policy)
    with open_job(options, backend, progress or Silent()) as job:
        sweep = run_sweep(job, sweep_options)
        rules = rules_of(sweep, sweep_options, choice_options)
        choice = choose(choice_options.policy, sweep.effects, rules)
        alternatives = tuple(choose(name, sweep.effects, rules) for name in POLICIES if name != choice_options.policy)
        job.progress.note(f"choice ({choice.policy}): {choice.reason}")
        combination, written = None, None
        if choice.effects:
            combination = combine(job, sweep, choice, alternatives, choice_options.n_random, choice_options.seed)
            written = write_recipe(job, combination)
        facts = {**facts_of(job), "choice": as_json(choice_options)}
        result = RunResult(options.model.name, job.base, sweep, choice, alternatives, combination, written, facts)
        write_report(result, options.out)
        job.study.set_fact("result", summary_of(result))
        return result


def sweep_job(
    options: JobOptions, sweep_options: SweepOptions, *, backend: Backend, progress: Progress | None = None
) -> SweepResult:
    """The sweep alone. `run_job` on the same folder takes its measurements over."""
    with open_job(options, backend, progress or Silent()) as job:
        sweep = run_sweep(job, sweep_options)
        return SweepResult(options.model.name, job.base, sweep, facts_of(job))


def rules_of(sweep: Sweep, sweep_options: SweepOptions, options: ChoiceOptions) -> Rules:
    """The policy's rules; the allowed damage in nats a token comes from the base's own divergence (or its NLL)."""
    divergence = sweep.base.divergence
    scale = divergence.mean.estimate if options.objective == "kld" and divergence else 1.0
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
        "reference": {**job.reference_facts, "file": (job.options.reference or job.options.model).name},
        "imatrix": job.options.imatrix.name if job.options.imatrix else None,
        "build": job.build,
        "settings": job.options.settings.as_key(),
        "splits": {split.name: split_facts(split) for split in (job.search, job.report)},
        "command": list(job.options.command),
    }


def split_facts(split: Split) -> dict[str, Any]:
    """Which part of which text. ``conversations`` None: a plain text; else how many of the text's were cut or left out."""
    turns = split.corpus.turns
    return {
        "text": split.corpus.name,
        "text_sha256": split.corpus.text_sha256,
        "tokens_sha256": split.corpus.tokens_sha256,
        "ctx": split.corpus.n_ctx,
        "chunks": [split.chunks[0], split.chunks[-1]],
        "n_chunks": len(split.chunks),
        "conversations": turns and {"cut": turns.n_cut, "dropped": turns.n_dropped},
    }
