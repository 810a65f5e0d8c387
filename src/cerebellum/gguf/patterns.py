"""Override patterns: the regular expressions that mean the same to llama.cpp and to us.

llama.cpp searches with ``std::regex`` (ECMAScript) anywhere in the name; we search with Python's `re`. What the two read
differently, or only one of them knows, is refused: a pattern that might hit other tensors there than here is worse than none.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from cerebellum.errors import OverrideError
from cerebellum.gguf.pattern_cost import TooMuchWork, check_cost

#: What follows a backslash and means the same in both: classes, borders, line ends, back references, any punctuation.
_SAME_ESCAPES = frozenset("dswbnrtfv123456789")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??", re.ASCII)
_SET_OPERATIONS = ("--", "&&", "||", "~~")
_UPPER = str.maketrans({chr(c): chr(c + 32) for c in range(ord("A"), ord("Z") + 1)})


def lowered(pattern: str) -> str:
    """``pattern`` as llama-quantize lower-cases it: ASCII letters only."""
    return pattern.translate(_UPPER)


def compiled_pattern(pattern: str) -> re.Pattern[str]:
    """``pattern`` ready for ``search``. Raises `OverrideError` where it is invalid or not surely read alike by llama.cpp."""
    if problem := _different(pattern):
        raise OverrideError(
            f"the pattern {pattern!r} has {problem}, which llama.cpp may read in another way; write it plainer"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return re.compile(pattern, re.ASCII)
    except (re.error, FutureWarning, OverflowError, RecursionError) as error:
        raise OverrideError(f"the pattern {pattern!r} is not a valid regular expression: {error}") from error


def names_with(pattern: str, names: Sequence[str]) -> tuple[str, ...]:
    """The ``names`` that ``pattern`` is found in. Raises `OverrideError` where it is invalid, or would be searched for without end."""
    compiled = compiled_pattern(pattern)
    try:
        check_cost(_unmerged(pattern), re.ASCII, names)
    except (TooMuchWork, RecursionError) as error:
        raise OverrideError(
            f"the pattern {pattern[:200]!r} can be matched in too many ways: neither llama.cpp nor we would come to an end; write it "
            "without repeats inside repeats"
        ) from error
    return tuple(name for name in names if compiled.search(name))


def _unmerged(pattern: str) -> str:
    """The same with a mark of no width in each alternative: Python makes one class of ``[ab]|[bc]``, ``std::regex`` tries both."""
    out, position, in_class = "", 0, False
    while position < len(pattern):
        _, width, inside = _step(pattern, position, in_class)
        out += "|(?=)" if pattern[position] == "|" and not in_class else pattern[position : position + width]
        position, in_class = position + width, inside
    return out


def _different(pattern: str) -> str:
    """The first construct of ``pattern`` that the two languages don't share; empty if there is none."""
    if not pattern.isascii() or not pattern.isprintable():
        return "letters outside printable ASCII"
    position, in_class = 0, False
    while position < len(pattern):
        problem, width, in_class = _step(pattern, position, in_class)
        if problem:
            return problem
        position += width
    return ""


def _step(pattern: str, at: int, in_class: bool) -> tuple[str, int, bool]:
    """(what is not shared, letters read, whether a class is open now) for the construct at ``at``."""
    here, two = pattern[at], pattern[at : at + 2]
    if here == "\\":
        escaped = pattern[at + 1 : at + 2]
        shared = not escaped.isalnum() or (escaped in _SAME_ESCAPES and not (in_class and escaped in "b123456789"))
        return ("" if shared else f"the escape {two}"), 2, in_class
    if in_class:
        return (f"the set operation {two}" if here == "[" or two in _SET_OPERATIONS else ""), 1, here != "]"
    if here == "[":
        width = 2 if two == "[^" else 1
        return ("an empty set" if pattern[at + width : at + width + 1] == "]" else ""), width, True
    if two == "(?":
        group = pattern[at : at + 3]
        return ("" if group in ("(?:", "(?=", "(?!") else f"the group {group}"), 3, False
    problem, width = _quantifier(pattern, at)
    return problem, width, False


def _quantifier(pattern: str, at: int) -> tuple[str, int]:
    """(what is not shared, letters read) where a quantifier may stand: ``*``, ``+``, ``?``, ``{n}``, ``{n,}``, ``{n,m}``, lazy or not."""
    quantifier = _QUANTIFIER.match(pattern, at)
    if not quantifier:
        return (f"a bare {pattern[at]}" if pattern[at] in "{}" else ""), 1
    if _QUANTIFIER.match(pattern, quantifier.end()):
        return "one quantifier after another", 1
    return "", quantifier.end() - at
