"""Imports go one way, and importing the package or asking for help starts no engine."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cerebellum"

ROOT = PACKAGE.parents[1]
HEAVY = ("llama_cpp", "numpy", "scipy", "rich", "gguf", "sqlite3", "click", "jinja2", "numba", "llvmlite")


@functools.cache
def modules() -> tuple[tuple[str, Path, ast.Module], ...]:
    """Dotted name, file and tree of each module of the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    dotted = [".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return tuple(
        (name, path, ast.parse(path.read_text(encoding="utf-8"))) for name, path in zip(dotted, paths, strict=True)
    )


def is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(node: ast.AST, everywhere: bool = True) -> Iterator[str]:
    """Dotted names that ``node`` imports; ``everywhere`` also inside functions. Imports for typing alone don't count."""
    for child in ast.iter_child_nodes(node):
        if is_for_typing(child) or (not everywhere and isinstance(child, ast.FunctionDef)):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imports(child, everywhere)


def rooms() -> list[tuple[str, tuple[str, ...]]]:
    """The table of ``ARCHITECTURE.md``: (room, its modules), from the ground up."""
    lines = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[lines.index("|---|---|---|") + 1 :]]
    table = [(row[0], tuple(re.findall(r"`([^`]+)`", row[1]))) for row in rows[: rows.index([""])]]
    assert len(table) > 10
    return table


ROOMS = rooms()


def height_of(name: str) -> int:
    """The row of a module: that of the longest name in the table that it is or lies below."""
    rows = {module: height for height, (_, modules) in enumerate(ROOMS) for module in modules}
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if (height := rows.get(".".join(parts[:n]))) is not None:
            return height
    raise AssertionError(f"{name} is in no room: say in ARCHITECTURE.md's table where it belongs")


def own(name: str) -> str | None:
    """The module of the package that an imported dotted name means, or None for the package itself and others'."""
    head, _, rest = name.partition(".")
    return rest if head == "cerebellum" and rest and rest.split(".")[0] != "__version__" else None


NAMES = {name for name, _, _ in modules()}


def imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, inside functions too; not for typing alone."""
    found = set()
    for target in filter(None, map(own, imports(tree))):
        parts = target.split(".")
        found.add(next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in NAMES))
    return found


def test_every_module_has_a_room() -> None:
    """A new module is placed on purpose, and the table names no module that is gone."""
    for name in NAMES:
        height_of(name)
    assert [m for _, modules in ROOMS for m in modules if m not in NAMES] == []


def test_imports_go_to_rooms_above() -> None:
    """No module imports from a row below its own in the table, not even inside a function."""
    wrong = [
        f"{name} imports {target}"
        for name, _, tree in modules()
        for target in sorted(imported(tree))
        if name != "__init__" and height_of(target) > height_of(name)
    ]
    assert wrong == []


def test_no_circle_of_imports() -> None:
    """The import graph of all modules, imports inside functions included, has a topological order."""
    graph = {name: imported(tree) - {name} for name, _, tree in modules()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) >= NAMES - {"__init__"}


def test_verbs_and_report_are_apart() -> None:
    """Neither imports the other: a result is all that passes between them."""
    graph = {name: imported(tree) for name, _, tree in modules()}
    crossed = [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if {name.split(".")[0], target.split(".")[0]} == {"verbs", "report"}
    ]
    assert crossed == []


def test_the_pure_core_touches_no_adapter() -> None:
    """Statistics, scoring, allocation and what they stand on: no database, no process, no llama.cpp, no terminal.

    Texts are read there, and chat templates are rendered in a process of their own.
    """
    outside = ("sqlite3", "subprocess", "llama_cpp", "ctypes", "rich", "click")
    ports = height_of("llamacpp.protocol")
    wrong = [
        f"{name} imports {target}"
        for name, _, tree in modules()
        if name not in ("__init__", "silence") and height_of(name) < ports and not name.startswith("text.rendering")
        for target in imports(tree)
        if target.split(".")[0] in outside
    ]
    assert wrong == []


def test_only_the_adapter_knows_llama_cpp() -> None:
    """llama_cpp and ctypes stay inside `cerebellum.llamacpp`; a sandbox's scripts and what silences C make system calls."""
    scripts = {"silence", *(f"evals.sandbox.{name}" for name in ("enter", "harden", "probe", "tied"))}
    wrong = [
        f"{name} imports {target}"
        for name, _, tree in modules()
        if not name.startswith("llamacpp") and name not in scripts
        for target in imports(tree)
        if target.split(".")[0] in ("llama_cpp", "ctypes")
    ]
    assert wrong == []


def test_the_adapter_is_opened_only_by_the_front() -> None:
    """Verbs take a backend as an argument: only the front and the adapter itself name the real one."""
    ports = dict(ROOMS)["ports"]
    users = {
        name.split(".")[0]
        for name, _, tree in modules()
        for target in imported(tree)
        if target.startswith("llamacpp") and target not in ports
    }
    assert users <= {"llamacpp", "api", "cli"}


def test_nothing_imports_the_fake() -> None:
    """Tests do."""
    assert [
        n
        for n, _, tree in modules()
        if not n.startswith("testing") and any((own(t) or "").startswith("testing") for t in imports(tree))
    ] == []


def loaded_by(code: str) -> set[str]:
    """Which of `HEAVY` a fresh interpreter has after ``code``."""
    report = f"\nimport sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code + report], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("\n")[-2].split())


def test_importing_the_package_is_light() -> None:
    """``import cerebellum`` and a light module of it load none of the heavy modules; its names are those of `api`."""
    assert loaded_by("import cerebellum; assert cerebellum.__version__") == set()
    assert loaded_by("from cerebellum import bundled, errors; assert not hasattr(bundled, 'run')") == set()
    names = "from cerebellum import *; import cerebellum; assert {'run', 'CerebellumError', 'Model'} <= {*dir(cerebellum), *globals()}"
    assert not loaded_by(names) & {"llama_cpp", "numba", "click"}
    assert loaded_by("from cerebellum import CerebellumError") == set()


@pytest.mark.parametrize(
    "module", ["cerebellum.api", "cerebellum.cli", "cerebellum.llamacpp.process", "cerebellum.testing"]
)
def test_no_engine_before_it_is_asked_for(module: str) -> None:
    """The front, the parent's side of the engine and the fake load no llama.cpp into this process, and no scipy before it is needed."""
    assert not loaded_by(f"import {module}") & {"llama_cpp", "gguf", "jinja2", "numba", "scipy"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["bench", "--help"]])
def test_help_loads_click_alone(arguments: list[str]) -> None:
    code = f"from cerebellum.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
    assert loaded_by(code) == {"click"}


def test_public_names_are_there() -> None:
    """Everything in ``__all__`` of the package and its modules can be had."""
    names = [name for name, _, tree in modules() if "__all__" in ast.unparse(tree) and name != "__main__"]
    code = "import importlib\n" + "\n".join(
        f"m = importlib.import_module('cerebellum{'' if name == '__init__' else '.' + name}'); [getattr(m, n) for n in m.__all__]"
        for name in names
    )
    assert "__init__" in names and "testing" in names
    assert "llama_cpp" not in loaded_by(code)


def test_no_room_hides_a_function() -> None:
    """Importing a submodule makes it an attribute of the package: no room has the name of a public function."""
    code = "import importlib, cerebellum\n" + "\n".join(
        f"importlib.import_module('cerebellum.{name}')"
        for name in sorted(NAMES - {"__init__", "__main__"})
        if "llamacpp" not in name
    )
    code += "\nassert all(callable(getattr(cerebellum, n)) for n in cerebellum.__all__ if n != '__version__')"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
