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
    transferred = result.transferred
    if transferred is None:
        return []
    hits, n = sum(p.is_hit for p in transferred.probes), len(transferred.probes)
    return [
        f"Transfer from {transferred.origin}: {transferred.verdict}. Agreement {transferred.agreement:.2f} "
        f"[{transferred.low:.2f}, {transferred.high:.2f}]; {hits} of {n} probes are hits.",
        saved_line(transferred),
    ]


def saved_line(transferred: Transferred) -> str:
    """Trials made and saved."""
    share = 100.0 * transferred.n_saved / transferred.n_full if transferred.n_full else 0.0
    return (
        f"Trials: {transferred.n_measured} tensors measured where full anchors begin with {transferred.n_full}: "
        f"{transferred.n_saved} saved ({share:.0f} %)."
    )


def roles_grid(result: Allocation) -> Grid:
    """A row a role."""
    transferred = result.transferred
    assert transferred is not None
    rows = tuple(_row(r) for r in transferred.roles)
    notes = (
        measured_on(result.facts, "search"),
        f"{transferred.origin} ({transferred.form}): family {transferred.families[0] or 'unknown'}, {transferred.blocks[0]} blocks; "
        f"this model: {transferred.families[1]}, {transferred.blocks[1]} blocks. Mapped by relative depth, role by role.",
        "Agreement: rank correlation of the profile carried over with this model's own, as far as probes tell, with its 90 % interval. "
        "Holds: the quarter that the profile calls least sensitive keeps 80 % of what the best quarter would (odds above 0.65).",
        "Hits: probes within a factor of two of what the profile, at the level of the role's other probes, predicts.",
        "Roles that don't hold were measured whole. Predictions that hold count where nothing was measured.",
        *(f"{role}: {why}, so it was measured whole." for role, why in transferred.whole.items()),
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
    transferred = result.transferred
    rows = tuple(
        (
            p.tensor,
            p.type,
            f"{p.predicted * MILLI:.4f}",
            f"{p.measured * MILLI:.4f} ± {p.std_error * MILLI:.4f}",
            "hit" if p.is_hit else "miss",
        )
        for p in (transferred.probes if transferred else ())
    )
    notes = ("Mean KL divergence from the source with that one tensor changed, thousandths of a nat a token.",)
    return Grid("Probes", _PROBES, rows, notes)


def transfer_json(result: Allocation) -> dict[str, Any] | None:
    """As plain data; None where nothing was taken over."""
    transferred = result.transferred
    if transferred is None:
        return None
    return {
        "from": {
            "name": transferred.origin,
            "form": transferred.form,
            "architecture": transferred.families[0],
            "blocks": transferred.blocks[0],
        },
        "to": {"architecture": transferred.families[1], "blocks": transferred.blocks[1]},
        "verdict": str(transferred.verdict),
        "agreement": transferred.agreement,
        "agreement_interval": [transferred.low, transferred.high],
        "trials": {
            "full_anchors": transferred.n_full,
            "measured": transferred.n_measured,
            "saved": transferred.n_saved,
        },
        "roles": {r.role: _role_json(r) for r in transferred.roles},
        "measured_whole": dict(transferred.whole),
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
