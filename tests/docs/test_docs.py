"""The documents follow the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import docs

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_pages_are_fresh(name: str) -> None:
    """What ``python -m tools.docs`` writes is what is committed: no command, option or table is undocumented."""
    assert (ROOT / name).read_text(encoding="utf-8") == docs.PAGES[name](), "run: python -m tools.docs"


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
