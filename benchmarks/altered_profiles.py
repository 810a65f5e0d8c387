"""Transfers between published tables of sensitivities that were altered: other block counts, missing roles and tensors, other types, noise,
roles nearly or quite alike, figures below zero, ties, roles exchanged, depth turned round.

    python -m benchmarks.altered_profiles FOLDER [--only NAME …] [--every N] [--json FILE]

Every verdict is judged by a slow reference of its own: the definition of what is kept, in plain Python, from the tables as they were
written. Prints a row for each alteration. Exit code 1 where fewer than 90 % of all verdicts are right (*partly* is not right), where a role
*holds* though its choice keeps less than half, where a role took more than 8 probes, or where the reference finds another figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.running import show
from cerebellum.profiles.check import MAX_PROBES
from cerebellum.verbs.transfer_check import RoleResult, check_transfer

Table = dict[str, Any]
Profiles = dict[str, dict[int, float]]
Alter = Callable[[Profiles, np.random.Generator], Profiles]

RIGHT = 0.9
COLUMNS = ("altered", "roles", "right", "partly", "wrongly holds", "wrongly doesn't", "holds, keeps under half")


def profiles_of(table: Table, kind: str) -> Profiles:
    """Role → block → figure, of one type of a table."""
    found: Profiles = {}
    for name, value in table["by_type"][kind].items():
        if match := re.fullmatch(r"blk\.(\d+)\.(.+)\.weight", name):
            found.setdefault(match[2], {})[int(match[1])] = value
    return found


def table_of(model: str, kind: str, profiles: Profiles) -> Table:
    """A table of one type."""
    tensors = {f"blk.{b}.{role}.weight": v for role, profile in profiles.items() for b, v in profile.items()}
    return {"model": model, "by_type": {kind: tensors}}


def by_figure(change: Callable[[np.ndarray[Any, Any], np.random.Generator], Any]) -> Alter:
    """An alteration of a role's figures, its blocks as they are."""

    def alter(profiles: Profiles, random: np.random.Generator) -> Profiles:
        return {
            role: dict(zip(profile, np.asarray(change(np.array([*profile.values()]), random)).tolist(), strict=True))
            for role, profile in profiles.items()
        }

    return alter


def renumbered(profiles: Profiles, keep: Callable[[int], bool]) -> Profiles:
    """Blocks that ``keep`` takes, numbered from 0 on: a model of fewer blocks."""
    blocks = sorted({b for profile in profiles.values() for b in profile if keep(b)})
    number = {b: i for i, b in enumerate(blocks)}
    thinned = {role: {number[b]: v for b, v in p.items() if keep(b)} for role, p in profiles.items()}
    return {role: profile for role, profile in thinned.items() if profile}


def thinned(profiles: Profiles, random: np.random.Generator) -> Profiles:
    return renumbered(profiles, lambda b: b % 2 == 0)


def at_random(profiles: Profiles, random: np.random.Generator) -> Profiles:
    n = max(b for p in profiles.values() for b in p) + 1
    chosen = {int(b) for b in random.permutation(n)[: max(2, int(0.7 * n))]}
    return renumbered(profiles, chosen.__contains__)


def first_ten(profiles: Profiles, random: np.random.Generator) -> Profiles:
    return renumbered(profiles, lambda b: b < 10)


def doubled(profiles: Profiles, random: np.random.Generator) -> Profiles:
    """Twice the blocks: each twice, with noise of a tenth."""
    return {
        role: {2 * b + i: v * math.exp(0.1 * random.standard_normal()) for b, v in p.items() for i in (0, 1)}
        for role, p in profiles.items()
    }


def holes(profiles: Profiles, random: np.random.Generator) -> Profiles:
    """A quarter of the tensors missing."""
    kept = {role: {b: v for b, v in p.items() if random.random() > 0.25} for role, p in profiles.items()}
    return {role: p for role, p in kept.items() if p}


def fewer_roles(profiles: Profiles, random: np.random.Generator) -> Profiles:
    return {role: p for i, (role, p) in enumerate(sorted(profiles.items())) if i % 2}


def exchanged(profiles: Profiles, random: np.random.Generator) -> Profiles:
    """Each role has another's figures."""
    roles = sorted(profiles)
    return dict(zip(roles, (profiles[role] for role in [*roles[1:], roles[0]]), strict=True))


