"""No verb writes onto what it reads, forced or not, by whatever name; nor does a recipe's text replace what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cerebellum.cli import main
from cerebellum.errors import OutputError
from cerebellum.files import refuse_input
from cerebellum.gguf.split_file import SplitLimit, write_set
from tests.cli.command import cerebellum, refused
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

#: Command → words before ``--out``, and the inputs that a word of it names. {} stands for the input in question.
FILES = {
    ("quantize",): [
        ("{model} Q3_K_M --force", "model"), ("model.gguf Q3_K_M --overrides {lines} --force", "lines"),
        ("model.gguf Q3_K_M --imatrix {matrix} --force", "matrix"),
    ],
    ("imatrix",): [
        ("{model} -f text.txt --force", "model"), ("model.gguf -f {asgguf} --force", "asgguf"),
        ("model.gguf --add {matrix} --force", "matrix"), ("model.gguf -f text.txt --add {matrix} --force", "matrix"),
    ],
    ("recipe", "apply"): [
        ("{recipe} model.gguf --force", "recipe"), ("recipe.toml {model} --force", "model"),
        ("recipe.toml model.gguf --imatrix {matrix} --force", "matrix"),
    ],
    ("recipe", "export"): [("{recipe} model.gguf", "recipe"), ("recipe.toml {model}", "model")],
    ("recipe", "import"): [("{lines} --model model.gguf --base Q3_K_M", "lines"), ("{quantized}", "quantized")],
    ("plan",): [("{map} --size 1MB --force", "map")],
    ("modelfile",): [("{model} --force", "model")],
    ("split",): [],  # what it writes is called otherwise: tests/gguf/test_split_set.py
}  # fmt: skip
#: The same for commands whose ``--out`` is a folder, with the name in it that is written.
FOLDERS = {
    ("run",): [
        ("model.gguf --text {report.md}", "text"), ("{base-Q3_K_M.gguf} --text text.txt", "model"),
        ("model.gguf --text text.txt --report-text {report.json}", "text"),
        ("model.gguf --text text.txt --imatrix {x-cerebellum.gguf}", "matrix"),
        ("model.gguf --text text.txt --base-overrides {a.overrides.txt} --policy greedy", "lines"),
    ],
    ("sweep",): [("model.gguf --text {report.md}", "text")],
    ("measure",): [("model.gguf --reference model.gguf --text {study.sqlite-wal}", "text")],
    ("transfer",): [("map.json model.gguf --text {report.md}", "text")],
    ("compare",): [("model.gguf --reference model.gguf --text {report.json}", "text")],
    ("validity",): [("model.gguf --text {study.sqlite}", "text")],
    ("bench",): [("{bench.json} --tasks world_facts", "model")],
    ("demo",): [],
}  # fmt: skip
NAMES = {
    "model": "model.gguf", "lines": "lines.txt", "matrix": "matrix.gguf", "asgguf": "text.gguf", "recipe": "recipe.toml",
    "quantized": "quantized.gguf", "map": "map.json", "text": "text.txt",
}  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    tiny.llama(folder / "model.gguf")
    for name in ("text.txt", "text.gguf"):
        (folder / name).write_text(tiny.text(1200))
    (folder / "lines.txt").write_text("blk.0.ffn_gate.weight=Q5_0\n")
    (folder / "map.json").write_text("{}")
    cerebellum(folder, "imatrix", "model.gguf", "-f", "text.txt", "-c", "64", "--chunks", "2", "-o", "matrix.gguf")
    cerebellum(folder, "quantize", "model.gguf", "Q8_0", "--overrides", "lines.txt", "-o", "quantized.gguf")
    cerebellum(folder, "recipe", "import", "quantized.gguf", "-o", "recipe.toml")
    assert (folder / "matrix.gguf").exists() and (folder / "quantized.gguf").exists()
    return folder


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below, by its words."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield path, command


def test_every_command_that_writes_is_here() -> None:
    """A new one with --out needs a row."""
    writing = {words for words, command in commands(main) if any(option.name == "out" for option in command.params)}
    assert writing == FILES.keys() | FOLDERS.keys()


HOW = ("itself", "hard link", "link")
ROWS = [(words, arguments, name) for words, rows in FILES.items() for arguments, name in rows]


@pytest.mark.parametrize(("words", "arguments", "name", "how"), [(*row, HOW[i % 3]) for i, row in enumerate(ROWS)])
def test_a_file_that_is_read_is_not_written(
    ground: Path, tmp_path: Path, words: tuple[str, ...], arguments: str, name: str, how: str
) -> None:
    """Under its own name, or a link's: a message, and the same bytes as before."""
    file = ground / NAMES[name]
    out = {"itself": file, "hard link": tmp_path / f"hard{file.suffix}", "link": tmp_path / f"soft{file.suffix}"}[how]
    if how == "hard link":
        os.link(file, out)
    elif how == "link":
        out.symlink_to(file)
    before = file.read_bytes()
    done = cerebellum(ground, *words, *arguments.replace(f"{{{name}}}", file.name).split(), "--out", str(out))
    refused(done, 3, "exists" if "--force" not in arguments else "which this command reads")
    assert file.read_bytes() == before and (out.is_symlink() or out.samefile(file))


