"""A verification as a table and as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cerebellum.report.grids import Grid

if TYPE_CHECKING:
    from cerebellum.verbs.verify import Verified

#: Keys too long to show.
_LONG = "cerebellum.tensor_digests"


def verify_grid(verified: Verified) -> Grid:
    """A row a check; what the file says of itself beneath."""
    model = verified.model
    rows = tuple((c.what, str(c.state), c.message) for c in verified.checks)
    file_type = model.ftype or "unknown file type"
    notes = [
        *(f"{c.what}: {c.more}." for c in verified.checks if c.more),
        f"{model.path.name}: {model.architecture}, {file_type}, {model.file_bytes:,} bytes, sha256 {verified.sha256}.",
        f"Tensors: {verified.tensors}. Hashes are no signature: who changes tensors can change the hashes too. A rebuild from the "
        "source shows it.",
        *(f"{key}: {value}" for key, value in sorted(verified.carried.items()) if key != _LONG),
    ]
    return Grid("Verification", ("", "", "what"), rows, tuple(notes))


def verify_json(verified: Verified) -> dict[str, Any]:
    """The verification as plain data."""
    return {
        "file": str(verified.model.path),
        "sha256": verified.sha256,
        "tensors": verified.tensors,
        "verified": not verified.failed,
        "carried": {key: value for key, value in verified.carried.items() if key != _LONG},
        "checks": [
            {"what": c.what, "state": str(c.state), "message": c.message, **({"more": c.more} if c.more else {})}
            for c in verified.checks
        ],
    }
