"""Transfers between published tables of sensitivities, replayed: every ordered pair of tables in a folder, every role that both have.

    python -m benchmarks.published_profiles FOLDER [--all]

Prints a row a pair, and with --all a row a role: agreement, verdict, what the transferred choice keeps, right or wrong, probes. Exit
code 1 where fewer than 90 % of the verdicts are right (*partly* is not right), where a role *holds* though its choice keeps less than half,
or where a role took more than 8 probes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.running import show
from cerebellum.profiles.check import MAX_PROBES, CarryVerdict
from cerebellum.verbs.transfer_check import RoleResult, TransferCheck, check_transfer

#: Share of the verdicts that must be right.
RIGHT = 0.9
COLUMNS = (
    "from",
    "to",
    "roles",
    "right",
    "partly",
    "holds, keeps under half",
    "probes, most",
    "tensors probed",
    "agreement, mean",
)
ROLE_COLUMNS = ("from", "to", "role", "agreement", "verdict", "kept", "right", "probes")


def unsafe(roles: Sequence[RoleResult]) -> int:
    """Roles that are said to hold though less than half is kept."""
    return sum(r.check.verdict is CarryVerdict.HOLDS and r.kept < 0.5 for r in roles)


def row(label: tuple[str, str], roles: Sequence[RoleResult]) -> tuple[object, ...]:
    """The cells of a pair, or of all, in the order of `COLUMNS`."""
    probes, tensors = (sum(n) for n in zip(*((len(r.check.probed), r.check.n_tensors) for r in roles), strict=True))
    return (
        *label,
        len(roles),
        f"{sum(r.right for r in roles)} ({sum(r.right for r in roles) / len(roles):.0%})",
        sum(r.check.verdict is CarryVerdict.PARTLY for r in roles),
        unsafe(roles),
        max(len(r.check.probed) for r in roles),
        f"{probes} of {tensors}",
        f"{sum(r.check.agreement for r in roles) / len(roles):.2f}",
    )


def role_row(check: TransferCheck, r: RoleResult) -> tuple[object, ...]:
    """The cells of a role, in the order of `ROLE_COLUMNS`."""
    c = r.check
    return (
        check.old.model,
        check.new.model,
        r.role,
        f"{c.agreement:.2f} [{c.low:.2f}, {c.high:.2f}]",
        c.verdict,
        f"{r.kept:.2f}",
        "right" if r.right else "wrong",
        f"{len(c.probed)} of {c.n_tensors}",
    )


def main(argv: list[str] | None = None) -> int:
    """Print the tables; 0 where all is as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_profiles", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with two tables (*.kld.json) or more")
    parser.add_argument("--all", action="store_true", help="a row a role too")
    options = parser.parse_args(argv)
    tables = sorted(options.folder.glob("*.kld.json"))
    if len(tables) < 2:
        print(f"error: {options.folder} has fewer than two tables (*.kld.json)", file=sys.stderr)
        return 2
    checks = [check_transfer(a, b) for a, b in itertools.permutations(tables, 2)]
    roles = [r for one in checks for r in one.roles]
    if options.all:
        show("By role", ROLE_COLUMNS, (role_row(one, r) for one in checks for r in one.roles))
    rows = [row((one.old.model, one.new.model), one.roles) for one in checks]
    show(f"Transfers between {len(tables)} published tables", COLUMNS, [*rows, row(("all", ""), roles)])
    right = sum(r.right for r in roles) >= RIGHT * len(roles)
    return 0 if right and not unsafe(roles) and max(len(r.check.probed) for r in roles) <= MAX_PROBES else 1


if __name__ == "__main__":
    sys.exit(main())
