"""How many steps a backtracking engine of regular expressions takes for a pattern. `re` and ``std::regex`` are such engines.

``([a-z0-9_.]+)+!`` tries every way to cut a name of 22 letters into words: millions. llama.cpp would not end either. So the steps are
counted on the pattern's syntax tree, up to a bound, before anything searches with the pattern.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

#: Steps that a search in one name may take. The patterns of published recipes take a few hundred.
MOST_STEPS = 50_000

_parser: Any = importlib.import_module("re._parser")


class TooMuchWork(Exception):
    """The bound is reached."""


def check_cost(pattern: str, flags: int, names: Sequence[str]) -> None:
    """Raises `TooMuchWork` where a search in one of ``names`` takes more than `MOST_STEPS` steps."""
    tree = _parser.parse(pattern, flags)
    if not any(str(op) in _GOES_BACK for op, _ in _walk(tree)):
        return
    for name in names:
        counter = _Counter(name)
        for start in range(len(name) + 1):
            if next(counter.run(list(tree), start), None) is not None:
                break


_GOES_BACK = frozenset({"MAX_REPEAT", "MIN_REPEAT", "BRANCH"})


def _walk(tree: Any) -> Iterator[tuple[Any, Any]]:
    for op, argument in tree:
        yield op, argument
        for inner in _inner(op, argument):
            yield from _walk(inner)


def _inner(op: Any, argument: Any) -> list[Any]:
    kind = str(op)
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        return [argument[2]]
    if kind == "BRANCH":
        return list(argument[1])
    if kind == "SUBPATTERN":
        return [argument[-1]]
    return [argument[1]] if kind in ("ASSERT", "ASSERT_NOT") else []


class _Counter:
    """Matches in one name and counts. Classes are taken at their word by `re` itself; borders and ends are taken to hold."""

    def __init__(self, name: str) -> None:
        self._name, self._steps = name, 0

    def run(self, nodes: Sequence[Any], at: int) -> Iterator[int]:
        """Every place where a match of ``nodes`` that begins at ``at`` can end, in the order in which they are tried."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TooMuchWork
        if not nodes:
            yield at
            return
        (op, argument), rest = nodes[0], nodes[1:]
        for end in self._one(str(op), argument, at):
            yield from self.run(rest, end)

    def _one(self, kind: str, argument: Any, at: int) -> Iterator[int]:
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, body = argument
            yield from self._repeated(list(body), int(least), int(most), kind == "MAX_REPEAT", at)
        elif kind == "BRANCH":
            for branch in argument[1]:
                yield from self.run(list(branch), at)
        elif kind == "SUBPATTERN":
            yield from self.run(list(argument[-1]), at)
        elif kind in ("ASSERT", "ASSERT_NOT"):
            end = next(self.run(list(argument[1]), at), None)
            if (end is not None) == (kind == "ASSERT"):
                yield at
        elif kind in ("AT", "GROUPREF"):
            yield at
        elif at < len(self._name) and self._fits(kind, argument, self._name[at]):
            yield at + 1

    def _repeated(self, body: list[Any], least: int, most: int, greedy: bool, at: int) -> Iterator[int]:
        if not greedy and least <= 0:
            yield at
        if most > 0:
            for end in self.run(body, at):
                if end > at or least > 0:
                    yield from self._repeated(body, least - 1, most - 1, greedy, end)
        if greedy and least <= 0:
            yield at

    def _fits(self, kind: str, argument: Any, letter: str) -> bool:
        if kind == "LITERAL":
            return bool(ord(letter) == argument)
        if kind == "NOT_LITERAL":
            return bool(ord(letter) != argument)
        return kind == "ANY" or (kind == "IN" and _in_set(argument, letter))


def _in_set(items: Any, letter: str) -> bool:
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    return any(_is(str(op), argument, letter) for op, argument in items) != negated


def _is(kind: str, argument: Any, letter: str) -> bool:
    if kind == "LITERAL":
        return bool(ord(letter) == argument)
    if kind == "RANGE":
        return bool(argument[0] <= ord(letter) <= argument[1])
    if kind == "CATEGORY":
        name = str(argument).lower()
        is_member = (
            letter.isdigit()
            if "digit" in name
            else letter.isspace()
            if "space" in name
            else letter.isalnum() or letter == "_"
        )
        return is_member != ("not_" in name)
    return False
