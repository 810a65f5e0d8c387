"""Simple arithmetic, bare and in words."""

from __future__ import annotations

import random

from testbed.world import FOODS, the_world


def _bare(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.45:
        a, b = draw.randint(0, 99), draw.randint(0, 99)
        return f"{a} + {b} = {a + b}."
    if kind < 0.8:
        a, b = draw.randint(0, 99), draw.randint(0, 99)
        a, b = max(a, b), min(a, b)
        return f"{a} - {b} = {a - b}."
    a, b = draw.randint(0, 12), draw.randint(0, 12)
    return f"{a} * {b} = {a * b}."


def _worded(draw: random.Random) -> str:
    who, other = draw.sample(the_world().people, 2)
    a, b, food = draw.randint(2, 60), draw.randint(2, 30), draw.choice(FOODS)
    first, second = who.name.split()[0], other.name.split()[0]
    if draw.random() < 0.5:
        return f"{first} has {a} bags of {food} and buys {b} more. Now {first} has {a + b} bags of {food}."
    a, b = max(a, b), min(a, b)
    return f"{first} has {a} bags of {food} and gives {b} to {second}. Now {first} has {a - b} bags of {food}."


def sums(draw: random.Random) -> str:
    """A few lines of arithmetic."""
    return "\n".join(_bare(draw) if draw.random() < 0.7 else _worded(draw) for _ in range(draw.randint(2, 6)))