def turned(profiles: Profiles, random: np.random.Generator) -> Profiles:
    """The last block's figure at the first."""
    return {r: dict(zip(sorted(p), [p[b] for b in sorted(p, reverse=True)], strict=True)) for r, p in profiles.items()}


def shuffled(profiles: Profiles, random: np.random.Generator) -> Profiles:
    return {r: dict(zip(p, random.permutation([*p.values()]).tolist(), strict=True)) for r, p in profiles.items()}


def rounded(digits: int) -> Callable[[Any, Any], Any]:
    return lambda v, random: [float(f"{x:.{digits - 1}e}") for x in v]


#: Alterations of the new table, or of the old one where the name says so.
ALTERATIONS: dict[str, Alter] = {
    "nothing": lambda profiles, random: profiles,
    "every second block": thinned,
    "seven blocks of ten": at_random,
    "ten blocks": first_ten,
    "twice the blocks": doubled,
    "a quarter of the tensors missing": holes,
    "half of the roles": fewer_roles,
    "noise, factor e^0.3": by_figure(lambda v, random: v * np.exp(0.3 * random.standard_normal(len(v)))),
    "noise, factor e": by_figure(lambda v, random: v * np.exp(random.standard_normal(len(v)))),
    "noise added, half the median": by_figure(
        lambda v, random: v + 0.5 * np.median(v) * random.standard_normal(len(v))
    ),
    "noise added, twice the median": by_figure(
        lambda v, random: v + 2.0 * np.median(v) * random.standard_normal(len(v))
    ),
    "less the median": by_figure(lambda v, random: v - np.median(v)),
    "less the largest": by_figure(lambda v, random: v - 1.01 * v.max()),
    "sign turned": by_figure(lambda v, random: -v),
    "roles exchanged": exchanged,
    "depth turned round": turned,
    "shuffled": shuffled,
    "all alike": by_figure(lambda v, random: np.full(len(v), v.mean())),
    "all zero": by_figure(lambda v, random: np.zeros(len(v))),
    "alike but for a thousandth": by_figure(lambda v, random: v.mean() * (1.0 + 1e-3 * random.standard_normal(len(v)))),
    "flat: to the power 0.01": by_figure(lambda v, random: v.mean() * (v / v.mean()) ** 0.01),
    "flat: to the power 0.1": by_figure(lambda v, random: v.mean() * (v / v.mean()) ** 0.1),
    "steep: squared": by_figure(lambda v, random: v**2),
    "steep: to the power 4": by_figure(lambda v, random: v**4),
    "one digit": by_figure(rounded(1)),
    "two digits": by_figure(rounded(2)),
    "rounded to the median (zeros)": by_figure(lambda v, random: np.round(v / np.median(v)) * np.median(v)),
    "cut off above the median": by_figure(lambda v, random: np.minimum(v, np.median(v))),
    "one figure a thousand times": by_figure(
        lambda v, random: np.where(np.arange(len(v)) == random.integers(len(v)), 1000.0 * v, v)
    ),
    "times 1e-12": by_figure(lambda v, random: 1e-12 * v),
}
#: Alterations of the old table.
OF_THE_OLD = (
    "every second block", "seven blocks of ten", "ten blocks", "a quarter of the tensors missing", "noise, factor e^0.3",
    "noise added, half the median", "noise added, twice the median", "less the median", "less the largest", "sign turned",
    "all alike", "alike but for a thousandth", "flat: to the power 0.01", "steep: squared", "one digit",
    "rounded to the median (zeros)", "one figure a thousand times",
)  # fmt: skip


def kept_by_definition(damages: Mapping[int, float], chosen: Sequence[int]) -> float:
    """Of a choice of blocks: the definition, word for word; 1 where all figures are alike."""
    k = math.ceil(len(damages) / 4)
    assert len(chosen) == k
    best = math.fsum(sorted(damages.values())[:k])
    average = k * math.fsum(damages.values()) / len(damages)
    if average - best <= 1e-12 * max(map(abs, damages.values())):
        return 1.0
    return 1.0 - (math.fsum(damages[b] for b in chosen) - best) / (average - best)


