"""Locals and parameters have the noun that they hold for their name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cerebellum"
#: Names that say where a thing came from, not what it is.
EMPTY = frozenset({"found", "place", "part", "said", "own"})


def empty_names(source: str) -> Iterator[str]:
    """``name (line)`` of every local, parameter and field of a class that has one of the `EMPTY` names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in EMPTY:
            yield f"{node.id} ({node.lineno})"
        elif isinstance(node, ast.arg) and node.arg in EMPTY:
            yield f"{node.arg} ({node.lineno})"


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(part): pass",
        "for place in x: pass",
        "[own for own in x]",
        "if said := 1: pass",
        "lambda found: 1",
        "class A:\n    own: int",
    ],
)
def test_an_empty_name_is_seen(source: str) -> None:
    assert len(list(empty_names(source))) == 1


def test_names_say_what_they_hold() -> None:
    files = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
    empty = {name: list(empty_names(path.read_text(encoding="utf-8"))) for name, path in files.items()}
    assert {name: names for name, names in empty.items() if names} == {}


def test_no_two_public_classes_have_one_name() -> None:
    """A class of the package is known by its name; those of `report`, which draws them, may have that of what they show."""
    homes: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    elsewhere = {name: [f for f in files if not f.startswith("report/")] for name, files in homes.items()}
    assert {name: files for name, files in elsewhere.items() if len(files) > 1} == {}
