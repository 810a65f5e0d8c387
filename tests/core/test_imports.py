"""Imports go one way, and importing the package or asking for help starts no engine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cerebellum"

#: From the ground up: a module may import from its own floor or a lower one.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "plug"),
    ("compiled", "files", "keys", "lanes", "quants", "sharing"),
    ("domain", "progress"),
    # pure: numbers in, numbers out
    ("classify", "code_answers", "effects", "elementary", "fdr", "flips", "kernels", "ladder", "llama_rules", "metrics",
     "overrides", "pattern_cost",
     "patterns", "plan", "racing", "reasoning", "select", "sequential", "stats", "summary", "verdict"),
    # ports and adapters
    ("answers", "backend", "bundled", "chat", "corpus", "fake_answers", "fanout", "gguf_file", "gguf_header", "imatrix_file",
     "measurer", "reference", "rendering", "rendering_child", "store", "llamacpp", "sandbox", "testing"),
    # question sets, how they are asked and judged
    ("tasks",),
    # verbs and what they report
    ("verbs", "report"),
    ("api",),
    ("cli",),
    ("__main__",),
)  # fmt: skip
HEAVY = ("llama_cpp", "numpy", "scipy", "rich", "gguf", "sqlite3", "click", "jinja2", "numba", "llvmlite")


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        yield dotted, path, ast.parse(path.read_text(encoding="utf-8"))


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


def floor_of(name: str) -> int:
    """Floor of a module inside the package, by its first part."""
    first = name.split(".", maxsplit=1)[0]
    found = [height for height, floor in enumerate(FLOORS) if first in floor]
    assert len(found) == 1, f"{name} has no floor: say where it belongs"
    return found[0]


def own(name: str) -> str | None:
    """The module of the package that an imported dotted name means, or None for the package itself and others'."""
    head, _, rest = name.partition(".")
    return rest if head == "cerebellum" and rest and rest.split(".")[0] != "__version__" else None


def test_every_module_has_a_floor() -> None:
    """A new module is placed on purpose."""
    for name, _, _ in modules():
        if name != "__init__":
            floor_of(name)


def test_imports_go_downward() -> None:
    """No module imports from a higher floor at import time; functions may reach up only from the facade's floor."""
    wrong = [
        f"{name} imports {target}"
        for name, _, tree in modules()
        if name != "__init__"
        for target in filter(None, map(own, imports(tree, everywhere=False)))
        if floor_of(target) > floor_of(name)
    ]
    assert wrong == []


def test_the_pure_core_touches_no_adapter() -> None:
    """Not even inside a function: no files, no database, no engine below the ports."""
    ports = next(height for height, floor in enumerate(FLOORS) if "backend" in floor)
    wrong = [
        f"{name} imports {target}"
        for name, _, tree in modules()
        if name != "__init__" and floor_of(name) < ports
        for target in imports(tree)
        if (own(target) and floor_of(own(target) or "") >= ports)
        or target.split(".")[0] in ("sqlite3", "subprocess", "llama_cpp", "ctypes", "gguf", "rich", "click")
    ]
    assert wrong == []


def test_only_the_adapter_knows_llama_cpp() -> None:
    """llama_cpp and ctypes stay inside `cerebellum.llamacpp`; the script that enters a sandbox makes system calls."""
    wrong = [
        f"{name} imports {target}"
        for name, _, tree in modules()
        if not name.startswith("llamacpp") and name != "sandbox.enter"
        for target in imports(tree)
        if target.split(".")[0] in ("llama_cpp", "ctypes")
    ]
    assert wrong == []


def test_the_adapter_is_opened_only_by_the_front() -> None:
    """Verbs take a backend as an argument: only the front and the adapter itself name the real one."""
    users = {
        name.split(".")[0]
        for name, _, tree in modules()
        for target in filter(None, map(own, imports(tree)))
        if target.startswith("llamacpp")
    }
    assert users <= {"llamacpp", "api", "cli"}


def test_nothing_imports_the_fake() -> None:
    """Tests do."""
    assert [n for n, _, tree in modules() if any((own(t) or "").startswith("testing") for t in imports(tree))] == []


def loaded_by(code: str) -> set[str]:
    """Which of `HEAVY` a fresh interpreter has after ``code``."""
    report = f"\nimport sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code + report], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("\n")[-2].split())


def test_importing_the_package_is_light() -> None:
    """``import cerebellum`` loads none of the heavy modules, and knows its version and names."""
    assert loaded_by("import cerebellum; assert cerebellum.__version__; dir(cerebellum)") == set()
    assert loaded_by("from cerebellum import CerebellumError") == set()


@pytest.mark.parametrize(
    "module", ["cerebellum.api", "cerebellum.cli", "cerebellum.llamacpp.process", "cerebellum.testing"]
)
def test_no_engine_before_it_is_asked_for(module: str) -> None:
    """The front, the parent's side of the engine and the fake load no llama.cpp into this process."""
    assert not loaded_by(f"import {module}") & {"llama_cpp", "gguf", "jinja2", "numba"}


def test_public_names_are_there() -> None:
    """Everything in ``__all__`` of the package and its modules can be had."""
    names = [name for name, _, tree in modules() if "__all__" in ast.unparse(tree) and name != "__main__"]
    code = "import importlib\n" + "\n".join(
        f"m = importlib.import_module('cerebellum{'' if name == '__init__' else '.' + name}'); [getattr(m, n) for n in m.__all__]"
        for name in names
    )
    assert "__init__" in names and "testing" in names
    assert "llama_cpp" not in loaded_by(code)