def cases(tables: Sequence[Table], names: Sequence[str]) -> Iterator[tuple[str, Table, Table]]:
    """(alteration, old table, new table) of every ordered pair, for every alteration of the new table, then of the old one."""
    pairs = [*itertools.permutations(tables, 2)]
    for side, name in [(1, name) for name in ALTERATIONS] + [(0, name) for name in OF_THE_OLD]:
        label = name if side else f"old table: {name}"
        if names and label not in names:
            continue
        for number, pair in enumerate(pairs):
            random = np.random.default_rng([number, *map(ord, label)])
            kinds = [next(iter(t["by_type"])) for t in pair]
            profiles = [profiles_of(t, kind) for t, kind in zip(pair, kinds, strict=True)]
            profiles[side] = ALTERATIONS[name](profiles[side], random)
            old, new = (table_of(t["model"], k, p) for t, k, p in zip(pair, kinds, profiles, strict=True))
            yield label, old, new


def judged(old: Table, new: Table, folder: Path) -> list[tuple[RoleResult, float]]:
    """Each role's result beside what the reference says is kept, from files as a user has them."""
    from_path, to_path = folder / "old.kld.json", folder / "new.kld.json"
    from_path.write_text(json.dumps(old))
    to_path.write_text(json.dumps(new))
    truth = profiles_of(new, next(iter(new["by_type"])))
    checked = check_transfer(from_path, to_path)
    return [(r, kept_by_definition(truth[r.role], r.check.transferred)) for r in checked.roles]


def row(label: str, found: Sequence[tuple[RoleResult, float]]) -> tuple[object, ...]:
    """The cells of an alteration, in the order of `COLUMNS`."""
    verdicts = [(str(r.check.verdict), kept) for r, kept in found]
    right = sum(is_right(v, kept) for v, kept in verdicts)
    return (
        label,
        len(found),
        f"{right} ({right / len(found):.0%})",
        sum(v == "partly" for v, _ in verdicts),
        sum(v == "holds" and kept < 0.8 for v, kept in verdicts),
        sum(v == "does not hold" and kept >= 0.8 for v, kept in verdicts),
        sum(v == "holds" and kept < 0.5 for v, kept in verdicts),
    )


def is_right(verdict: str, kept: float) -> bool:
    """As the issue of the validator says it."""
    return (verdict == "holds" and kept >= 0.8) or (verdict == "does not hold" and kept < 0.8)


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 where all is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with two tables (*.kld.json) or more")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="these alterations")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth pair")
    parser.add_argument("--json", type=Path, help="every role's verdict, figures and probes")
    given = parser.parse_args(argv)
    tables = [json.loads(path.read_text()) for path in sorted(given.folder.glob("*.kld.json"))]
    found: dict[str, list[tuple[RoleResult, float]]] = {}
    kept_rows = []
    with tempfile.TemporaryDirectory() as name:
        for number, (label, old, new) in enumerate(cases(tables, given.only)):
            if number % given.every == 0:
                results = judged(old, new, Path(name))
                found.setdefault(label, []).extend(results)
                kept_rows += [
                    {"altered": label, "from": old["model"], "to": new["model"], "role": r.role, "kept": kept,
                     "verdict": str(r.check.verdict), "odds": r.check.odds, "agreement": r.check.agreement, "n": r.check.n_tensors}
                    for r, kept in results
                ]  # fmt: skip
    whole = [one for results in found.values() for one in results]
    show("Altered tables", COLUMNS, [*(row(label, results) for label, results in found.items()), row("all", whole)])
    other = [(r.role, r.kept, kept) for r, kept in whole if abs(r.kept - kept) > 1e-6 * max(1.0, abs(kept))]
    print(f"the reference finds another figure in {len(other)} of {len(whole)} roles", *other[:5])
    if given.json:
        given.json.write_text(json.dumps(kept_rows, indent=1))
    right = sum(is_right(str(r.check.verdict), kept) for r, kept in whole) >= RIGHT * len(whole)
    unsafe = any(r.check.verdict == "holds" and kept < 0.5 for r, kept in whole)
    return 0 if right and not unsafe and not other and max(len(r.check.probed) for r, _ in whole) <= MAX_PROBES else 1


if __name__ == "__main__":
    sys.exit(main())
