"""Run as another user, or in a poorer container: what each kind of box says there. ``situation.py [PROGRAM TESTS]``; a line of JSON."""

from __future__ import annotations

import json
import sys

from cerebellum.evals.sandbox import Limits, Sandbox
from cerebellum.evals.sandbox.boxes import Box, Kind, refusals

KINDS: tuple[Kind, ...] = ("namespaces", "user namespace", "bubblewrap")
HONEST = ("def f(x):\n    return x + 1\n", "def check(f):\n    assert f(1) == 2\n")


def answers(source: str, tests: str) -> dict[str, str]:
    """By kind: the outcome of a program, or why there is no such box; and what a user gets."""
    kinds: dict[str, str] = {}
    for kind in KINDS:
        refusal = Box(kind).refusal()
        outcome = None if refusal else Sandbox(Box(kind)).run(source, tests, "f", Limits(seconds=20.0))
        kinds[kind] = f"none: {refusal}" if outcome is None else outcome.reason
    best = next((kind for kind, cause in refusals().items() if not cause), "none")
    return {**kinds, "best": best}


if __name__ == "__main__":
    print(json.dumps(answers(*(sys.argv[1:] or HONEST))))
