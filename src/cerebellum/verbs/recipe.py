"""Recipes met with models: import from what people share, check, apply, export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cerebellum import __version__
from cerebellum.domain import Model, TensorTypes, tensor_types_of
from cerebellum.errors import CerebellumError, InputError, OverrideError, ProofError, RefusedError
from cerebellum.gguf import model_file
from cerebellum.gguf.header import MAGIC
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.overrides import Override, Overrides, format_overrides, pairs, pin, requested_types, resolve
from cerebellum.gguf.patterns import lowered
from cerebellum.gguf.split_file import SplitLimit
from cerebellum.gguf.types import FTYPES, TYPES, ftype_name
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.recipes.lint import (
    Finding,
    Level,
    Line,
    LintSubject,
    lint_lines,
    lint_patterns,
    lint_shifts,
    read_lines,
)
from cerebellum.recipes.recipe import Recipe, model_id
from cerebellum.recipes.toml_form import entry_lines, is_recipe, parse_recipe
from cerebellum.verbs.provenance import stamp_file
from cerebellum.verbs.quantize import Quantized, quantize_lines
from cerebellum.verbs.splitting import publish_model, refuse_output, split, unproven

#: Bytes of a recipe or an override file that are read, at most.
MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Linted:
    """What was found about a file on a model, beside what it asks for."""

    path: Path
    model: Model
    base: str
    types: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.level is Level.ERROR)


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF does. Raises `InputError` where it can't be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """A recipe's or override file's text. Raises `InputError`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(
                f"{path} has more than {MAX_BYTES >> 20} MiB: that is neither a recipe nor an override file"
            )
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can't read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from error


def read_recipe(path: Path) -> Recipe:
    """A recipe file, or the type map of a GGUF. Raises `InputError`."""
    if is_gguf(path):
        return recipe_of_gguf(model_file.read_model(path))
    text = read_text(path)
    if not is_recipe(text):
        raise InputError(
            f"{path} is no recipe; an override file becomes one with `cerebellum recipe import {path.name} --model MODEL.gguf --base TYPE`"
        )
    return parse_recipe(text, path.name)


def recipe_of_gguf(model: Model, base: str | None = None) -> Recipe:
    """The type of every tensor that llama.cpp would quantize, as this file has it; its own file type is the base unless one is given.

    Raises `InputError` where the file isn't quantized, or says no file type that is known.
    """
    if not model.is_quantized:
        raise InputError(f"{model.path.name} is not quantized: it has no types to import")
    if base is None and (model.ftype is None or not TYPES[FTYPES[model.ftype][1]].quantized):
        raise InputError(
            f"{model.path.name} doesn't say of which file type it is; name the nearest with --base (Q3_K_M, …)"
        )
    named = {t.name: t.type for t in quantizable_tensors(model)}
    made_with = {"imported_from": model.path.name, "cerebellum": __version__}
    return Recipe(ftype_name(base or model.ftype or ""), named, True, model_id(model), made_with=made_with)


