"""A model's reply to "write this function" made a program. Nothing is executed here.

The prompt is a module that breaks off after a function's signature and docstring. A reply goes on from there, or writes the function
again, or is a chat's: prose with blocks of code between fences. It is read in each of these ways, the likeliest first, and the first
that compiles and defines a function with a body is taken. Imports and helpers in another block
go with it. What stands behind the function is kept only where the function needs it (a helper, a constant, an import). A reply that is
valid Python in no way is handed on as it is, to fail on its own account.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

EMPTY, NO_CODE = "empty reply", "no code"
#: Said of a repair.
INDENTED = "its first line was indented"

#: One line's worth of indentation, in all of HumanEval's prompts and the small world's.
_STEP = "    "
#: How many lines of an unfenced reply are tried as the first of its code.
_MOST_STARTS = 8
_FENCE = re.compile(r"^(?P<indent>[ \t]*)(```+|~~~+)[^\n`]*\n(?P<code>.*?)(?:\2[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_FUTURE = re.compile(r"^from __future__ import [^\n]*\n", re.MULTILINE)

#: (what stands before, the code, a note): one way to read a reply.
Reading = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """A program to run, or the ``problem`` that there is none: "empty reply", "no code". ``note`` tells of a repair."""

    source: str
    problem: str = ""
    note: str = ""


def program(prompt: str, reply: str, entry_point: str, chat: bool) -> CodeAnswer:
    """The program that ``reply`` makes of ``prompt``; ``chat``: it may be prose, and only what is code in it counts."""
    reply = plain_spaces(reply.replace("\r\n", "\n").replace("\r", "\n"))
    if not reply.strip():
        return CodeAnswer("", EMPTY)
    blocks = [without_prompts(block, entry_point) for block in fenced(reply)]
    reply = reply if blocks else without_prompts(reply, entry_point)
    for before, code, note in _readings(prompt, reply, entry_point, blocks):
        if source := trimmed(before, code, entry_point):
            return CodeAnswer(source, note=note)
    wholes = [text for text in (*blocks, reply) if defines(text, entry_point)]
    if chat and not (blocks or wholes or _starts_indented(reply)):
        return CodeAnswer("", NO_CODE)
    return CodeAnswer("".join(_whole(prompt, wholes[0], entry_point) if wholes else _continued(prompt, reply)))


def _readings(prompt: str, reply: str, entry_point: str, blocks: Sequence[str]) -> Iterator[Reading]:
    """The ways to read a reply, the likeliest first."""
    if _starts_indented(reply):
        yield *_continued(prompt, reply), ""
    for block in blocks:
        if defines(block, entry_point):
            if others := _lacking(block, blocks, entry_point):
                yield *_whole(prompt, f"{others}\n{textwrap.dedent(block)}", entry_point), ""
            yield *_whole(prompt, block, entry_point), ""
    for block in blocks:
        body = _indented(textwrap.dedent(block))
        if others := _lacking(f"def {entry_point}():\n{body}", blocks, entry_point):
            before, code = _continued(prompt, body)
            yield f"{others}\n{before}", code, ""
        yield *_continued(prompt, body), ""
        yield *_continued(prompt, block), ""
        yield *_continued(prompt, _first_line_indented(block)), INDENTED
    if not blocks:
        yield *_continued(prompt, _first_line_indented(reply)), INDENTED
    if defines(reply, entry_point):
        yield *_whole(prompt, reply, entry_point), ""
        starts = re.finditer(rf"^(?:import |from |@|def {re.escape(entry_point)}\b)", reply, re.MULTILINE)
        for start in islice(starts, _MOST_STARTS):
            yield *_whole(prompt, reply[start.start() :], entry_point), ""


def fenced(reply: str) -> Iterator[str]:
    """The code between fences, without the fence's own indentation; the last fence may be open, and stand at the end of a line of code."""
    for fence in _FENCE.finditer(reply):
        yield re.sub(rf"^{fence['indent']}", "", fence["code"], flags=re.MULTILINE)


#: No-break and other wide spaces, and marks without width, which Python takes for letters that don't belong: copied from a web page.
_SPACES, _NO_WIDTH = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000", "\ufeff\u200b\u200c\u200d\u2060\u00ad"
_ODD = re.compile(rf"(\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')|([{_SPACES}])|[{_NO_WIDTH}]")
_PROMPTS = re.compile(r"^[ \t]*(?:>>>|\.\.\.:?|In \[\d+\]:)(?: |$)")


def plain_spaces(text: str) -> str:
    """``text`` with plain spaces for others and without marks that have no width, but for what stands in a string on one line."""
    return _ODD.sub(lambda match: match[1] or (" " if match[2] else ""), text) if _ODD.search(text) else text


def without_prompts(code: str, entry_point: str) -> str:
    """A session of Python's (``>>> ``, ``... ``) or IPython's that defines the function, as the code that was typed; else ``code``."""
    if not re.search(rf"^[ \t]*(?:>>>|In \[\d+\]:) ?def {re.escape(entry_point)}\b", code, re.MULTILINE):
        return code
    return "".join(_PROMPTS.sub("", line) + "\n" for line in code.split("\n") if _PROMPTS.match(line))


