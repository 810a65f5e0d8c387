"""Text from files of strangers, made harmless for where it goes: terminal, JSON, Markdown, YAML, a shell's line. Pure.

Names of models, tensors and metadata, templates and what llama.cpp prints can hold anything: sequences that a terminal obeys, marks that
turn the direction of a line, ends of lines that forge one, Markdown, HTML. Each edge where such a text leaves this program has one
function here, and everything that goes over that edge goes through it.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

#: The most characters of one name or one cell, and of one message, that are shown.
NAME_LENGTH, MESSAGE_LENGTH = 200, 2000
#: Control characters, what formats invisibly (the marks of direction among it), halves of surrogate pairs, ends of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_PLAIN = re.compile(r"[ -~]*")
#: A pattern up to its first wildcard.
_BEFORE_WILDCARD = re.compile(r"[^*?\[]+(?=[*?\[])")
_UNUSUAL = re.compile(r"[^\n -~]")


def printable(text: str, most: int = MESSAGE_LENGTH) -> str:
    r"""``text`` on one line for a terminal: hidden characters as escapes (``\x1b``, ``\u202e``, ``\n``), cut after ``most`` characters."""
    if len(text) > most:
        text = f"{text[:most]}… ({len(text):,} characters)"
    return text if _PLAIN.fullmatch(text) else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """As `printable`, each line for itself: for a text of ours of several lines, the names in which were made printable before."""
    return "\n".join(map(printable, text.split("\n")))


def name(text: str) -> str:
    """A name from a file, for a sentence of ours: as `printable`, and short."""
    return printable(text, NAME_LENGTH)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    short = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`` (did you mean Q3_K_M?)`` for ``Q3KM`` among file types, ``ffn_*`` for ``fnn_*`` among roles; "" where none of ``words`` is
    near."""
    if stem := _BEFORE_WILDCARD.match(word[:NAME_LENGTH]):
        return _pattern_meant(stem[0], word[stem.end() : NAME_LENGTH], words)
    plain = {_bare(each): each for each in words}
    key = _bare(word[:NAME_LENGTH])
    near = [key] if key in plain else difflib.get_close_matches(key, plain, 1, 0.75)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


def _pattern_meant(stem: str, rest: str, words: Iterable[str]) -> str:
    """The same for a pattern: another beginning than ``stem``, as long, with which some of ``words`` is hit."""
    known = sorted(words)
    for near in difflib.get_close_matches(stem, sorted({each[: len(stem)] for each in known}), 3, 0.7):
        if fnmatch.filter(known, near + rest):
            return f" (did you mean {printable(near + rest)}?)"
    return ""


def _bare(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


# -- JSON --------------------------------------------------------------------------------------------------------------


def strict_json(value: Any, indent: int | None = 2) -> str:
    """``value`` as JSON that any reader takes: numbers that are none are null, hidden characters are JSON's escapes."""
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _UNUSUAL.sub(
        lambda match: json.dumps(match[0])[1:-1] if unicodedata.category(match[0]) in _HIDDEN else match[0], text
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# -- Markdown and HTML -------------------------------------------------------------------------------------------------


def markdown(text: str, most: int = MESSAGE_LENGTH) -> str:
    """A line of prose with names in it, for Markdown: no HTML, no link, no picture, no code, no emphasis comes of it."""
    text = printable(text, most).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([`*~])", r"\\\1", text).replace("](", "]\\(").replace("][", "]\\[")
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def markdown_cell(text: str) -> str:
    """As `markdown`, for a cell of a table."""
    return markdown(text, NAME_LENGTH).replace("|", "\\|")


def code_span(text: str) -> str:
    """``text`` as inline code, whatever backticks it holds."""
    text = printable(text, MESSAGE_LENGTH)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Lines of code; no line in it can end the block. The lines are ours: what they hold of others was quoted before."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


# -- YAML and shell ----------------------------------------------------------------------------------------------------


def yaml_string(text: str) -> str:
    """``text`` as a YAML scalar on one line: JSON's strings are YAML's."""
    return strict_json(printable(text), None)


def shell_word(word: str) -> str:
    """``word`` for a shell's line: quoted where it must be, on one line whatever it holds, never taken for an option."""
    if word and all(unicodedata.category(c) not in _HIDDEN for c in word):
        return shlex.quote(word)
    escaped = "".join(_ansi_c(c) for c in word)
    return f"$'{escaped}'"


def shell_file(file: str) -> str:
    """A file's name as a word: one that begins with a dash is no option."""
    return shell_word(f"./{file}" if file.startswith("-") else file)


def shell_line(words: Iterable[str]) -> str:
    """A command line that a shell reads as ``words``."""
    return " ".join(map(shell_word, words))


def _ansi_c(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if unicodedata.category(character) not in _HIDDEN:
        return character
    data = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in data)
