"""The documents follow the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cerebellum import api
from tools import demo, docs, tutorial

ROOT = Path(__file__).resolve().parents[2]
MANUAL = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    """What ``python -m tools.docs`` writes is what is committed: no command, option or table is undocumented."""
    assert (ROOT / name).read_text(encoding="utf-8") == docs.PAGES[name](), "run: python -m tools.docs"


def test_the_demos_pages_follow_its_stored_figures() -> None:
    """``docs/demo.md`` and the README's block are what ``docs/demo.json`` gives, and its figures agree with each other."""
    figures = json.loads((ROOT / demo.JSON).read_text(encoding="utf-8"))
    again = "run: python -m tools.docs --demo FOLDER"
    readme = (ROOT / demo.README).read_text(encoding="utf-8")
    assert (ROOT / demo.PAGE).read_text(encoding="utf-8") == demo.page(figures), again
    assert demo.with_block(readme, figures) == readme, again
    lesson = (ROOT / demo.TUTORIAL).read_text(encoding="utf-8")
    assert demo.with_outputs(lesson, figures) == lesson, again
    assert all(len(line) <= demo.COLUMNS for line in [*demo.five_lines(figures), *demo.controls(figures)])
    table = [line for line in demo.block(figures).splitlines() if line.startswith("|")]
    assert {line.count("|") - 1 for line in table} == {5}
    sets = {one["name"]: one["kld"]["estimate"] for one in figures["sets"]}
    assert sets["recipe"] / sets["base"] == pytest.approx(figures["ratio"]["estimate"], rel=1e-6)
    assert figures["file"]["bytes"] <= figures["target"]["limit_bytes"]


def test_the_tutorial_shows_what_its_commands_print() -> None:
    page = (ROOT / tutorial.PAGE).read_text(encoding="utf-8")
    printed = json.loads((ROOT / tutorial.JSON).read_text(encoding="utf-8"))
    assert tutorial.with_blocks(page, printed) == page, "run: python -m tools.docs --tutorial FOLDER"
    shown = [
        line
        for name, block in tutorial.BLOCKS.items()
        for line in tutorial.shown_lines(printed[block.prints or name], block.shown)
    ]
    assert len([line for line in shown if line != "…"]) > 50


def test_a_folder_without_a_demo_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (ROOT / name).read_bytes() for name in (demo.JSON, demo.PAGE, demo.README, demo.TUTORIAL)}
    (tmp_path / "report.json").write_text('{"format": 1, "kind": "ladder"}')
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemExit):
            docs.main(["--demo", str(folder)])
    assert "no demo documents" in capsys.readouterr().err
    assert before == {name: (ROOT / name).read_bytes() for name in before}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file of the repository."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_that_documents_name_exist(page: Path) -> None:
    """An option in a ``cerebellum …`` line of a code block is one of that command."""
    from cerebellum.cli import main

    wrong = []
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].split()
            words = words[words.index("cerebellum") :] if "cerebellum" in words else []
            if len(words) < 2 or words[1] not in main.commands:
                continue
            command = main.commands[words[1]]
            if command.context_settings.get("ignore_unknown_options"):
                continue
            if hasattr(command, "commands"):
                command = command.commands.get(words[2] if len(words) > 2 else "", command)
            known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
            wrong += [f"{line.strip()}: {w}" for w in words if w.startswith("-") and w.split("=")[0] not in known]
    assert wrong == []


#: Options of other programs (llama.cpp's, pip's, those of `benchmarks`) that pages name in a sentence.
FOREIGN = frozenset(
    "--all --calibration --calm --demo --every --force-reinstall --hellaswag --intervals --kl-divergence --merge --no-binary "
    "--no-deps --no-repack --part --rounds --sample --model_args --report --stock-option --target-bpw --tensor-type "
    "--tensor-type-file --whole-only -b -m".split()
)


def options_of(command: click.Command) -> Iterator[str]:
    """Every option of a command and of those below it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from options_of(child)


@pytest.mark.parametrize("page", MANUAL, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_in_sentences_exist(page: Path) -> None:
    """An option that a page names in a sentence is one of some command's, or one of another program's."""
    from cerebellum.cli import main

    known = {*options_of(main), *FOREIGN, "--help"}
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    named = {w for span in spans for w in re.findall(r"(?:^|(?<=\s))--?[a-zA-Z][\w-]*", span)}
    assert named - known == set()


@pytest.mark.parametrize("page", MANUAL, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_python_exist(page: Path) -> None:
    """A function ``cerebellum.name(…)`` and a module of ``python -m`` that a page names are there."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.])cerebellum\.(\w+)\(", text):
        assert name in api.__all__, name
    for module in re.findall(r"python -m ((?:benchmarks|testbed|tools)[\w.]*\w)", text):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module


def test_every_exit_code_has_one_meaning() -> None:
    """The error tree, its docstring and the table agree; no two codes share a sentence."""
    from cerebellum import errors
    from cerebellum.cli.common import INTERRUPTED

    tree = [x for x in vars(errors).values() if isinstance(x, type) and issubclass(x, errors.CerebellumError)]
    assert {0, INTERRUPTED} | {error.exit_code for error in tree} == set(errors.EXIT_CODES)
    assert len(set(errors.EXIT_CODES.values())) == len(errors.EXIT_CODES)
    drawn = dict(re.findall(r"(\w+) +exit (\d+)", errors.__doc__ or ""))
    assert drawn == {error.__name__: str(error.exit_code) for error in tree if "exit_code" in vars(error)}
