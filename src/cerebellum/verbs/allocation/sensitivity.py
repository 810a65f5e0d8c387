"""Sensitivity maps read, checked against a job, and solved for another size without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cerebellum.allocation.candidates import TypeRules, allowed_types, chosen_tensors, kept_types
from cerebellum.allocation.groups import with_groups
from cerebellum.allocation.sensitivity import SensitivityMap, expected_damage, map_of
from cerebellum.allocation.sizes import Target, target_bytes
from cerebellum.allocation.table import Table
from cerebellum.domain import tensor_types_of
from cerebellum.errors import InputError
from cerebellum.files import write_text
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import sha256_model
from cerebellum.gguf.overrides import Overrides, check_acts, format_overrides, overrides_for
from cerebellum.keys import sha256_file
from cerebellum.quoting import name as quoted
from cerebellum.results.allocation import Anchors
from cerebellum.results.plan import Planned
from cerebellum.text.untrusted import open_regular
from cerebellum.verbs.allocation.anchors import measure_start
from cerebellum.verbs.session import Session
from cerebellum.verbs.splitting import refuse_output

#: A map is smaller than this; of a model with a hundred thousand tensors too.
MOST_BYTES = 256 << 20


def read_map(path: Path) -> SensitivityMap:
    """The map in the file. Raises `InputError`."""
    try:
        with open_regular(path) as stream:
            data = stream.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{quoted(path.name)} is larger than any sensitivity map")
        value = json.loads(data)
    except OSError as error:
        raise InputError(
            f"can't read the map {quoted(str(path))}: {error.strerror or error}; give the sensitivity.json that a run left in its --out"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{quoted(path.name)} is not a sensitivity map: give the sensitivity.json that a run left in its --out"
        ) from error
    return map_of(value, path.name)


# -- plan --------------------------------------------------------------------------------------------------------------


def plan_map(path: Path, target: Target, rules: TypeRules, out: Path | None, force: bool = False) -> Planned:
    """The best file of a size by the map alone; its override file into ``out``. Raises `InputError` or `OutputError`.

    There is room for the keys that `run` writes, so that both choose alike; the bytes are those of llama-quantize's file, without them.
    """
    if out is not None:
        refuse_output(out, (path,), force)
    sensitivity = read_map(path)
    table = narrowed(sensitivity.table, rules, sensitivity.failed)
    limit = limit_of(sensitivity, target)
    if table.least_bytes() > limit:
        table = replace(table, extra_bytes=0)
    if (least := table.least_bytes()) > limit:
        raise InputError(
            f"the smallest file that these types give has {least:,} bytes, more than the {limit:,} asked for: give a larger size"
        )
    solution = table.best(sensitivity.model.damage, limit - table.fixed_bytes())
    overrides = all_overrides(table, solution.types)
    if out is not None:
        write_text(out, format_overrides(overrides))
    return Planned(
        sensitivity,
        target,
        limit,
        solution.types,
        table.file_bytes(solution.types) - table.extra_bytes,
        expected_damage(sensitivity.model, table, solution.types),
        overrides,
        out,
    )


def limit_of(sensitivity: SensitivityMap, target: Target) -> int:
    """The most bytes that the file may have. Raises `InputError` for a stock mix whose size the map doesn't know."""
    if target.like is None:
        return target_bytes(target, sensitivity.table.base)
    if target.like not in sensitivity.stock:
        known = ", ".join(sensitivity.stock)
        raise InputError(
            f"the map doesn't know the size of a {target.like} file, only of {known}; give --size or --bpw"
        )
    return sensitivity.stock[target.like]


def narrowed(table: Table, rules: TypeRules, failed: Sequence[tuple[str, str]] = ()) -> Table:
    """The table with fewer choices, as the rules say, and without what ``failed`` to be measured; the source's own type stays one unless
    forbidden. Raises a `CerebellumError`."""
    table = table.without(failed)
    allowed, tensors = set(allowed_types(rules)), list(table.tensors.values())
    forbidden = set(allowed_types(TypeRules(types=rules.never))) if rules.never else set()
    kept, free = kept_types(tensors, rules), chosen_tensors(tensors, rules.only)
    types: dict[str, tuple[str, ...]] = {}
    for name, measured in table.types.items():
        usable = tuple(k for k in measured if k not in forbidden and (k in allowed or table.errors[name][k] == 0.0))
        types[name] = usable if name in free and usable else (table.base_types[name],)
        if name in kept:
            if kept[name] not in table.errors[name]:
                raise InputError(f"the map has no figures for {quoted(name)} at {kept[name]} (--keep)")
            if (name, kept[name]) in failed:
                raise InputError(f"{quoted(name)} at {kept[name]} (--keep) could not be measured when the map was made")
            types[name] = (kept[name],)
    return with_groups(replace(table, types=types), rules.same_type)


def all_overrides(table: Table, types: Mapping[str, str]) -> Overrides:
    """A line for every tensor that llama.cpp quantizes: nothing is left to a mix, whose counters would need the model."""
    base = table.base
    check_acts(base.ftype or "")
    lines = {t.name: types.get(t.name, t.type) for t in quantizable_tensors(base)}
    return overrides_for(tensor_types_of(lines), base)


# -- run --map ---------------------------------------------------------------------------------------------------------


def left_out_of(sensitivity: SensitivityMap) -> tuple[str, ...]:
    """Tensors that the map's figures are without the importance matrix for."""
    tensors = ((sensitivity.facts["imatrix"] or {}).get("left_out") or {}).get("tensors", ())
    return tuple(map(str, tensors))


def check_map(
    sensitivity: SensitivityMap, model: Path, imatrix: Path | None, build: str, makes_imatrix: bool = False
) -> None:
    """The map is of this model, importance matrix and build. ``makes_imatrix``: the matrix is yet to be made, and the map must have one.
    Raises `InputError`."""
    facts = sensitivity.facts
    if facts["model"]["sha256"] != sha256_model(model):
        raise InputError(
            f"the map is of another model, {quoted(str(facts['model']['file']))}: its sha256 isn't {model.name}'s"
        )
    told = facts["imatrix"] or {}
    theirs = (told.get("left_out") or {}).get("whole_sha256") or told.get("sha256")
    if theirs is None if makes_imatrix else theirs != (sha256_file(imatrix) if imatrix else None):
        raise InputError(
            "the map was made with another importance matrix (or one of the two is without): give the same (--imatrix)"
        )
    if facts["build"] != build:
        raise InputError(
            f"the map was made by another build ({quoted(str(facts['build']))}, this is {build}), whose figures can differ: leave out --map"
        )


def anchors_of_map(session: Session, table: Table, sensitivity: SensitivityMap) -> Anchors:
    """The map's anchors and damage model for this job's table: nothing is measured but where the source stands, should the job have another
    reference. Raises `InputError`."""
    if missing := sorted(set(table.names) - set(sensitivity.model.slopes)):
        raise InputError(
            f"the map knows nothing of {quoted(missing[0])}: make it with all tensors (without --only), or leave out --map"
        )
    text = (sensitivity.facts["text"] or {}).get("text", "another text")
    session.progress.note(f"anchors: {len(sensitivity.anchors)} taken from the map, measured on {quoted(str(text))}")
    model = replace(sensitivity.model, start=measure_start(session))
    return Anchors(sensitivity.anchors, model, 0, 0, sensitivity.failed)
