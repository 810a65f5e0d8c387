"""Recipes, findings and differences as tables and as plain data."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from cerebellum.domain import block_of, role_of
from cerebellum.recipes.recipe import Figure, Recipe, differences
from cerebellum.report.grids import Grid

if TYPE_CHECKING:
    from cerebellum.verbs.recipe import Linted


def recipe_grid(recipe: Recipe, label: str) -> Grid:
    """Roles and types with the blocks that have them; where it comes from beneath."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for tensor, kind in recipe.types.items():
        groups[role_of(tensor), kind].append(tensor)
    rows = tuple((role, kind, str(len(names)), spans(names)) for (role, kind), names in sorted(groups.items()))
    return Grid(f"Recipe {label}", ("role", "type", "tensors", "blocks"), rows, tuple(_about(recipe)))


def _about(recipe: Recipe) -> list[str]:
    model = recipe.model
    rest = "every tensor that llama.cpp would quantize is named" if recipe.complete else "all else is left to it"
    lines = [f"Base {recipe.base}: {rest}. Recipe {recipe.key}."]
    if model.architecture:
        lines.append(
            f"Made on {model.name or 'an unnamed model'} ({model.architecture}, {model.blocks} blocks), {model.fingerprint}."
        )
    for name, figure in (("Expected", recipe.expected), ("Measured", recipe.measured)):
        if figure is not None:
            lines.append(f"{name} mean KL divergence {_figure(figure)} nats a token.")
    lines += [f"{key}: {value}" for key, value in sorted(recipe.made_with.items())]
    return [*lines, *([f"Verified: {recipe.verified}"] if recipe.verified else [])]


def _figure(figure: Figure) -> str:
    limits = "" if figure.low is None or figure.high is None else f" [{figure.low:.5g}, {figure.high:.5g}]"
    return f"{figure.mean:.5g}{limits or ' (no interval)'}"


def spans(names: list[str]) -> str:
    """Blocks as runs: 0–3, 7; empty outside the blocks."""
    blocks = sorted({b for n in names if (b := block_of(n)) is not None})
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data."""
    figures = {
        name: None if f is None else {"mean": f.mean, "low": f.low, "high": f.high}
        for name, f in (("expected", recipe.expected), ("measured", recipe.measured))
    }
    model = recipe.model
    return {
        "recipe": recipe.key,
        "base": recipe.base,
        "complete": recipe.complete,
        "model": {
            "architecture": model.architecture,
            "name": model.name,
            "blocks": model.blocks,
            "fingerprint": model.fingerprint,
        },
        "types": dict(recipe.types),
        "objective": recipe.objective or None,
        **figures,
        "made_with": dict(recipe.made_with),
        "verified": recipe.verified or None,
    }


def lint_grid(linted: Linted) -> Grid:
    """A row a finding: where, which tensor, what."""
    rows = tuple((str(f.level), str(f.line or ""), f.code, f.tensor, f.message) for f in linted.findings)
    n = len(linted.errors)
    verdict = f"{n} error{'s' if n != 1 else ''}: `recipe apply` refuses it." if n else "No errors."
    notes = (f"{linted.path.name} on {linted.model.path.name}, base {linted.base}. {verdict}",)
    return Grid("Lint", ("", "line", "fault", "tensor", "what"), rows, notes)


def lint_lines(linted: Linted) -> list[str]:
    """A sentence a finding, and the verdict."""
    lines = []
    for f in linted.findings:
        where = f", line {f.line}" if f.line else ""
        tensor = f" ({f.tensor})" if f.tensor and f.tensor not in f.message else ""
        lines.append(f"{f.level}{where}: {f.message}{tensor} [{f.code}]")
    return [*lines, *lint_grid(linted).notes]


def lint_json(linted: Linted) -> dict[str, Any]:
    """The findings as plain data."""
    return {
        "file": str(linted.path),
        "model": str(linted.model.path),
        "base": linted.base,
        "errors": len(linted.errors),
        "findings": [
            {
                "level": str(f.level),
                "code": f.code,
                "line": f.line or None,
                "tensor": f.tensor or None,
                "message": f.message,
            }
            for f in linted.findings
        ],
    }


def diff_grid(ours: Recipe, theirs: Recipe, labels: tuple[str, str]) -> Grid:
    """A row a tensor that the two treat differently."""
    rows = tuple((d.tensor, d.ours or "base", d.theirs or "base") for d in differences(ours, theirs))
    bases = f"Bases: {ours.base}" + (
        "" if ours.base == theirs.base else f" and {theirs.base}, so what is left to them differs too"
    )
    count = f"{len(rows)} tensor{'' if len(rows) == 1 else 's'} differ{'s' if len(rows) == 1 else ''}. {bases}."
    notes = (count, *_left(ours, theirs, labels))
    return Grid("Differences", ("tensor", *labels), rows, notes)


def _left(ours: Recipe, theirs: Recipe, labels: tuple[str, str]) -> tuple[str, ...]:
    """That a base may well give the type that the other recipe names: where only one of the two names every tensor."""
    n = sum(None in (d.ours, d.theirs) for d in differences(ours, theirs))
    if not n or ours.complete == theirs.complete:
        return ()
    whole, short = labels if ours.complete else labels[::-1]
    command = f"`cerebellum recipe import {whole} --model MODEL.gguf`"
    return (
        f"{n} of them {short} leaves to its base, which may give the same type. {whole} names every tensor: {command} makes a recipe of it "
        "that can be compared.",
    )


def diff_json(ours: Recipe, theirs: Recipe) -> dict[str, Any]:
    """The differences as plain data; null: left to the base."""
    rows = {d.tensor: [d.ours, d.theirs] for d in differences(ours, theirs)}
    return {"bases": [ours.base, theirs.base], "recipes": [ours.key, theirs.key], "tensors": rows}
