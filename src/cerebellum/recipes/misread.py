"""Patterns that hit other tensors than their author means: whole names found inside others, dots that are any sign, numbers that go on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cerebellum.gguf.patterns import compiled_pattern

#: Tensors outside the blocks whose names are found in others' names too.
OUTSIDE = ("output.weight", "token_embd.weight")
#: Tensors that a finding about many of them names.
_NAMED = 3

_CLASS = r"\[\^?(?:\\.|[^\]\\])*\]"
_LONE_DOT = re.compile(rf"(\\.|{_CLASS})|\.(?![*+?{{])")
_NUMBERS = re.compile(rf"\\.|(?P<set>{_CLASS})|(?P<brace>\.\{{\d+,\d+\}})")
_RANGE = re.compile(r"(?<![\d-])(\d+)-(\d+)(?![\d-])")


@dataclass(frozen=True, slots=True)
class Misread:
    """``surely``: no one can mean it. ``text`` goes on after the line as its author wrote it; ``tensor``: one that is hit besides."""

    surely: bool
    text: str
    tensor: str


def misread(pattern: str, matched: Sequence[str]) -> Misread | None:
    """What ``pattern``, which gives the tensors ``matched`` (one or more) their type, does besides what it seems to say."""
    return _numbers(pattern, matched) or (_too_many(pattern, matched) if len(matched) > 1 else None)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def with_dots(pattern: str) -> str:
    """``pattern`` with every dot that stands for one sign of any kind read as a dot."""
    return _LONE_DOT.sub(lambda match: match[1] or r"\.", pattern)


def _too_many(pattern: str, matched: Sequence[str]) -> Misread | None:
    """Surely not meant where the pattern is the whole name of one tensor; hardly where a dot is a digit, or where a number goes on."""
    if pattern in matched or pattern in OUTSIDE:
        more, whole = [name for name in matched if name != pattern], "^" + pattern.replace(".", r"\.") + "$"
        return Misread(
            True,
            f"reads as the tensor {pattern}, but also hits {listed(more)}: a pattern is searched for anywhere in a name; write {whole}",
            more[0],
        )
    plain = with_dots(pattern)
    meant = frozenset(name for name in matched if compiled_pattern(plain).search(name))
    if meant and (more := [name for name in matched if name not in meant]):
        return Misread(False, f"also hits {listed(more)}, as a dot is any sign: write {plain}", more[0])
    compiled = compiled_pattern(pattern)
    spans = [(name, match.span()) for name in matched if (match := compiled.search(name))]
    if longer := [name for name, (_, end) in spans if _in_number(name, end)]:
        return Misread(False, f"ends within a number and also hits {listed(longer)}: write {plain}\\.", longer[0])
    if longer := [name for name, (start, _) in spans if _in_number(name, start)]:
        return Misread(False, f"begins within a number and also hits {listed(longer)}: write \\.{plain}", longer[0])
    return None


def _in_number(name: str, position: int) -> bool:
    """Whether there are digits on both sides of ``position``."""
    return name[position - 1 : position].isdigit() and name[position : position + 1].isdigit()


def _numbers(pattern: str, matched: Sequence[str]) -> Misread | None:
    """Numbers where regular expressions have signs: ``[1-12]``, ``.{1,2}``."""
    for construct in _NUMBERS.finditer(pattern):
        if brace := construct["brace"]:
            return Misread(
                False, f"has {brace}, which is so many signs of any kind, no list of numbers: write (…|…)", matched[0]
            )
        for low, high in _RANGE.findall(construct["set"] or ""):
            if len(high) > 1 and int(low) < int(high):
                text = f"has {construct['set']}, which is one digit, not the numbers {low} to {high}: write ({low}|…|{high})"
                return Misread(False, text, matched[0])
    return None
