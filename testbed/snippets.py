"""Tiny Python functions with doctests: families with parameters, so that some (family, parameters) can be held out of training."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Number = int


@dataclass(frozen=True, slots=True)
class Family:
    """``make(k)`` gives (name, arguments, doc, body, the same in Python to compute examples with)."""

    stem: str
    parameters: tuple[int, ...]
    make: Callable[[int], tuple[str, str, str, Callable[..., Any]]]
    example: Callable[[random.Random], tuple[Any, ...]]

    def probes(self, k: int) -> list[tuple[Any, ...]]:
        """Arguments that tell this function from its neighbours: at, just below and just above ``k``, and far away."""
        return _PROBES[self.example](k)


def _one(draw: random.Random) -> tuple[int]:
    return (draw.randint(0, 20),)


def _two(draw: random.Random) -> tuple[int, int]:
    return draw.randint(0, 20), draw.randint(0, 20)


def _many(draw: random.Random) -> tuple[list[int]]:
    return ([draw.randint(0, 20) for _ in range(draw.randint(2, 5))],)


def _word(draw: random.Random) -> tuple[str]:
    return (draw.choice(("lamp", "river", "stone", "bread", "mill", "tower", "goose", "bell")),)


def _lists(k: int) -> list[list[int]]:
    return [[k], [k - 1, k, k + 1], [k + 1, k, k - 1, 0], [40, 3, 40], [0, 1, 2, 3, 4, 5, 6], [9, 1, 8, 2, 7]]


def _words(k: int) -> list[str]:
    long = "hedgehogs and clockmakers"
    return ["", "a", "lamp", "river", long[:k], long[: k + 1], long]


_PROBES: dict[Callable[..., Any], Callable[[int], list[tuple[Any, ...]]]] = {
    _one: lambda k: [(x,) for x in sorted({0, 1, 2, 7, k - 1, k, k + 1, 2 * k, 3 * k - 1, 41})],
    _two: lambda k: [(0, 0), (1, 0), (0, 1), (k, 1), (1, k), (k + 1, k - 1), (41, 7), (7, 41)],
    _many: lambda k: [(xs,) for xs in _lists(k)],
    _word: lambda k: [(s,) for s in _words(k)],
}
_SMALL = tuple(range(2, 20))
FAMILIES = (
    Family("add", _SMALL, lambda k: ("x", f"Add {k} to x.", f"return x + {k}", lambda x: x + k), _one),
    Family("subtract", _SMALL, lambda k: ("x", f"Subtract {k} from x.", f"return x - {k}", lambda x: x - k), _one),
    Family("times", _SMALL, lambda k: ("x", f"Multiply x by {k}.", f"return x * {k}", lambda x: x * k), _one),
    Family("modulo", _SMALL, lambda k: ("x", f"The rest of x divided by {k}.", f"return x % {k}", lambda x: x % k), _one),
    Family("divide", _SMALL, lambda k: ("x", f"Divide x by {k}, rounded down.", f"return x // {k}", lambda x: x // k), _one),
    Family("over", _SMALL, lambda k: ("x", f"Say if x is greater than {k}.", f"return x > {k}", lambda x: x > k), _one),
    Family("under", _SMALL, lambda k: ("x", f"Say if x is less than {k}.", f"return x < {k}", lambda x: x < k), _one),
    Family("equals", _SMALL, lambda k: ("x", f"Say if x is equal to {k}.", f"return x == {k}", lambda x: x == k), _one),
    Family("at_least", _SMALL, lambda k: ("x", f"The larger of x and {k}.", f"return max(x, {k})", lambda x: max(x, k)), _one),
    Family("at_most", _SMALL, lambda k: ("x", f"The smaller of x and {k}.", f"return min(x, {k})", lambda x: min(x, k)), _one),
    Family("sum_and", _SMALL, lambda k: ("x, y", f"Add x, y and {k}.", f"return x + y + {k}", lambda x, y: x + y + k), _two),
    Family("weigh", _SMALL, lambda k: ("x, y", f"Add x and {k} times y.", f"return x + {k} * y", lambda x, y: x + k * y), _two),
    Family("gap", _SMALL, lambda k: ("x, y", f"Subtract y from x and add {k}.", f"return x - y + {k}", lambda x, y: x - y + k), _two),
    Family("total", _SMALL, lambda k: ("xs", f"The sum of xs and {k}.", f"return sum(xs) + {k}", lambda xs: sum(xs) + k), _many),
    Family("largest", _SMALL, lambda k: ("xs", f"The largest of xs, times {k}.", f"return max(xs) * {k}", lambda xs: max(xs) * k), _many),
    Family("smallest", _SMALL, lambda k: ("xs", f"The smallest of xs, plus {k}.", f"return min(xs) + {k}", lambda xs: min(xs) + k), _many),
    Family("add_all", _SMALL, lambda k: ("xs", f"Add {k} to every number in xs.", f"return [x + {k} for x in xs]", lambda xs: [x + k for x in xs]), _many),
    Family("times_all", _SMALL, lambda k: ("xs", f"Multiply every number in xs by {k}.", f"return [x * {k} for x in xs]", lambda xs: [x * k for x in xs]), _many),
    Family("keep_over", _SMALL, lambda k: ("xs", f"Keep the numbers in xs greater than {k}.", f"return [x for x in xs if x > {k}]", lambda xs: [x for x in xs if x > k]), _many),
    Family("keep_under", _SMALL, lambda k: ("xs", f"Keep the numbers in xs less than {k}.", f"return [x for x in xs if x < {k}]", lambda xs: [x for x in xs if x < k]), _many),
    Family("count_over", _SMALL, lambda k: ("xs", f"Count the numbers in xs greater than {k}.", f"return len([x for x in xs if x > {k}])", lambda xs: len([x for x in xs if x > k])), _many),
    Family("has", _SMALL, lambda k: ("xs", f"Say if {k} is in xs.", f"return {k} in xs", lambda xs: k in xs), _many),
    Family("first", (1, 2, 3, 4), lambda k: ("xs", f"The first {k} of xs.", f"return xs[:{k}]", lambda xs: xs[:k]), _many),
    Family("last", (1, 2, 3, 4), lambda k: ("xs", f"The last {k} of xs.", f"return xs[-{k}:]", lambda xs: xs[-k:]), _many),
    Family("repeat", tuple(range(2, 8)), lambda k: ("s", f"Repeat s {k} times.", f"return s * {k}", lambda s: s * k), _word),
    Family("start", (1, 2, 3, 4), lambda k: ("s", f"The first {k} letters of s.", f"return s[:{k}]", lambda s: s[:k]), _word),
    Family("longer", tuple(range(2, 8)), lambda k: ("s", f"Say if s has more than {k} letters.", f"return len(s) > {k}", lambda s: len(s) > k), _word),
    Family("length", _SMALL, lambda k: ("s", f"The number of letters in s, plus {k}.", f"return len(s) + {k}", lambda s: len(s) + k), _word),
    Family("number", _SMALL, lambda k: ("s", f"Write s and then {k}.", f'return s + "{k}"', lambda s: s + str(k)), _word),
    Family("backwards", _SMALL, lambda k: ("xs", f"Turn xs around and add {k} at the end.", f"return xs[::-1] + [{k}]", lambda xs: [*xs[::-1], k]), _many),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snippet:
    """A function: ``prompt`` is signature and docstring, ``body`` what completes it, ``test`` checks it.

    The prompt ends with the docstring's quotes and the body begins with a line break, because the tokenizer takes a line break and the
    indentation after it as one token: a prompt that ended with the line break would be cut where running text never is.
    """

    key: str
    name: str
    prompt: str
    body: str
    test: str

    @property
    def text(self) -> str:
        return self.prompt + self.body


def snippet(family: Family, k: int, draw: random.Random) -> Snippet:
    """The family's function with parameter ``k``; ``draw`` chooses the examples."""
    arguments, doc, body, run = family.make(k)
    name = f"{family.stem}_{k}"
    shown = [family.example(draw) for _ in range(2)]
    lines = "".join(f"    >>> {name}({_call(given)})\n    {run(*given)!r}\n" for given in shown)
    prompt = f'def {name}({arguments}):\n    """{doc}\n\n{lines}    """'
    checks = family.probes(k) + [family.example(draw) for _ in range(2)]
    test = "def check(candidate):\n" + "".join(f"    assert candidate({_call(g)}) == {run(*g)!r}\n" for g in checks)
    return Snippet(f"{family.stem}/{k}", name, prompt, f"\n    {body}\n", test)


def _call(given: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, given))
