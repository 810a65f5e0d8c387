"""Engines of another build whose figures differ: they measure chunks of their own, in a series of their own, beside a base of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cerebellum.llamacpp.protocol import Engine


@dataclass(frozen=True, slots=True)
class Others:
    """Engines of one other build, and its series: only differences to its own base are put beside ours (`cerebellum.study.builds`)."""

    series: int
    engines: Sequence[Engine]


def allotted(chunks: Sequence[int], n_own: int, n_others: Sequence[int]) -> list[frozenset[int]]:
    """The chunks that are each other build's in full: of so many engines each build has so many chunks, rounded down, and the last ones.
    It depends on the numbers alone, so a run that goes on gives out the same."""
    left, shares = sorted(chunks), list[frozenset[int]]()
    n_all = n_own + sum(n_others)
    for n in n_others:
        rest = len(left) - len(chunks) * n // n_all
        shares.append(frozenset(left[rest:]))
        left = left[:rest]
    return shares