def import_recipe(
    backend: Backend,
    path: Path,
    model: Path | None = None,
    base: str | None = None,
    imatrix: Path | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Recipe:
    """A recipe from a GGUF, an override file or another recipe.

    With ``model`` (an unquantized one) only what differs from the base is named, by a dry run of llama.cpp. An override file needs both
    ``model`` and ``base``. ``warn`` is told what doesn't stop the import: lines that hit more than they say, a file of another model.
    Raises a `CerebellumError`.
    """
    target = model_file.read_model(model) if model else None
    if is_gguf(path):
        recipe = recipe_of_gguf(model_file.read_model(path), base)
    else:
        text = read_text(path)
        recipe = parse_recipe(text, path.name) if is_recipe(text) else _from_overrides(path, text, target, base, warn)
    return recipe if target is None else reduced(backend, recipe, target, path.name, imatrix, warn)


def reduced(
    backend: Backend,
    recipe: Recipe,
    target: Model,
    label: str,
    imatrix: Path | None,
    warn: Callable[[str], None] = lambda _: None,
) -> Recipe:
    """The recipe with only those tensors that the base would store otherwise, by a dry run on ``target``. It stays a recipe of the model
    that it was made on. Raises `InputError`."""
    for finding in (foreign := _foreign(recipe, target)):
        warn(f"{label}: {finding.message}")
    stock = dict(backend.types(target.path, recipe.base, (), imatrix))
    if missing := sorted(set(recipe.types) - set(stock)):
        raise InputError(f"{target.path.name} has no tensor {missing[0]}: {label} is of another model")
    differing = {n: k for n, k in recipe.types.items() if stock[n] != k}
    made_with = {**recipe.made_with, "build": backend.id} | ({"imatrix": sha256_file(imatrix)} if imatrix else {})
    whose = recipe.model if foreign else model_id(target)
    return replace(recipe, types=differing, complete=False, model=whose, made_with=made_with)


def _from_overrides(
    path: Path, text: str, model: Model | None, base: str | None, warn: Callable[[str], None]
) -> Recipe:
    if model is None or base is None:
        raise InputError(
            f"{path.name} is an override file: say for which model (--model MODEL.gguf) and base (--base Q3_K_M)"
        )
    lines, wrong = read_lines(text)
    if wrong:
        raise OverrideError(f"{path.name}, line {wrong[0].line}: {wrong[0].message}")
    for finding in lint_patterns(lines, model):
        warn(f"{path.name}, line {finding.line}: {finding.message}")
    types = requested_types(resolve([line.override for line in lines], model))
    made_with = {"imported_from": path.name, "cerebellum": __version__}
    return Recipe(ftype_name(base), types, False, model_id(model), made_with=made_with)


def lint_file(
    backend: Backend, path: Path, model: Path, base: str | None = None, imatrix: Path | None = None
) -> Linted:
    """Everything that may go wrong when a recipe or override file meets ``model``. Raises `InputError` where a file can't be read."""
    target = model_file.read_model(model)
    important = None if imatrix is None else frozenset(model_file.load_imatrix(imatrix).entries)
    if is_gguf(path):
        recipe = recipe_of_gguf(model_file.read_model(path), base)
        lines, findings = recipe_lines(recipe, ""), _foreign(recipe, target)
        subject = LintSubject(target, recipe.base, important, recipe.complete)
    elif is_recipe(text := read_text(path)):
        recipe = parse_recipe(text, path.name)
        lines, findings = recipe_lines(recipe, text), _foreign(recipe, target) + _other_imatrix(recipe, imatrix)
        subject = LintSubject(target, ftype_name(base or recipe.base), important, recipe.complete)
    else:
        if base is None:
            raise InputError(f"{path.name} is an override file: say on which base (--base Q3_K_M)")
        lines, wrong = read_lines(text)
        findings, subject = list(wrong), LintSubject(target, ftype_name(base), important)
    findings += lint_lines(lines, subject)
    if not any(f.level is Level.ERROR for f in findings):
        findings += _dry_run(backend, lines, subject, imatrix)
    hits = resolve([line.override for line in lines], target, strict=False)
    return Linted(path, target, subject.base, requested_types(hits), tuple(findings))


def recipe_lines(recipe: Recipe, text: str) -> tuple[Line, ...]:
    """One anchored override for every tensor that a recipe names, with the line of ``text`` that names it."""
    where = entry_lines(text)
    return tuple(Line(where.get(n, 0), Override(_anchored(n), k), n) for n, k in recipe.types.items())


def _anchored(name: str) -> str:
    """A pattern that hits ``name`` alone: llama-quantize lower-cases patterns, so a capital is any letter."""
    return "^" + "".join("." if c != lowered(c) or not c.isascii() else re.escape(c) for c in name) + "$"


def _foreign(recipe: Recipe, model: Model) -> list[Finding]:
    """A recipe that was made on another model."""
    ours, theirs = recipe.model, model_id(model)
    if ours.architecture and ours.architecture != theirs.architecture:
        text = f"the recipe is of the family {ours.architecture}, {model.path.name} of {theirs.architecture}"
        return [Finding(Level.WARNING, "another-model", text)]
    other = ours.fingerprint not in ("", theirs.fingerprint) or ours.blocks not in (0, theirs.blocks)
    if other:
        text = f"the recipe was made on another model ({ours.name or 'unnamed'}, {ours.blocks} blocks); measure before you trust it"
        return [Finding(Level.WARNING, "another-model", text)]
    return []


def _other_imatrix(recipe: Recipe, imatrix: Path | None) -> list[Finding]:
    """An importance matrix other than the recipe's: with it the base can decide otherwise, and the bytes differ."""
    made_with = recipe.made_with.get("imatrix")
    if not made_with or (imatrix and sha256_file(imatrix) == made_with):
        return []
    given = f"{imatrix.name} is another one" if imatrix else "none was given"
    return [
        Finding(
            Level.WARNING,
            "another-imatrix",
            f"the recipe was made with the importance matrix {made_with[:12]}…, and {given}",
        )
    ]


def _dry_run(backend: Backend, lines: Sequence[Line], subject: LintSubject, imatrix: Path | None) -> list[Finding]:
    model = subject.model
    overrides = [line.override for line in lines]
    hits = resolve(overrides, model, strict=False)
    numbers = {name: line.number for line, hit in zip(lines, hits, strict=True) for name in hit.tensors}
    try:
        stock = backend.types(model.path, subject.base, (), imatrix)
        real = backend.types(model.path, subject.base, pairs(overrides), imatrix)
    except CerebellumError as error:
        return [Finding(Level.ERROR, "dry-run", f"llama.cpp refuses it: {error}")]
    return lint_shifts(hits, stock, real, numbers)


def pinned_overrides(backend: Backend, linted: Linted, imatrix: Path | None) -> tuple[TensorTypes, Overrides]:
    """(what differs from the base, the lines under which stock llama.cpp stores exactly the recipe). Raises `OverrideError`."""
    model = linted.model
    stock = dict(backend.types(model.path, linted.base, (), imatrix))
    differing = tensor_types_of({n: k for n, k in linted.types.items() if stock[n] != k})

    def realized(lines: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
        return backend.types(model.path, linted.base, lines, imatrix)

    return differing, pin(differing, stock, realized, model)


def refuse_errors(linted: Linted) -> None:
    """Raises `RefusedError` with the first error."""
    if linted.errors:
        first, n = linted.errors[0], len(linted.errors)
        line = f" line {first.line}:" if first.line else ""
        more = f" ({n - 1} more: `cerebellum recipe lint`)" if n > 1 else ""
        raise RefusedError(f"{linted.path.name}:{line} {first.message}{more}")


def export_overrides(backend: Backend, linted: Linted, imatrix: Path | None = None) -> str:
    """The override file for stock ``llama-quantize``. Raises `RefusedError` where lint finds errors."""
    refuse_errors(linted)
    return format_overrides(pinned_overrides(backend, linted, imatrix)[1])


def apply_recipe(
    backend: Backend,
    linted: Linted,
    out: Path,
    imatrix: Path | None = None,
    force: bool = False,
    limit: SplitLimit | None = None,
) -> Quantized:
    """Write the recipe's file and prove its types. Raises `RefusedError` where lint finds errors, `ProofError` where a type is wrong."""
    refuse_errors(linted)
    refuse_output(out, (linted.model.path, linted.path, imatrix), force, limit)
    differing, overrides = pinned_overrides(backend, linted, imatrix)
    wanted = {**backend.types(linted.model.path, linted.base, (), imatrix), **{t.tensor: t.type for t in differing}}
    recipe = Recipe(linted.base, {t.tensor: t.type for t in differing})
    with unproven(out) as path:
        result = quantize_lines(backend, linted.model, linted.base, path, overrides, imatrix)
        types = result.model.types
        if wrong := [n for n, k in types.items() if wanted[n] != k]:
            raise ProofError(
                f"the written file stores {wrong[0]} as {types[wrong[0]]}, the recipe says {wanted[wrong[0]]}"
            )
        stamp_file(path, linted.model.path, linted.base, recipe.key, backend.id, imatrix)
        out = publish_model(split(path, limit), out)
    return replace(result, model=model_file.read_model(out), sha256=model_file.sha256_model(out))
