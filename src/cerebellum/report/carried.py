"""What an allocation took over from another model: verdict lines, tables of roles and probes, plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cerebellum.report.grids import Grid, measured_on
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation, RoleTransfer, Transferred

_ROLES = ("role", "verdict", "agreement", "probes", "hits", "measured")
_PROBES = ("tensor", "type", "predicted", "measured", "")


def transfer_lines(result: Allocation) -> list[str]:
    """The verdict and the trials saved; nothing where nothing was taken over."""
    found = result.transferred
    if found is None:
        return []
    hits, n = sum(p.is_hit for p in found.probes), len(found.probes)
    return [
        f"Transfer from {found.origin}: {found.verdict}. Agreement {found.agreement:.2f} [{found.low:.2f}, {found.high:.2f}]; {hits} "
        f"of {n} probes are hits.",
        saved_line(found),
    ]


def saved_line(found: Transferred) -> str:
    """Trials made and saved."""
    share = 100.0 * found.n_saved / found.n_full if found.n_full else 0.0
    return (
        f"Trials: {found.n_measured} tensors measured where full anchors begin with {found.n_full}: {found.n_saved} saved "
        f"({share:.0f} %)."
    )


def roles_grid(result: Allocation) -> Grid:
    """A row a role."""
    found = result.transferred
    assert found is not None
    rows = tuple(_row(r) for r in found.roles)
    notes = (
        measured_on(result.facts, "search"),
        f"{found.origin} ({found.form}): family {found.families[0] or 'unknown'}, {found.blocks[0]} blocks; this model: "
        f"{found.families[1]}, {found.blocks[1]} blocks. Mapped by relative depth, role by role.",
        "Agreement: rank correlation of the profile carried over with this model's own, as far as probes tell, with its 90 % interval. "
        "Holds: the quarter that the profile calls least sensitive keeps 80 % of what the best quarter would (odds above 0.65).",
        "Hits: probes within a factor of two of what the profile, at the level of the role's other probes, predicts.",
        "Roles that don't hold were measured whole. Predictions that hold count where nothing was measured.",
        *(f"{role}: {why}, so it was measured whole." for role, why in found.whole.items()),
    )
    return Grid("Taken over from another model", _ROLES, rows, notes)


def _row(r: RoleTransfer) -> tuple[str, ...]:
    return (
        r.role,
        str(r.verdict),
        f"{r.agreement:.2f} [{r.low:.2f}, {r.high:.2f}]",
        str(len(r.probes)),
        f"{r.n_hits} of {len(r.probes)}",
        f"{r.n_measured} of {r.n_tensors}",
    )


def probes_grid(result: Allocation) -> Grid:
    """Each probe beside its prediction."""
    found = result.transferred
    rows = tuple(
        (
            p.tensor,
            p.type,
            f"{p.predicted * MILLI:.4f}",
            f"{p.measured * MILLI:.4f} ± {p.std_error * MILLI:.4f}",
            "hit" if p.is_hit else "miss",
        )
        for p in (found.probes if found else ())
    )
    notes = ("Mean KL divergence from the source with that one tensor changed, thousandths of a nat a token.",)
    return Grid("Probes", _PROBES, rows, notes)


def transfer_json(result: Allocation) -> dict[str, Any] | None:
    """As plain data; None where nothing was taken over."""
    found = result.transferred
    if found is None:
        return None
    return {
        "from": {
            "name": found.origin,
            "form": found.form,
            "architecture": found.families[0],
            "blocks": found.blocks[0],
        },
        "to": {"architecture": found.families[1], "blocks": found.blocks[1]},
        "verdict": str(found.verdict),
        "agreement": found.agreement,
        "agreement_interval": [found.low, found.high],
        "trials": {"full_anchors": found.n_full, "measured": found.n_measured, "saved": found.n_saved},
        "roles": {r.role: _role_json(r) for r in found.roles},
        "measured_whole": dict(found.whole),
    }


def _role_json(r: RoleTransfer) -> dict[str, Any]:
    return {
        "verdict": str(r.verdict),
        "agreement": r.agreement,
        "agreement_interval": [r.low, r.high],
        "odds": r.odds,
        "tensors": r.n_tensors,
        "measured": r.n_measured,
        "hits": r.n_hits,
        "probes": [
            {
                "tensor": p.tensor,
                "type": p.type,
                "predicted": p.predicted,
                "measured": p.measured,
                "std_error": p.std_error,
                "hit": p.is_hit,
            }
            for p in r.probes
        ],
    }
