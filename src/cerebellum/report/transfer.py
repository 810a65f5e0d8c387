"""A transfer check as a table and as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cerebellum.figures import fixed
from cerebellum.report.grids import Grid

if TYPE_CHECKING:
    from cerebellum.verbs.transfer_check import RoleResult, TransferCheck

_COLUMNS = ("role", "verdict", "agreement", "odds of 80 %", "probes", "kept", "after the probes")


def transfer_grid(check: TransferCheck) -> Grid:
    """A row a role; what the figures are beneath."""
    rows = tuple(_row(r) for r in check.roles)
    saved = check.n_tensors - check.n_probes
    kinds = " and ".join(dict.fromkeys(check.types))
    notes = (
        f"Tables at {kinds}, mean KL divergence of one tensor at a time. Blocks: {check.old.n_blocks} to {check.new.n_blocks}, by relative "
        "depth.",
        f"{check.n_probes} probes of {check.n_tensors} tensors: {saved} trials saved. Agreement: rank correlation that the probes leave "
        "possible, with its 90 % interval.",
        "Kept: share of the best choice's gain that the transferred quarter of the role keeps, by the whole table; the verdict saw the "
        "probes alone. Holds: at least 80 %.",
        *(f"{role}: figures are missing (null) and left out: {what}." for role, what in check.missing.items()),
        *(f"{role}: {why}." for role, why in check.skipped.items()),
    )
    return Grid(f"Transfer from {check.old.model} to {check.new.model}", _COLUMNS, rows, notes)


def _row(r: RoleResult) -> tuple[str, ...]:
    c = r.check
    return (
        r.role,
        str(c.verdict),
        f"{fixed(c.agreement)} [{fixed(c.low)}, {fixed(c.high)}]",
        f"{c.odds:.2f}",
        f"{len(c.probed)} of {c.n_tensors}",
        fixed(r.kept),
        fixed(r.kept_adapted),
    )


def transfer_json(check: TransferCheck) -> dict[str, Any]:
    """The check as plain data: ``roles`` by name."""
    return {
        "from": {"model": check.old.model, "blocks": check.old.n_blocks, "type": check.types[0]},
        "to": {"model": check.new.model, "blocks": check.new.n_blocks, "type": check.types[1]},
        "roles": {r.role: _role_json(r) for r in check.roles},
        "skipped": dict(check.skipped),
        "missing": dict(check.missing),
        "probes": check.n_probes,
        "trials_saved": check.n_tensors - check.n_probes,
    }


def _role_json(r: RoleResult) -> dict[str, Any]:
    c = r.check
    return {
        "verdict": str(c.verdict),
        "agreement": round(c.agreement, 4),
        "agreement_interval": [round(c.low, 4), round(c.high, 4)],
        "probes": len(c.probed),
        "kept": round(r.kept, 6),
        "kept_after_probes": round(r.kept_adapted, 6),
        "right": r.right,
        "odds": round(c.odds, 4),
        "expected_kept": round(c.expected, 4),
        "tensors": c.n_tensors,
        "probed_blocks": list(c.probed),
        "transferred_blocks": list(c.transferred),
        "adapted_blocks": list(c.adapted),
    }
