"""The sensitivity map: what an allocation has measured of a model, enough to solve for another size without the model. Pure.

``docs/reference/sensitivity.md`` documents the file. A map holds the whole table (tensors, types, bytes, weight errors), the damage
model, its measured anchors, and on what they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from cerebellum.allocation.damage import Anchor, DamageModel, Slope
from cerebellum.allocation.sizes import alignment_of
from cerebellum.allocation.table import Table, table_of
from cerebellum.domain import Model, Tensor
from cerebellum.errors import InputError
from cerebellum.gguf.types import STORED, TYPES, ftype_name
from cerebellum.quoting import name as quoted

#: The version of the file: it changes where a reader of the older one would misunderstand.
FORMAT = 1
KIND = "cerebellum sensitivity map"
#: The normal quantile of the 90 % intervals.
Z90 = 1.6448536269514722
#: More tensors than any model has: a larger file is refused.
MOST_TENSORS = 100_000


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """A recipe that was measured: mean KL divergence, nats a token, as the model predicted it and as it was."""

    name: str
    file_bytes: int
    predicted: float
    measured: float


@dataclass(frozen=True, slots=True)
class SensitivityMap:
    """``facts``: model, build, imatrix, reference, text and base, as a report's. ``stock``: bytes of each stock mix's file.
    ``kinds``: a word for each block's attention; empty where nobody knows. ``failed``: (tensor, type) that could not be measured, which no
    recipe may have."""

    table: Table
    model: DamageModel
    anchors: tuple[Anchor, ...]
    facts: Mapping[str, Any]
    stock: Mapping[str, int]
    checks: tuple[CheckedRecipe, ...] = ()
    kinds: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """Mean KL divergence that a recipe is expected to have, nats a token, with a 90 % interval."""

    mean: float
    low: float
    high: float


def expected_damage(model: DamageModel, table: Table, types: Mapping[str, str]) -> Expected:
    """Damages added up. The interval holds the slopes' own doubt and the misfit of proportionality, each tensor's independent of the
    others'; it knows nothing of interaction between tensors. The model's start and floor are added once."""
    mean = variance = 0.0
    for name, kind in types.items():
        slope, error = model.slopes[name], table.errors[name][kind]
        damage = slope.mean * error
        spread = math.log(slope.high / slope.low) / (2.0 * Z90) if slope.low > 0.0 else 1.0
        mean += damage
        variance += damage**2 * (spread**2 + model.misfit**2)
    if mean <= 0.0:
        return Expected(model.start, model.start, model.start)
    factor, rest = math.exp(Z90 * math.sqrt(math.log1p(variance / mean**2))), model.start + model.floor
    return Expected(mean + rest, mean / factor + rest, mean * factor + rest)


def corrected(predicted: Expected, ratios: Sequence[float]) -> Expected:
    """``predicted`` as far as recipes that were measured say: times the median of measured over predicted, its interval widened by how
    much these ratios differ. Without any measured recipe as it is."""
    logs = [math.log(ratio) for ratio in ratios if ratio > 0.0]
    if not logs or predicted.mean <= 0.0:
        return predicted
    centre = median(logs)
    off = median(abs(x - centre) for x in logs) / 0.6745 if len(logs) > 1 else 0.2
    spread = math.log(predicted.high / predicted.mean) / Z90
    factor = math.exp(Z90 * math.hypot(spread, off))
    mean = predicted.mean * math.exp(centre)
    return Expected(mean, mean / factor, mean * factor)


# -- to plain data -----------------------------------------------------------------------------------------------------


def map_json(sensitivity: SensitivityMap) -> dict[str, Any]:
    """The file's content."""
    table, base = sensitivity.table, sensitivity.table.base
    return {
        "format": FORMAT,
        "kind": KIND,
        **{
            name: sensitivity.facts.get(name) for name in ("model", "build", "imatrix", "reference", "text", "settings")
        },
        "base": sensitivity.facts["base"]["ftype"],
        "file": {
            "architecture": base.architecture,
            "bytes": base.file_bytes,
            "fixed_bytes": table.fixed_bytes() - table.extra_bytes,
            "key_bytes": table.extra_bytes,
            "alignment": alignment_of(base),
        },
        "kinds": list(sensitivity.kinds),
        "stock_bytes": dict(sensitivity.stock),
        "misfit": sensitivity.model.misfit,
        "spreads": dict(sensitivity.model.spreads),
        "floor": sensitivity.model.floor,
        "start": sensitivity.model.start,
        "tensors": [_tensor_json(sensitivity, name) for name in table.names],
        "other_tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type} for t in base.tensors if t.name not in table.types
        ],
        "checks": [
            {"name": c.name, "file_bytes": c.file_bytes, "predicted": c.predicted, "measured": c.measured}
            for c in sensitivity.checks
        ],
    }


