"""A planned recipe for people and programs: expected damage, bytes, types by role."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from cerebellum.figures import significant
from cerebellum.report.grids import Grid, chunks_of
from cerebellum.scoring.summary import as_json
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cerebellum.results.plan import Planned


def plan_lines(plan: Planned) -> list[str]:
    """Size, expected damage, how far such predictions were off, what was written, what to do next."""
    facts, expected = plan.sensitivity.facts, plan.expected
    mean, low, high = (significant(x * MILLI) for x in (expected.mean, expected.low, expected.high))
    lines = [
        f"{plan.file_bytes:,} bytes of at most {plan.limit:,} ({plan.target}) for {facts['model']['file']}",
        f"expected KL divergence: {mean} thousandths of a nat a token [{low}, {high}, 90 %]; not measured",
        f"that is {significant(plan.predicted.mean * MILLI)}, effects of single tensors added up{start_of(plan)}, and what they were off "
        "before",
        ratios_line(plan),
    ]
    if facts.get("text"):
        lines.append(f"the map was measured on {chunks_of(facts['text'])}")
    if plan.overrides_path is not None:
        lines.append(f"overrides: {plan.overrides_path.name} ({len(plan.overrides)} lines, each hits one tensor)")
        lines.append(f"to make the file: {plan.quantize}")
    lines.append("next: cerebellum run MODEL --map MAP with the same size measures and proves it")
    return lines


def start_of(plan: Planned) -> str:
    """What the source itself is from the reference, where that is another file."""
    start = plan.sensitivity.model.start
    return f" to the {significant(start * MILLI)} that the source itself has" if start > 0.0 else ""


def ratios_line(plan: Planned) -> str:
    """How far the model's predictions were off where they were measured."""
    if not plan.ratios:
        return "no recipe of this map was measured, so how far a prediction is off isn't known"
    return (
        f"of {len(plan.ratios)} recipes measured with this map the KL divergence was {plan.ratios[0]:.2f} to {plan.ratios[-1]:.2f} times "
        "the predicted one"
    )


def plan_grid(plan: Planned) -> Grid:
    """Types by role."""
    table = plan.sensitivity.table
    rows = []
    for role in sorted(set(table.roles.values())):
        names = [n for n in table.names if table.roles[n] == role]
        size = sum(table.n_bytes(n, plan.types[n]) for n in names)
        rows.append((role, str(len(names)), f"{size / 1e6:.3f}", counted(plan.types[n] for n in names)))
    return Grid("Types by role", ("role", "tensors", "MB", "types"), tuple(rows))


def counted(kinds: Iterable[str]) -> str:
    """``Q3_K ×4, Q4_K ×2``: the most frequent first."""
    return ", ".join(f"{kind} ×{n}" for kind, n in Counter(kinds).most_common())


def plan_json(plan: Planned) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "format": 1,
        "model": plan.sensitivity.facts["model"],
        "target": {"asked": str(plan.target), "limit_bytes": plan.limit},
        "file_bytes": plan.file_bytes,
        "predicted": as_json(plan.predicted),
        "expected": as_json(plan.expected),
        "measured_over_predicted": list(plan.ratios),
        "types": dict(plan.types),
        "overrides": [str(line) for line in plan.overrides],
    }
