"""What refinement did: its rounds as a table, a sentence and data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cerebellum.figures import fixed
from cerebellum.report.grids import Grid, measured_on, with_limits
from cerebellum.scoring.summary import as_json
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation


def refinement_lines(result: Allocation) -> list[str]:
    """What it brought on the report text; nothing where it was not asked for."""
    refined = result.refined
    if refined is None:
        return []
    if not refined.rounds:
        return ["No refinement: the search text, or the time that it was given, is too short for a round of steps."]
    if refined.ratio is None and refined.n_taken:
        return [
            "Refinement changed the recipe. What that brought can't be said: the recipe before it can't be measured on the report text."
        ]
    if refined.ratio is None:
        n = sum(len(r.proposals) for r in refined.rounds)
        return [f"Refinement added nothing: of {n} changed recipes that were measured none is surely better."]
    return [
        f"Refinement by measurement: KL divergence is {with_limits(refined.ratio, 1.0, 3, sign=False)} of what the recipe had before it."
    ]


def refinement_grid(result: Allocation) -> Grid:
    """Every recipe that was proposed: what was predicted, measured and taken."""
    rows = []
    for i, one in enumerate(result.refined.rounds if result.refined else (), start=1):
        for proposal in one.proposals:
            measured = with_limits(proposal.change, MILLI, 4, sign=True) if proposal.change else "can't be measured"
            taken = "taken" if proposal.taken else ""
            rows.append(
                (
                    str(i),
                    f"{one.n_steps} on {one.look}",
                    str(proposal.n_changed),
                    fixed(proposal.predicted * MILLI, 4, sign=True),
                    measured,
                    taken,
                )
            )
    columns = ("round", "steps on chunks", "types changed", "change of KLD predicted", "change of KLD measured", "")
    notes = (
        measured_on(result.facts, "search"),
        "Changes: thousandths of a nat a token, on chunks that no step was measured on. Intervals hold for all rounds together.",
    )
    return Grid("Refinement by measurement", columns, tuple(rows), notes)


def refinement_json(result: Allocation) -> dict[str, Any] | None:
    """The rounds as plain data; None where refinement was not asked for."""
    if result.refined is None:
        return None
    return {"ratio": as_json(result.refined.ratio), "rounds": as_json(result.refined.rounds)}
