"""Which of several files is worth having: ranks by what is known to be better, and who dominates whom. Pure.

Better means a smaller mean KL divergence beyond the paired interval. All pairs are looked at, so each pair's interval has the level
``1 - 0.05 / pairs`` (Bonferroni): then all of them hold together in 95 of 100 studies, however many files there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: The share of studies in which some statement about a pair may be wrong.
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class ParetoRank:
    """A file among others, all by their numbers.

    ``rank``: 1 and the number of files that are surely better. ``dominated_by``: not larger and surely better. ``unproven_against``:
    smaller, and this file is not shown to be better. Where both are empty, no smaller file is as good: the file lies on the Pareto front.
    """

    rank: int
    dominated_by: tuple[int, ...]
    unproven_against: tuple[int, ...]

    @property
    def is_front(self) -> bool:
        return not self.dominated_by and not self.unproven_against


def pair_level(n_files: int) -> float:
    """The level of one pair's interval, so that those of all pairs hold together at 95 %."""
    n_pairs = n_files * (n_files - 1) // 2
    return 1.0 - ALPHA / max(1, n_pairs)


def standings(sizes: Sequence[int], limits: Mapping[tuple[int, int], tuple[float, float]]) -> tuple[ParetoRank, ...]:
    """Where each file stands. ``sizes``: bytes. ``limits``: of (i, j), i < j, the limits of j's figure less i's; smaller is better.

    Raises `KeyError` where a pair is missing.
    """
    files = range(len(sizes))

    def better(one: int, other: int) -> bool:
        low, high = limits[min(one, other), max(one, other)]
        return low > 0.0 if one < other else high < 0.0

    ranked = []
    for i in files:
        above = tuple(j for j in files if j != i and better(j, i))
        dominating = tuple(j for j in above if sizes[j] <= sizes[i])
        unproven = tuple(j for j in files if sizes[j] < sizes[i] and j not in above and not better(i, j))
        ranked.append(ParetoRank(1 + len(above), dominating, unproven))
    return tuple(ranked)
