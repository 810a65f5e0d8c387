"""The whole job: from a GGUF to a proven mixed-precision GGUF with its evidence. `run` is what the command line calls."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cerebellum.backend import Backend, Settings
from cerebellum.compose import Combination, combine
from cerebellum.effects import Objective
from cerebellum.job import Base, Job, JobOptions, open_job
from cerebellum.progress import Progress, Silent
from cerebellum.select import POLICIES, Choice, Rules, choose
from cerebellum.summary import as_json
from cerebellum.sweep import Sweep, SweepOptions, run_sweep
from cerebellum.write import Written, write_recipe, write_text


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


def run(
    options: JobOptions,
    sweep_options: SweepOptions | None = None,
    choice_options: ChoiceOptions | None = None,
    *,
    backend: Backend | None = None,
    progress: Progress | None = None,
    argv: list[str] | None = None,
) -> RunResult:
    """Base, sweep, choice, combination with controls, file, proof, report, in ``options.out``. Resumes what was begun there.

    Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    from cerebellum.llamacpp.process import LlamaBackend
    from cerebellum.report import write_report

    sweep_options, choice_options = sweep_options or SweepOptions(), choice_options or ChoiceOptions()
    with open_job(options, backend or LlamaBackend(), progress or Silent()) as job:
        job.study.add_command(argv or [])
        sweep = run_sweep(job, sweep_options)
        rules = rules_of(sweep, sweep_options, choice_options)
        choice = choose(choice_options.policy, sweep.effects, rules)
        alternatives = tuple(choose(name, sweep.effects, rules) for name in POLICIES if name != choice_options.policy)
        job.progress.note(f"choice ({choice.policy}): {choice.reason}")
        combination, written = None, None
        if choice.effects:
            combination = combine(job, sweep, choice, choice_options.n_random, choice_options.seed)
            written = write_recipe(job, combination)
        facts = facts_of(job, choice_options, argv)
        result = RunResult(options.model.name, job.base, sweep, choice, alternatives, combination, written, facts)
        write_report(result, options.out)
        job.study.set_fact("result", summary_of(result))
        return result


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


def facts_of(job: Job, choice_options: ChoiceOptions, argv: list[str] | None) -> dict[str, Any]:
    """On what and with what all figures were measured."""
    return {
        "model": {"file": job.source.path.name, "sha256": job.source_sha256, "architecture": job.source.architecture},
        "base": {"ftype": job.base.ftype, "file_bytes": job.base.model.file_bytes, "quantized_twice": job.base.twice},
        "reference": job.reference_facts,
        "imatrix": str(job.options.imatrix) if job.options.imatrix else None,
        "build": job.build,
        "settings": job.options.settings.as_key(),
        "splits": {
            split.name: {
                "text": split.corpus.name,
                "text_sha256": split.corpus.text_sha256,
                "tokens_sha256": split.corpus.tokens_sha256,
                "ctx": split.corpus.n_ctx,
                "chunks": [split.chunks[0], split.chunks[-1]],
                "n_chunks": len(split.chunks),
            }
            for split in (job.search, job.report)
        },
        "choice": as_json(choice_options),
        "command": argv,
    }


def summary_of(result: RunResult) -> dict[str, Any]:
    """The result as plain data: the JSON report."""
    combination = result.combination
    return {
        "facts": result.facts,
        "base": as_json(result.sweep.base),
        "sweep": [
            {
                **as_json(row.effect),
                "summary": as_json(row.summary),
                "contrast": as_json(row.contrast),
                "class": as_json(row.word),
                "p_adjusted": row.p_adjusted,
            }
            for row in result.sweep.rows
        ],
        "skipped": as_json(result.sweep.plan.skipped),
        "choice": choice_json(result.choice),
        "alternatives": [choice_json(choice) for choice in result.alternatives],
        "combination": None
        if combination is None
        else {
            "predicted": as_json(combination.prediction),
            "search": as_json(combination.search),
            "report": as_json(combination.report),
        },
        "written": as_json(result.written),
    }


def choice_json(choice: Choice) -> dict[str, Any]:
    """A choice as plain data."""
    return {
        "policy": choice.policy,
        "reason": choice.reason,
        "delta_bytes": choice.delta_bytes,
        "swaps": {swap.tensor: swap.type for swap in choice.swaps},
    }


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, whole or not at all."""
    import json

    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def bundled_options(out: Path, settings: Settings | None = None, n_chunks: int | None = 24) -> JobOptions:
    """The job on the bundled model and its own texts."""
    folder = Path(__file__).parent / "bundled"
    options = JobOptions(
        model=folder / "world-gemma4-F16.gguf",
        out=out,
        text=folder / "search.txt",
        report_text=folder / "report.txt",
        n_chunks=n_chunks,
    )
    return replace(options, settings=settings or Settings(n_ctx=512))