def _tensor_json(sensitivity: SensitivityMap, name: str) -> dict[str, Any]:
    table, slope, tensor = sensitivity.table, sensitivity.model.slopes[name], sensitivity.table.tensors[name]
    errors = table.errors[name]
    return {
        "name": name,
        "role": tensor.role,
        "block": tensor.block,
        "shape": list(tensor.shape),
        "base_type": tensor.type,
        "types": list(table.types[name]),
        "slope": {
            "mean": slope.mean,
            "low": slope.low,
            "high": slope.high,
            "role": slope.prior,
            "anchors": slope.n_anchors,
        },
        "power": table.power[name],
        "errors": dict(errors),
        "bytes": {kind: table.n_bytes(name, kind) for kind in errors},
        "failed": [kind for tensor, kind in sensitivity.failed if tensor == name],
        "anchors": [
            {"type": a.type, "error_change": a.error_change, "effect": a.effect, "std_error": a.std_error}
            for a in sensitivity.anchors
            if a.tensor == name
        ],
    }


# -- from plain data ---------------------------------------------------------------------------------------------------


def map_of(value: Any, source: str) -> SensitivityMap:
    """The map in a file's content. Raises `InputError`, which names ``source``, where it isn't one."""
    source = quoted(source)
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise InputError(f"{source} is not a sensitivity map: give the sensitivity.json that a run left in its --out")
    if value.get("format") != FORMAT:
        raise InputError(
            f"{source} is a sensitivity map of format {quoted(str(value.get('format')))}, this version reads {FORMAT}: make it anew, or "
            "take the version of cerebellum that made it"
        )
    try:
        return _Reader(value).map()
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{source} is a damaged sensitivity map: {quoted(str(error))}") from error


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads and checks; every fault is a `ValueError` or what Python raises of itself."""

    value: dict[str, Any]
    seen: set[str] = field(default_factory=set)

    def map(self) -> SensitivityMap:
        entries, file = self.value["tensors"], self.value["file"]
        if not 0 < len(entries) + len(self.value["other_tensors"]) <= MOST_TENSORS:
            raise ValueError("it has no tensors, or too many")
        tensors = [self.tensor(e, e["base_type"]) for e in entries]
        others = [self.tensor(e, e["type"]) for e in self.value["other_tensors"]]
        base = Model(
            path=Path(str(self.value["model"]["file"])),
            architecture=str(file["architecture"]),
            name="",
            n_blocks=1 + max((t.block or 0 for t in tensors), default=0),
            ftype=ftype_name(str(self.value["base"])),
            context_length=0,
            tensors=(*tensors, *others),
            file_bytes=_whole(file["bytes"]),
            metadata={"general.alignment": _whole(file["alignment"])},
        )
        table = table_of(
            base,
            {t.name: _types(e) for t, e in zip(tensors, entries, strict=True)},
            {t.name: {str(k): _number(x, 0.0) for k, x in e["errors"].items()} for t, e in zip(tensors, entries, strict=True)},
            {t.name: _number(e["power"], 0.0) for t, e in zip(tensors, entries, strict=True)},
        )  # fmt: skip
        self.check_bytes(table, entries, _whole(file["fixed_bytes"]))
        table = replace(table, extra_bytes=_whole(file.get("key_bytes", 0), 0))
        model = DamageModel(
            {str(e["name"]): _slope(e["slope"]) for e in entries},
            _number(self.value["misfit"], 0.0),
            {str(role): _number(x, 0.0) for role, x in self.value["spreads"].items()},
            _number(self.value.get("floor", 0.0), 0.0),
            _number(self.value.get("start", 0.0), 0.0),
        )
        failed = tuple((str(e["name"]), _type(kind)) for e in entries for kind in e.get("failed", ()))
        return SensitivityMap(
            table,
            model,
            tuple(_anchors(entries)),
            self.facts(),
            self.stock(),
            tuple(self.checks()),
            self.kinds(),
            failed,
        )

    def tensor(self, entry: dict[str, Any], kind: str) -> Tensor:
        name, shape = str(entry["name"]), tuple(_whole(n) for n in entry["shape"])
        if name in self.seen or not 1 <= len(shape) <= 4 or kind not in STORED or math.prod(shape) > 1 << 50:
            raise ValueError(f"tensor {quoted(name)} is there twice, or has an impossible shape or type")
        self.seen.add(name)
        return Tensor(name, shape, kind)

    def check_bytes(self, table: Table, entries: list[dict[str, Any]], fixed: int) -> None:
        if table.fixed_bytes() != fixed:
            raise ValueError(
                f"its fixed bytes are {table.fixed_bytes():,} by its tensors and {fixed:,} by its own account"
            )
        for entry in entries:
            name = str(entry["name"])
            missing = {table.tensors[name].type, *table.types[name]} - table.errors[name].keys()
            if missing or any(table.n_bytes(name, k) != n for k, n in entry["bytes"].items()):
                raise ValueError(f"errors or bytes of {quoted(name)} don't fit its types")

    def facts(self) -> dict[str, Any]:
        kept = {name: self.value[name] for name in ("model", "build", "imatrix", "reference", "text", "settings")}
        str(kept["model"]["sha256"]), str(kept["model"]["file"])
        _check_text(kept["text"] or {})
        _check_matrix(kept["imatrix"] or {})
        return {**kept, "base": {"ftype": str(self.value["base"])}}

    def kinds(self) -> tuple[str, ...]:
        """Maps from before have none."""
        kinds = self.value.get("kinds", [])
        if not isinstance(kinds, list) or len(kinds) > MOST_TENSORS:
            raise ValueError("its kinds of blocks are no list")
        return tuple(str(kind)[:40] for kind in kinds)

    def stock(self) -> dict[str, int]:
        return {ftype_name(str(name)): _whole(n) for name, n in self.value["stock_bytes"].items()}

    def checks(self) -> list[CheckedRecipe]:
        return [
            CheckedRecipe(str(c["name"]), _whole(c["file_bytes"]), _number(c["predicted"], 0.0), _number(c["measured"]))
            for c in self.value["checks"]
        ]


def _check_text(text: dict[str, Any]) -> None:
    """What is told of the text is there: its name, its chunks, what a conversation lost."""
    if not text:
        return
    first, last = text["chunks"]
    turns = text["conversations"] or {"cut": 0, "dropped": 0}
    for number in (first, last, text["n_chunks"], text["ctx"], turns["cut"], turns["dropped"]):
        _whole(number, 0)
    if not isinstance(text["text"], str):
        raise ValueError("its text has no name")


def _check_matrix(matrix: dict[str, Any]) -> None:
    left_out = matrix.get("left_out") or {}
    if not isinstance(left_out.get("tensors", []), list | tuple):
        raise ValueError("what its importance matrix leaves out is no list")


def _type(kind: Any) -> str:
    if not isinstance(kind, str) or kind not in TYPES:
        raise ValueError(f"{str(kind)[:40]!r} is no type")
    return kind


def _types(entry: dict[str, Any]) -> tuple[str, ...]:
    types = tuple(map(str, entry["types"]))
    if not types or any(kind not in TYPES for kind in types):
        raise ValueError(f"{quoted(str(entry['name']))} has no types, or one that is unknown")
    return types


def _slope(entry: dict[str, Any]) -> Slope:
    mean, low, high, prior = (_number(entry[name], 0.0) for name in ("mean", "low", "high", "role"))
    if not low <= high:
        raise ValueError("the interval of a slope ends before it begins")
    return Slope(mean, low, high, prior, _whole(entry["anchors"], 0))


def _anchors(entries: list[dict[str, Any]]) -> list[Anchor]:
    return [
        Anchor(str(e["name"]), str(a["type"]), *(_number(a[name]) for name in ("error_change", "effect", "std_error")))
        for e in entries
        for a in e["anchors"]
    ]


def _number(x: Any, least: float = -math.inf) -> float:
    if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x) or x < least:
        raise ValueError(f"{str(x)[:40]!r} is no number that can be there")
    return float(x)


def _whole(x: Any, least: int = 1) -> int:
    if isinstance(x, bool) or not isinstance(x, int) or not least <= x < 1 << 62:
        raise ValueError(f"{str(x)[:40]!r} is no whole number that can be there")
    return x
