"""A model's reply to "write this function" made a program. Nothing is executed here.

The prompt is a module that breaks off after a function's signature and docstring. A reply goes on from there, or writes the function
again, or is a chat's: prose with blocks of code between fences. What stands behind the function (a call of it, prints, the next idea) is
left out where it is no definition; a reply that is no valid Python is handed on as it is, to fail on its own account.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

EMPTY, NO_CODE = "empty reply", "no code"
#: Said of a repair.
INDENTED = "its first line was indented"

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(```+|~~~+)[^\n`]*\n(?P<code>.*?)(?:^[ \t]*\2[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
)


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """A program to run, or the ``problem`` that there is none: "empty reply", "no code". ``note`` tells of a repair."""

    source: str
    problem: str = ""
    note: str = ""


def program(prompt: str, reply: str, entry_point: str, chat: bool) -> CodeAnswer:
    """The program that ``reply`` makes of ``prompt``; ``chat``: it may be prose, and only what is code in it counts."""
    reply = reply.replace("\r\n", "\n").replace("\r", "\n")
    if not reply.strip():
        return CodeAnswer("", EMPTY)
    blocks = list(fenced(reply))
    if blocks:
        return _of_block(prompt, next((b for b in blocks if defines(b, entry_point)), blocks[0]), entry_point)
    if defines(reply, entry_point):
        start = re.search(rf"^(?:import |from |@|def {re.escape(entry_point)}\b)", reply, re.MULTILINE)
        return _of_block(prompt, reply[start.start() :] if start and chat else reply, entry_point)
    if chat and not _is_body(reply):
        return CodeAnswer("", NO_CODE)
    return _continued(prompt, reply, entry_point)


def fenced(reply: str) -> Iterator[str]:
    """The code between fences, without the fence's own indentation; the last fence may be open."""
    for found in _FENCE.finditer(reply):
        code, indent = found["code"], found["indent"]
        yield "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)) if indent else code


def defines(code: str, entry_point: str) -> bool:
    """Whether a function of this name is written here, at the outermost level of its text."""
    return re.search(rf"^def {re.escape(entry_point)}\b", textwrap.dedent(code), re.MULTILINE) is not None


def _is_body(text: str) -> bool:
    """Whether every line is indented, as a function's body is."""
    return all(line[:1] in " \t" for line in text.splitlines() if line.strip())


def _of_block(prompt: str, block: str, entry_point: str) -> CodeAnswer:
    """A whole function, behind what the prompt has before its own; or a body."""
    block = textwrap.dedent(block) if not defines(block, entry_point) or _is_body(block) else block
    if not defines(block, entry_point):
        return _continued(prompt, textwrap.indent(block, "    "), entry_point)
    before = re.split(rf"^def {re.escape(entry_point)}\b", prompt, maxsplit=1, flags=re.MULTILINE)[0]
    return CodeAnswer(trimmed(before, "\n" + block, entry_point) or f"{before}\n{block}")


def _continued(prompt: str, reply: str, entry_point: str) -> CodeAnswer:
    """The reply as what follows the prompt."""
    if not prompt.endswith("\n") and not reply.startswith("\n"):
        reply = "\n" + reply
    if source := trimmed(prompt, reply, entry_point):
        return CodeAnswer(source)
    repaired = re.sub(r"^(\n*)(?=\S)", r"\1    ", reply, count=1)
    if repaired != reply and (source := trimmed(prompt, repaired, entry_point)):
        return CodeAnswer(source, note=INDENTED)
    return CodeAnswer(prompt + reply)


def trimmed(before: str, code: str, entry_point: str) -> str:
    """``before`` and the longest beginning of ``code`` that is valid with it and defines the function, without what is no definition
    behind it. Empty where no beginning is."""
    lines = code.splitlines(keepends=True)
    ends = [len(lines), *(i for i in range(len(lines) - 1, 0, -1) if lines[i][:1].strip())]
    for end in ends:
        source = before + "".join(lines[:end])
        tree = parsed(source)
        if tree is None:
            continue
        place = next((i for i, n in enumerate(tree.body) if getattr(n, "name", None) == entry_point), None)
        if place is None or not _does_something(tree.body[place]):
            return ""
        kept = tree.body[: place + 1] + [node for node in tree.body[place + 1 :] if isinstance(node, _DEFINITIONS)]
        return "".join(_lines_of(source, kept))
    return ""


def parsed(source: str) -> ast.Module | None:
    """The syntax tree, or None where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an invalid escape, say
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _does_something(node: ast.stmt) -> bool:
    """Whether a function has more than a docstring."""
    body = getattr(node, "body", [])
    return not (len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant))


def _lines_of(source: str, nodes: list[ast.stmt]) -> Iterator[str]:
    """The source's lines of these statements, decorators included, as they stand."""
    lines = source.splitlines(keepends=True)
    for node in nodes:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        yield "".join(lines[first - 1 : node.end_lineno]).rstrip("\n") + "\n"
