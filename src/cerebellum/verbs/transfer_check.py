"""Replay a transfer between two published tables: the second answers the probes, and then says how good the choice really was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import InputError, TensorChoiceError
from cerebellum.gguf.header import MAX_NAME_BYTES
from cerebellum.profiles.check import CarryVerdict, RoleCheck, check_role, kept_of
from cerebellum.profiles.probes import ENOUGH
from cerebellum.profiles.profile import RoleProfile, SensitivityTable, common_types, parse_table

#: Bytes of a table that are read, at most.
MAX_BYTES = 64 << 20
#: Tensors of a role that are compared, at most: memory grows with their square.
MAX_TENSORS = 256


@dataclass(frozen=True, slots=True)
class RoleResult:
    """A role's check beside the truth: ``kept`` by the transferred choice and by the choice after the probes."""

    role: str
    check: RoleCheck
    kept: float
    kept_adapted: float

    @property
    def right(self) -> bool:
        """Whether the verdict says what the whole table says; *partly* doesn't."""
        verdict = {CarryVerdict.HOLDS: True, CarryVerdict.FAILS: False}.get(self.check.verdict)
        return verdict is not None and verdict == (self.kept >= ENOUGH)


@dataclass(frozen=True, slots=True)
class TransferCheck:
    """``types``: whose tables were compared, the old model's and the new one's. ``skipped``: role → why nothing is said of it; ``missing``:
    role → of which model how many figures are missing."""

    old: SensitivityTable
    new: SensitivityTable
    types: tuple[str, str]
    roles: tuple[RoleResult, ...]
    skipped: Mapping[str, str]
    missing: Mapping[str, str]

    @property
    def n_probes(self) -> int:
        return sum(len(r.check.probed) for r in self.roles)

    @property
    def n_tensors(self) -> int:
        return sum(r.check.n_tensors for r in self.roles)


def read_table(path: Path) -> SensitivityTable:
    """A ``*.kld.json``. Raises `InputError`."""
    return parse_table(read_json(path), path.name)


def read_json(path: Path) -> Any:
    """What a table's file holds. Raises `InputError`."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES >> 20} MiB: that is no table of sensitivities")
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"can't read the table {path}: {getattr(error, 'strerror', None) or error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are there once, or each time with one value."""
    value: dict[str, Any] = {}
    for name, one in pairs:
        if name in value and value[name] != one:
            raise ValueError(f"{name[:MAX_NAME_BYTES]!r} is there twice, with two values")
        value[name] = one
    return value


def check_transfer(
    old_path: Path, new_path: Path, roles: Sequence[str] = (), wanted_type: str | None = None
) -> TransferCheck:
    """Every role that both models have (or ``roles``). Raises `InputError`."""
    old, new = read_table(old_path), read_table(new_path)
    types = common_types(old, new, wanted_type)
    ours, theirs = old.by_type[types[0]], new.by_type[types[1]]
    skipped = _skipped(old, new, types)
    if unknown := [role for role in roles if role.removesuffix(".weight") not in {*ours, *theirs, *skipped}]:
        raise TensorChoiceError(f"neither table has the role {unknown[0]!r}; both have {_listed(ours, theirs)}")
    wanted = {role.removesuffix(".weight") for role in roles} or {*ours, *theirs, *skipped}
    shared = [role for role in sorted({*ours} & {*theirs}) if role in wanted and role not in skipped]
    if not shared:
        why = next((f": {role}: {skipped[role]}" for role in sorted(wanted) if role in skipped), "")
        raise TensorChoiceError(f"{old_path.name} and {new_path.name} have no role to compare{why}")
    results = tuple(_role(role, old.n_blocks, new.n_blocks, ours[role], theirs[role]) for role in shared)
    missing = {role: why for role in shared if (why := _missing(role, (old, types[0]), (new, types[1])))}
    return TransferCheck(old, new, types, results, {r: why for r, why in skipped.items() if r in wanted}, missing)


def chosen_profiles(
    table: SensitivityTable, roles: Sequence[str] = (), kind: str | None = None
) -> tuple[str, Mapping[str, RoleProfile]]:
    """(type, its profiles by role): of ``kind`` or the table's first type. Raises `TypeChoiceError` or `TensorChoiceError`."""
    name = common_types(table, table, kind)[0]
    profiles = table.by_type[name]
    wanted = [role.removesuffix(".weight") for role in roles] or list(profiles)
    if unknown := [role for role in wanted if role not in profiles]:
        raise TensorChoiceError(
            f"{table.model} has no role {unknown[0]!r} in its blocks; it has {', '.join(sorted(profiles))}"
        )
    return name, {role: profiles[role] for role in wanted}


def _listed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return ", ".join(sorted({*ours} & {*theirs})) or "none in common"


def _missing(role: str, *tables: tuple[SensitivityTable, str]) -> str:
    """How many figures of a role each table names without giving them; empty where none."""
    counts = [(table.model, table.missing[kind][role]) for table, kind in tables if table.missing[kind].get(role)]
    return ", ".join(f"{n} of {model}" for model, n in counts)


def _lacks(role: str, table: SensitivityTable) -> str:
    named = any(role in missing for missing in table.missing.values())
    return f"{table.model} has no figure of it" if named else f"{table.model} doesn't have it"


def _skipped(old: SensitivityTable, new: SensitivityTable, types: tuple[str, str]) -> dict[str, str]:
    """Role → why it can't be compared."""
    ours, theirs = old.by_type[types[0]], new.by_type[types[1]]
    both = {*ours} & {*theirs}
    reasons = dict.fromkeys({*old.single, *new.single}, "not in the blocks: no depth to go by")
    reasons |= {role: _lacks(role, new) for role in {*ours} - {*theirs}}
    reasons |= {role: _lacks(role, old) for role in {*theirs} - {*ours}}
    reasons |= {role: "one tensor: nothing to choose" for role in both if len(theirs[role]) < 2}
    reasons |= {role: f"more than {MAX_TENSORS} tensors" for role in both if len(theirs[role]) > MAX_TENSORS}
    for table, kind, profiles in ((old, types[0], ours), (new, types[1], theirs)):
        few = (role for role in both if table.missing[kind].get(role, 0) > len(profiles[role]))
        reasons |= dict.fromkeys(few, f"more than half of its figures in {table.model} are missing (null)")
    return dict(sorted(reasons.items()))


def _role(role: str, n_from: int, n_to: int, ours: Mapping[int, float], theirs: Mapping[int, float]) -> RoleResult:
    blocks = sorted(theirs)
    check = check_role(ours, n_from, blocks, n_to, theirs.__getitem__)
    damages = [theirs[b] for b in blocks]
    kept, adapted = (kept_of(blocks, damages, choice) for choice in (check.transferred, check.adapted))
    return RoleResult(role, check, kept, adapted)
