"""A result as plain data: the JSON report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cerebellum import __version__
from cerebellum.allocation.policies import Choice
from cerebellum.evals.plain import bench_json
from cerebellum.report.chosen_lines import chosen_lines
from cerebellum.report.file_facts import file_json, written_model
from cerebellum.report.grids import choice_lines, controls_lines, written_lines
from cerebellum.report.ladder import ladder_json
from cerebellum.report.tensors import base_tensors_json, commands_json
from cerebellum.scoring.summary import as_json

if TYPE_CHECKING:
    from cerebellum.results import Noise, RunResult, Sweep, SweepResult


def summary_of(result: RunResult) -> dict[str, Any]:
    """The result as plain data: the JSON report."""
    combination, tensors = result.combination, base_tensors_json(result)
    file_bytes = result.base.model.file_bytes if result.written is None else result.written.file_bytes
    return {
        "format": 1,
        "kind": "sweep",
        "version": __version__,
        "facts": result.facts,
        "noise": noise_json(result.noise),
        "verdict": [*chosen_lines(result), *choice_lines(result), *controls_lines(result), *written_lines(result)],
        "beside": as_json(result.beside),
        "commands": commands_json(result.facts, result.written),
        "tensors": tensors,
        "other_bytes": file_bytes - sum(row["bytes"] for row in tensors),
        "validity": None if result.validity is None else ladder_json(result.validity),
        **sweep_json(result.sweep),
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
        "file": None if combination is None else file_json(written_model(result.base, combination)),
        "bench": None if result.bench is None else bench_json(result.bench),
    }


def sweep_summary(result: SweepResult) -> dict[str, Any]:
    """A sweep without a choice as plain data."""
    return {
        "format": 1,
        "kind": "sweep only",
        "version": __version__,
        "commands": commands_json(result.facts, None),
        "facts": result.facts,
        "noise": noise_json(result.noise),
        **sweep_json(result.sweep),
    }


def noise_json(noise: Noise) -> dict[str, Any]:
    """The noise floor and what it rests on."""
    return {"floor": as_json(noise.floor), **as_json(noise)}


def choice_json(choice: Choice) -> dict[str, Any]:
    """A choice as plain data."""
    return {
        "policy": choice.policy,
        "reason": choice.reason,
        "delta_bytes": choice.delta_bytes,
        "swaps": {swap.tensor: swap.type for swap in choice.tensor_types},
    }


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """The base, a row per trial, and what was left out."""
    rows = [
        {
            **as_json(row.effect),
            "percent": as_json(row.effect.percent),
            "summary": as_json(row.summary),
            "contrast": as_json(row.contrast),
            "class": as_json(row.word),
            "p_adjusted": row.p_adjusted,
        }
        for row in sweep.rows
    ]
    return {
        "base": as_json(sweep.base),
        "sweep": rows,
        "skipped": as_json(sweep.plan.skipped),
        "failed": as_json(sweep.failed),
        "race": as_json(sweep.race),
    }
