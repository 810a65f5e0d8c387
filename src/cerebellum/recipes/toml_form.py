"""The recipe file: TOML, one line a tensor, made to be read, compared and edited by hand.

    format = "cerebellum-recipe"
    version = 1
    base = "Q3_K_M"

    [model]
    architecture = "gemma4"
    blocks = 35

    [types]
    "blk.11.ffn_gate.weight" = { type = "Q2_K", depth = 0.3235 }

``depth`` is told for readers and for transfer; it is checked against the block where both are known. `"…" = "Q2_K"` is enough.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from cerebellum.domain import block_of
from cerebellum.errors import InputError, TypeChoiceError
from cerebellum.gguf.header import MAX_NAME_BYTES
from cerebellum.gguf.types import ftype_name, quant_type
from cerebellum.recipes.recipe import VERSION, Figure, ModelId, Recipe, file_order

FORMAT = "cerebellum-recipe"

#: What some editors put before a text.
BOM = "\ufeff"

_WORDS = {"format", "version", "base", "complete", "objective", "verified"}
_ROOT = {*_WORDS, "model", "types", "expected", "measured", "made_with"}
_HEADS = {"format", '"format"', *(f"[{name}]" for name in _ROOT - _WORDS)}
_ENTRY = re.compile(
    r"""(?:"(?P<basic>(?:[^"\\]|\\.)*)"|'(?P<literal>[^']*)'|(?P<plain>[A-Za-z0-9_-]+)(?:\.[A-Za-z0-9_.-]*)?)\s*="""
)
#: What a value of a kind is called.
_KINDS = {str: "a text in quotes", bool: "true or false", int: "a whole number", dict: "a section"}
_MODEL = {"architecture": str, "name": str, "blocks": int, "fingerprint": str}


def is_recipe(text: str) -> bool:
    """Whether ``text`` claims to be a recipe: an entry names the format, or a section has a recipe's name."""
    starts = (line.partition("=")[0].partition("#")[0].strip() for line in text.removeprefix(BOM).splitlines())
    return any(start in _HEADS for start in starts)


def format_recipe(recipe: Recipe) -> str:
    """The file's text; the same recipe gives the same text."""
    lines = [
        f'format = "{FORMAT}"', f"version = {VERSION}", f"base = {_string(recipe.base)}", f"complete = {_bool(recipe.complete)}"
    ]  # fmt: skip
    lines += [f"objective = {_string(recipe.objective)}"] if recipe.objective else []
    lines += [f"verified = {_string(recipe.verified)}"] if recipe.verified else []
    model = {name: getattr(recipe.model, name) for name in _MODEL if getattr(recipe.model, name)}
    lines += _section("model", model)
    for name, figure in (("expected", recipe.expected), ("measured", recipe.measured)):
        if figure is not None:
            lines += _section(
                name, {k: getattr(figure, k) for k in ("mean", "low", "high") if getattr(figure, k) is not None}
            )
    lines += _section("made_with", dict(sorted(recipe.made_with.items())))
    lines += ["", "[types]"]
    for tensor in sorted(recipe.types, key=file_order):
        depth = recipe.depth(tensor)
        kind = _string(recipe.types[tensor])
        value = kind if depth is None else f"{{ type = {kind}, depth = {depth:.4f} }}"
        lines.append(f"{_string(tensor)} = {value}")
    return "\n".join(lines) + "\n"


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    if not values:
        return []
    return ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in values.items())]


def _value(value: Any) -> str:
    return _string(value) if isinstance(value, str) else repr(value)


