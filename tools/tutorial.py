"""What the tutorial's commands print: ``docs/tutorial.json`` holds it whole, the blocks of ``docs/tutorial.md`` show lines of it.

``python -m tools.docs --tutorial FOLDER`` runs the commands in the folder, in a terminal of 80 columns, and writes both. A run that was
stopped there goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.demo import COLUMNS, between

JSON, PAGE = "docs/tutorial.json", "docs/tutorial.md"
MODEL = "world-gemma4-F16.gguf"
FILE = "study/world-gemma4-cerebellum-Q3_K_M.gguf"
RUN = (
    f"cerebellum run {MODEL} --like Q3_K_M --text search.txt --report-text report.txt",
    "--ctx 256 --chunks 16 --out study",
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the page: the command as it is shown (line by line), and with what the shown lines begin.

    A line that is shown takes those with it that go on with it, indented further. ``prints``: the command whose output it is, where another
    block has it; then no command is shown.
    """

    command: tuple[str, ...]
    shown: tuple[str, ...]
    prints: str = ""


BLOCKS = {
    "inspect": Block(
        (f"cerebellum inspect {MODEL}",), (MODEL, "role ", "token_embd", "attn_q ", "ffn_gate", "per_layer_token_embd")
    ),
    "estimate": Block((*RUN[:1], f"{RUN[1]} --dry-run"), ("",)),
    "run": Block(RUN, ()),  # its five lines and its controls are those of the demo (`tools.demo`)
    "types": Block(
        (), ("Types by role", "role  ", "attn_q ", "ffn_gate", "per_layer_token_embd", "proj"), prints="run"
    ),
    "perplexity": Block((), ("perplexity",), prints="run"),
    "reproduce": Block((), ("reproduce",), prints="run"),
    "plan": Block(("cerebellum plan study/sensitivity.json --size 8.5MB",), ("",)),
    "verify": Block(
        (f"cerebellum verify {FILE} --source {MODEL}",), ("Verification", "        ", "tensors ", "rebuild ")
    ),
    "recipe": Block((f"cerebellum recipe show {FILE}",), ("Recipe", "role  ", "ffn_gate")),
    "measure": Block(
        (
            f"cerebellum measure study/base-Q3_K_M.gguf {FILE}",
            f"--reference {MODEL} --text report.txt --ctx 256 --chunks 16",
        ),
        (
            "Distance",
            f"{'':27}base-",
            "size",
            "PPL ",
            "KLD mean",
            "KLD median",
            "KLD 99",
            "same top",
            "world-gemma4",
            "Smallest",
            "?",
        ),
    ),
}


def write_tutorial(folder: Path, root: Path) -> list[str]:
    """Run the commands in ``folder`` and write what they print; the names of the files. Raises `CalledProcessError`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MODEL, "search.txt", "report.txt"):
        shutil.copy(root / "src/cerebellum/bundled" / name, folder)
    printed = {name: output_of(block, folder) for name, block in BLOCKS.items() if not block.prints}
    (root / JSON).write_text(json.dumps(printed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = root / PAGE
    page.write_text(with_blocks(page.read_text(encoding="utf-8"), printed), encoding="utf-8")
    return [JSON, PAGE]


def output_of(block: Block, folder: Path) -> list[str]:
    """The lines on standard output. Raises `CalledProcessError`."""
    words = " ".join(block.command).split()[1:]
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    done = subprocess.run(
        [sys.executable, "-m", "cerebellum", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [line.rstrip() for line in done.stdout.splitlines()]


def with_blocks(page: str, printed: Mapping[str, list[str]]) -> str:
    """The page with each block as it is printed. Raises `ValueError` where its markers are missing."""
    for name, block in BLOCKS.items():
        if not block.shown:
            continue
        lines = ["```text", *command_lines(block), *shown_lines(printed[block.prints or name], block.shown), "```"]
        page = between(page, "\n".join(lines), f"<!-- {name}:begin -->", f"<!-- {name}:end -->")
    return page


def command_lines(block: Block) -> list[str]:
    """The command as it is typed, with a backslash where a line goes on."""
    first = [f"{'$ ' if i == 0 else '      '}{line}" for i, line in enumerate(block.command)]
    return [f"{line} \\" for line in first[:-1]] + first[-1:]


def shown_lines(lines: Iterable[str], shown: tuple[str, ...]) -> list[str]:
    """The lines that begin with one of ``shown`` (indentation apart), those that go on with them, and a … for what is between."""
    chosen: list[str] = []
    indent = -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        goes_on = 0 <= indent < depth and not line.lstrip().startswith(shown)
        is_shown = bool(line) and (goes_on or f"{line.lstrip()}  ".startswith(shown) or f"{line}  ".startswith(shown))
        indent = (indent if goes_on else depth) if is_shown else -1
        if is_shown or chosen[-1:] != ["…"]:
            chosen.append(line if is_shown else "…")
    return chosen
