"""Ranks and dominance from planted intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cerebellum.stats.intervals import mean_interval
from cerebellum.stats.pareto import pair_level, standings


def limits(values: list[tuple[float, float]]) -> dict[tuple[int, int], tuple[float, float]]:
    """Of figures that are known to ± an error each: j's less i's."""
    pairs = itertools.combinations(range(len(values)), 2)
    return {(i, j): (values[j][0] - values[i][0] - sum(e), values[j][0] - values[i][0] + sum(e))
            for i, j in pairs for e in [(values[i][1], values[j][1])]}  # fmt: skip


def test_a_front_a_dominated_file_and_one_that_is_not_shown() -> None:
    """Sizes 1 … 4: the second is worse than the first, the last no better than the third as far as is known."""
    found = standings([1, 2, 3, 4], limits([(5.0, 0.1), (6.0, 0.1), (2.0, 0.1), (1.9, 0.2)]))
    assert [s.rank for s in found] == [3, 4, 1, 1]
    assert [s.dominated_by for s in found] == [(), (0,), (), ()]
    assert [s.unproven_against for s in found] == [(), (), (), (2,)]
    assert [s.is_front for s in found] == [True, False, True, False]


def test_of_equal_size_the_better_one_dominates() -> None:
    worse, better = standings([7, 7], {(0, 1): (-2.0, -1.0)})
    assert worse.dominated_by == (1,) and better.is_front and (worse.rank, better.rank) == (2, 1)


def test_equal_files_are_both_on_the_front() -> None:
    """A file and its copy: the difference is 0 without an error."""
    assert all(s.is_front and s.rank == 1 for s in standings([7, 7], {(0, 1): (0.0, 0.0)}))


def test_nothing_is_known_of_one_chunk() -> None:
    first, second = standings([1, 2], {(0, 1): (-np.inf, np.inf)})
    assert first.is_front and second.unproven_against == (0,) and second.rank == 1


def test_a_missing_pair_is_an_error() -> None:
    with pytest.raises(KeyError):
        standings([1, 2], {})


def test_among_equal_files_none_is_dominated_more_often_than_promised() -> None:
    """Eight files that differ by noise alone, 20 chunks, a thousand studies: some statement is wrong in at most 5 % of them."""
    rng = np.random.default_rng(3)
    level, wrong, n_files = pair_level(8), 0, 8
    assert level == 1.0 - 0.05 / 28
    for _ in range(300):
        chunks = rng.normal(0.0, 1.0, (n_files, 20))
        pairs = itertools.combinations(range(n_files), 2)
        found = {(i, j): mean_interval(chunks[j] - chunks[i], level) for i, j in pairs}
        stands = standings(list(range(n_files)), {pair: (x.low, x.high) for pair, x in found.items()})
        wrong += any(s.rank > 1 for s in stands)
    assert wrong / 300 < 0.07