def _string(text: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for delete."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _bool(value: bool) -> str:
    return "true" if value else "false"


def parse_recipe(text: str, label: str) -> Recipe:
    """The recipe in ``text``. Raises `InputError` that names ``label``, the entry and its line."""
    try:
        data = tomllib.loads(text.removeprefix(BOM))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{label} is not a recipe that can be read: {_told(error, text)}") from error
    return _Reader(text, label).recipe(data)


def _told(error: Exception, text: str) -> str:
    """What the parser says, with the line that it stopped at; an entry that is there twice in words."""
    where = re.search(r"\(at line (\d+), column", str(error))
    line = text.split("\n")[int(where[1]) - 1].strip()[:MAX_NAME_BYTES] if where else ""
    if where and "overwrite" in str(error):
        return f"line {where[1]}: {line.partition(' =')[0]!r} is there twice"
    return f"{error}: {line!r}" if line else str(error)


class _Reader:
    """Checks entry by entry; knows the text, to say on which line an entry is."""

    def __init__(self, text: str, label: str) -> None:
        self._lines, self._label = entry_lines(text), label

    def fail(self, entry: str, problem: str) -> InputError:
        line = self._lines.get(entry)
        return InputError(f"{self._label}{f', line {line}' if line else ''}: {entry}: {problem}")

    def recipe(self, data: Mapping[str, Any]) -> Recipe:
        if data.get("format") != FORMAT:
            raise self.fail("format", f'a recipe begins with format = "{FORMAT}"')
        version = data.get("version")
        if version != VERSION or isinstance(version, bool):
            raise self.fail(
                "version", f"{version!r} is not the version {VERSION} that this cerebellum reads; update cerebellum"
            )
        if unknown := sorted(set(data) - _ROOT):
            raise self.fail(unknown[0], f"unknown entry; a recipe has {', '.join(sorted(_ROOT))}")
        model = self._model(data.get("model", {}))
        return Recipe(
            self._base(data.get("base")),
            self._types(data.get("types", {}), model),
            self._typed("complete", data.get("complete", False), bool),
            model,
            self._typed("objective", data.get("objective", ""), str),
            self._figure("expected", data.get("expected")),
            self._figure("measured", data.get("measured")),
            {k: self._typed(k, v, str) for k, v in self._typed("made_with", data.get("made_with", {}), dict).items()},
            self._typed("verified", data.get("verified", ""), str),
        )

    def _typed(self, entry: str, value: Any, kind: type) -> Any:
        if value is None:
            raise self.fail(entry, f"is missing; it must be {_KINDS[kind]}")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(entry, f"{str(value)[:80]!r} is not {_KINDS[kind]}")
        return value

    def _base(self, value: Any) -> str:
        try:
            return ftype_name(self._typed("base", value, str))
        except TypeChoiceError as error:
            raise self.fail("base", str(error)) from error

    def _model(self, data: Any) -> ModelId:
        for key in self._typed("model", data, dict):
            if key not in _MODEL:
                raise self.fail(key, f"unknown entry; a model has {', '.join(_MODEL)}")
        return ModelId(**{key: self._typed(key, value, _MODEL[key]) for key, value in data.items()})

    def _figure(self, entry: str, data: Any) -> Figure | None:
        if data is None:
            return None
        for key, value in self._typed(entry, data, dict).items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if key not in ("mean", "low", "high") or not number:
                raise self.fail(entry, f"{key} = {value!r}; it has a mean, a low and a high, finite numbers")
        if "mean" not in data:
            raise self.fail(entry, "it has no mean")
        return Figure(**{key: float(value) for key, value in data.items()})

    def _types(self, data: Any, model: ModelId) -> dict[str, str]:
        types = {}
        for tensor, value in self._typed("types", data, dict).items():
            if len(tensor.encode(errors="replace")) >= MAX_NAME_BYTES:
                raise self.fail(tensor, "too long for the name of a tensor")
            kind, depth = self._entry(tensor, value)
            try:
                types[tensor] = quant_type(self._typed(tensor, kind, str)).name
            except TypeChoiceError as error:
                raise self.fail(tensor, str(error)) from error
            self._check_depth(tensor, depth, model.blocks)
        return types

    def _entry(self, tensor: str, value: Any) -> tuple[Any, Any]:
        """(type, depth) of a tensor's entry."""
        if not isinstance(value, dict):
            return value, None
        if value and all(isinstance(one, dict) for one in value.values()):
            raise self.fail(tensor, 'the name of a tensor goes in quotes: "blk.0.ffn_up.weight" = "Q4_K"')
        if unknown := sorted(set(value) - {"type", "depth"}):
            raise self.fail(tensor, f"unknown entry {unknown[0]!r}; a tensor has type and depth")
        return value.get("type"), value.get("depth")

    def _check_depth(self, tensor: str, depth: Any, blocks: int) -> None:
        block = block_of(tensor)
        if depth is None or block is None or blocks < 2:
            return
        if isinstance(depth, bool) or not isinstance(depth, int | float) or abs(depth - block / (blocks - 1)) > 0.001:
            raise self.fail(tensor, f"depth {depth!r}, but block {block} of {blocks} is at {block / (blocks - 1):.4f}")


def entry_lines(text: str) -> Mapping[str, int]:
    """The first line that sets an entry or opens a section, by name."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix(BOM).split("\n"), start=1):
        if name := _named(line.strip()):
            numbers.setdefault(name, number)
    return numbers


def _named(line: str) -> str:
    """The entry that a line sets or the section that it opens; empty for any other."""
    if section := re.fullmatch(r"\[([^\[\]]+)\]\s*(?:#.*)?", line):
        return section[1].strip()
    if not (entry := _ENTRY.match(line)):
        return ""
    if entry["basic"] is None:
        return str(entry["plain"] or entry["literal"])
    try:
        return str(next(iter(tomllib.loads(f'"{entry["basic"]}" = 0'))))
    except tomllib.TOMLDecodeError:
        return ""
