"""Code that lies in the folder where a command is started is never run: by the command, nor by a process that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cerebellum import safe_path
from cerebellum.bundled import MODEL
from cerebellum.llamacpp.process import child_environment
from tests.llamacpp import tiny

SOURCE = Path(__file__).resolve().parents[2] / "src"
#: What lies beside the downloaded model. Each writes its name down when it is imported.
TRAPS = (
    "json",
    "numpy",
    "cerebellum",
    "typing",
    "dataclasses",
    "sitecustomize",
    "llama_cpp",
    "queue",
    "click",
    "jinja2",
    "numba",
)
#: The console script: Python puts its folder first, not the current one.
SCRIPT = "import sys\nfrom cerebellum.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"

COMMANDS = {
    "help": ("--help",),
    "inspect": ("inspect", "model.gguf"),
    "quantize": ("quantize", "model.gguf", "Q4_0", "--out", "out.gguf"),
    "perplexity": ("perplexity", "model.gguf", "--text", "text.txt", "--ctx", "64", "--chunks", "2"),
    "measure": ("measure", "model.gguf", "--reference", "model.gguf", "--text", "text.txt", "--ctx", "64", "--chunks", "2"),
    "validity": ("validity", "model.gguf", "--text", "text.txt", "--ctx", "64", "--chunks", "2"),
    "sweep": ("sweep", "model.gguf", "--text", "text.txt", "--blocks", "0", "--ctx", "64", "--chunks", "2", "--out", "study"),
    "run": ("run", "model.gguf", "--text", "text.txt", "--blocks", "0", "--ctx", "64", "--chunks", "2", "--allow", "9", "--random", "0",
            "--out", "study"),
    "bench": ("bench", "bundled.gguf", "--tasks", "world_functions", "--limit", "2"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as an archive from a stranger unpacks to."""
    here = tmp_path / "downloaded"
    here.mkdir()
    (here / "bundled.gguf").symlink_to(MODEL)
    tiny.gemma4(here / "model.gguf")
    (here / "text.txt").write_text(tiny.text(1200))
    for name in TRAPS:
        (here / f"{name}.py").write_text(
            f"import os\nos.close(os.open({str(tmp_path / ('ran-' + name))!r}, os.O_CREAT | os.O_WRONLY))\n"
        )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cerebellum-script.py").write_text(SCRIPT)
    return here


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.glob("ran-*"))


def start(folder: Path, how: str, *arguments: str, path: str = str(SOURCE)) -> subprocess.CompletedProcess[str]:
    words = {
        "script": [str(folder.parent / "bin" / "cerebellum-script.py")],
        "module": ["-m", "cerebellum"],
        "safe module": ["-P", "-m", "cerebellum"],
    }
    return subprocess.run(
        [sys.executable, *words[how], *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[] if c in ("help", "inspect") else pytest.mark.engine) for c in COMMANDS]
)
def test_no_command_runs_what_lies_in_its_folder(folder: Path, command: str) -> None:
    """As installed: the command works, and nothing there has run."""
    done = start(folder, "script", *COMMANDS[command])
    assert done.returncode == 0, done.stderr
    assert ran(folder) == []


def test_the_module_runs_nothing_either(folder: Path) -> None:
    """``python -m cerebellum``: the current folder is on Python's path until our first line; with ``-P`` it never is."""
    done = start(folder, "safe module", "inspect", "model.gguf")
    assert done.returncode == 0 and ran(folder) == [], done.stderr
    (folder / "cerebellum.py").unlink()  # Python itself takes that one for what -m names
    (folder / "sitecustomize.py").unlink()
    done = start(folder, "module", "inspect", "model.gguf")
    assert done.returncode == 0 and ran(folder) == [], done.stderr


@pytest.mark.engine
def test_an_empty_entry_of_the_path_is_not_handed_on(folder: Path) -> None:
    """``PYTHONPATH=:/src`` means the current folder too; the engine's process gets absolute folders only."""
    for name in TRAPS:
        if name not in ("llama_cpp", "numba"):
            (folder / f"{name}.py").unlink()
    done = start(folder, "script", *COMMANDS["quantize"], path=f"{os.pathsep}{SOURCE}{os.pathsep}.")
    assert done.returncode == 0 and ran(folder) == [], done.stderr


def test_what_a_child_may_import_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute folders, this package's among them, neither the current one nor the started script's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    main = type(sys)("__main__")
    main.__file__ = "/scripts/start.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "path", ["", ".", str(tmp_path), "lib", "/scripts", "/usr/lib/python", "/usr/lib/python"])
    assert safe_path.importable() == [str(tmp_path / "lib"), "/usr/lib/python", str(SOURCE)]
    environment = child_environment()
    assert environment["PYTHONSAFEPATH"] == "1"
    assert environment["PYTHONPATH"].split(os.pathsep) == safe_path.importable()


def test_importing_the_package_leaves_the_path_alone(tmp_path: Path) -> None:
    """A notebook's own modules stay importable: only the command takes the folder off its path."""
    (tmp_path / "mine.py").write_text("")
    code = "import cerebellum, sys; import mine; assert '' in sys.path"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=True
    )