def _lacking(code: str, blocks: Sequence[str], entry_point: str) -> str:
    """What other blocks define, import or assign and ``code`` reads but doesn't bind, and what that needs in turn; "" for nothing."""
    tree = parsed(textwrap.dedent(code))
    if tree is None:
        return ""
    others = [
        (name, node, block)
        for block in map(textwrap.dedent, blocks)
        if (other := parsed(block)) is not None and not defines(block, entry_point)
        for node in other.body
        for name in binds(node)
    ]
    bound = {name for node in tree.body for name in binds(node)} | {entry_point}
    wanted, kept = _read_in(tree), dict[int, str]()
    while more := [(i, *each) for i, each in enumerate(others) if i not in kept and each[0] in wanted - bound]:
        for i, _, node, block in more:
            kept[i] = "".join(_text_of(block, [node]))
            wanted |= _read_in(node)
    return "".join(dict.fromkeys(kept[i] for i in sorted(kept)))


def _read_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def defines(code: str, entry_point: str) -> bool:
    """Whether a function of this name is written here, at the outermost level of its text."""
    return re.search(rf"^def {re.escape(entry_point)}\b", textwrap.dedent(code), re.MULTILINE) is not None


def _starts_indented(text: str) -> bool:
    return text.lstrip("\n")[:1] in (" ", "\t")


def _indented(text: str) -> str:
    return re.sub(r"^(?=[^\n]*\S)", _STEP, text, flags=re.MULTILINE)


def _first_line_indented(code: str) -> str:
    """``code`` with its first line at one step; "" where that is no plain repair: it has a step, or the next line of the body has none."""
    first, _, rest = code.strip("\n").partition("\n")
    following = rest.lstrip("\n")
    if first.startswith((_STEP, "\t")) or not (
        re.match(r"[ \t]|\Z", following) or re.match(r"\s*(return|raise)\b", first)
    ):
        return ""
    return f"{_STEP}{first.lstrip()}\n{rest}"


def _whole(prompt: str, code: str, entry_point: str) -> tuple[str, str]:
    """The function written again, behind what the prompt has before its own; imports from the future go first."""
    if not re.search(rf"^def {re.escape(entry_point)}\b", code, re.MULTILINE):
        code = textwrap.dedent(code)
    before = re.split(rf"^def {re.escape(entry_point)}\b", prompt, maxsplit=1, flags=re.MULTILINE)[0]
    return "".join(_FUTURE.findall(code)) + before, "\n" + _FUTURE.sub("", code)


def _continued(prompt: str, code: str) -> tuple[str, str]:
    """The code as what follows the prompt."""
    return prompt, code if prompt.endswith("\n") or code.startswith("\n") else "\n" + code


def trimmed(before: str, code: str, entry_point: str) -> str:
    """``before`` and the longest beginning of ``code`` that compiles with it, without what the function doesn't need behind it.

    Empty where no beginning compiles, or none gives the function more than a docstring.
    """
    lines = _lines(code)
    for end in (len(lines), *(i for i in range(len(lines) - 1, 0, -1) if lines[i][:1].strip())):
        source = before + "".join(lines[:end])
        if (tree := parsed(source)) is None:
            continue
        index = next((i for i, n in enumerate(tree.body) if getattr(n, "name", None) == entry_point), None)
        if index is None or not _does_something(tree.body[index]):
            return ""
        return "".join(_text_of(source, needed(tree.body, index)))
    return ""


def parsed(source: str) -> ast.Module | None:
    """The syntax tree of what compiles, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an invalid escape, say
            tree = ast.parse(source)
            compile(source, "<reply>", "exec", dont_inherit=True)  # a tree alone allows a return outside a function
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _does_something(node: ast.stmt) -> bool:
    """Whether a function has more than a docstring, imports, ``pass`` or ``...``."""
    idle = (ast.Constant, ast.Name)
    return not all(
        isinstance(s, ast.Pass | ast.Import | ast.ImportFrom) or (isinstance(s, ast.Expr) and isinstance(s.value, idle))
        for s in getattr(node, "body", [])
    )


def needed(body: Sequence[ast.stmt], last: int) -> list[ast.stmt]:
    """The statements up to ``last`` and, of those behind, the ones that bind a name that is read in one kept and bound in none before."""
    kept = set(range(last + 1))
    bound = {name for i in kept for name in binds(body[i])}
    while more := {
        i for i in range(last + 1, len(body)) if i not in kept and _wanted(body, kept) & binds(body[i]) - bound
    }:
        kept |= more
    return [body[i] for i in sorted(kept)]


def _wanted(body: Sequence[ast.stmt], kept: set[int]) -> set[str]:
    return {node.id for i in kept for node in ast.walk(body[i]) if isinstance(node, ast.Name)}


def binds(node: ast.stmt) -> set[str]:
    """The names that a definition, an import or an assignment makes; none for any other statement."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return set()


def _lines(text: str) -> list[str]:
    """Lines with their ends, as the compiler counts them: a form feed or a line separator in a string ends none."""
    return re.split(r"(?<=\n)", text)


def _text_of(source: str, nodes: Sequence[ast.stmt]) -> Iterator[str]:
    """The source's lines of these statements, decorators included, as they stand."""
    lines = _lines(source)
    for node in nodes:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        yield "".join(lines[first - 1 : node.end_lineno]).rstrip("\n") + "\n"