FOLDER_ROWS = [(words, arguments, name) for words, rows in FOLDERS.items() for arguments, name in rows]


@pytest.mark.parametrize(
    ("words", "arguments", "name", "how"), [(*row, HOW[i % 3]) for i, row in enumerate(FOLDER_ROWS)]
)
def test_an_input_in_the_output_folder_is_not_replaced(
    ground: Path, tmp_path: Path, words: tuple[str, ...], arguments: str, name: str, how: str
) -> None:
    """Under a name that is written there."""
    written = arguments[arguments.index("{") + 1 : arguments.index("}")]
    lying = tmp_path / written
    if how == "link":
        lying.symlink_to(ground / NAMES[name])
    elif how == "hard link":
        os.link(ground / NAMES[name], lying)
    else:
        lying.write_bytes((ground / NAMES[name]).read_bytes())
    before = lying.read_bytes()
    small = [] if words == ("bench",) else ["-c" if words[0] in ("measure", "compare", "validity") else "--ctx", "64"]
    done = cerebellum(ground, *words, *arguments.replace(f"{{{written}}}", str(lying)).split(), *small, "--quiet",
                      "--out", str(tmp_path))  # fmt: skip
    refused(done, 3, written, "give another --out")
    assert lying.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("recipe", "export", "recipe.toml", "model.gguf"),
        ("recipe", "import", "quantized.gguf"),
        ("recipe", "import", "lines.txt", "--model", "model.gguf", "--base", "Q3_K_M"),
    ],
)
def test_a_recipes_text_replaces_nothing(ground: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """``recipe export`` and ``import`` have no --force: what is there stays."""
    out = tmp_path / "kept.txt"
    out.write_text("of value")
    refused(cerebellum(ground, *words, "--out", str(out)), 3, "kept.txt exists")
    assert out.read_text() == "of value"
    new = tmp_path / "new.txt"
    assert cerebellum(ground, *words, "--out", str(new)).returncode == 0 and new.read_text()


def test_one_function_sees_every_kind_of_link(tmp_path: Path) -> None:
    """And lets another file of the same bytes, a dangling link and a missing input be."""
    file, out = tmp_path / "a", tmp_path / "out"
    file.write_text("x")
    for make in (os.link, os.symlink):
        make(file, out)
        with pytest.raises(OutputError, match="which this command reads"):
            refuse_input(out, (None, tmp_path / "missing", file))
        out.unlink()
    out.write_text("x")
    refuse_input(out, (file, None, tmp_path / "missing"))
    out.unlink()
    out.symlink_to(tmp_path / "nowhere")
    refuse_input(out, (file,))


def test_no_file_of_a_model_in_several_is_written_onto(ground: Path, tmp_path: Path) -> None:
    """Not only the first, which is the one that is named: neither as the file to write nor in the folder."""
    write_set(ground / "model.gguf", tmp_path / "set.gguf", SplitLimit(max_tensors=8))
    first, *others = sorted(tmp_path.glob("set-*.gguf"))
    folder = tmp_path / "out"
    folder.mkdir()
    os.link(others[0], folder / "base-Q3_K_M.gguf")
    before, text = [path.read_bytes() for path in others], str(ground / "text.txt")
    done = cerebellum(tmp_path, "imatrix", str(first), "-f", text, "--force", "--out", str(others[-1]))
    refused(done, 3, "which this command reads")
    done = cerebellum(tmp_path, "run", str(first), "--text", text, "--ctx", "64", "--quiet", "--out", str(folder))
    refused(done, 3, "base-Q3_K_M.gguf", "give another --out")
    assert [path.read_bytes() for path in others] == before


def test_a_set_of_another_number_of_files_is_no_input(tmp_path: Path) -> None:
    """Nor is another model's."""
    for name in ("m-00001-of-00002", "m-00002-of-00002", "m-00002-of-00003", "n-00002-of-00002"):
        (tmp_path / f"{name}.gguf").write_text("x")
    first = tmp_path / "m-00001-of-00002.gguf"
    for name in ("m-00002-of-00003.gguf", "n-00002-of-00002.gguf"):
        refuse_input(tmp_path / name, (first,))
    with pytest.raises(OutputError, match="which this command reads"):
        refuse_input(tmp_path / "m-00002-of-00002.gguf", (first,))


def test_the_hidden_name_of_a_file_is_no_input_either(ground: Path, tmp_path: Path) -> None:
    """A file is written under a hidden name first, which is removed."""
    hidden = tmp_path / ".o.gguf.partial"
    hidden.write_bytes((ground / "model.gguf").read_bytes())
    refused(cerebellum(ground, "quantize", str(hidden), "Q8_0", "-o", str(tmp_path / "o.gguf")), 3, "reads")
    assert hidden.exists()
