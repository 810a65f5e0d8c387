"""Which stock file is as good: interpolated on a planted ladder, also where a larger rung is worse than a smaller one."""

from __future__ import annotations

import math

import pytest

from cerebellum.results.stock import StockRung
from cerebellum.stats.intervals import Interval
from cerebellum.verbs.allocation.stock import equivalent_bytes, equivalent_of

FALLING = [StockRung("Q2_K", 100, 0.4), StockRung("Q3_K_M", 120, 0.1), StockRung("Q4_K_M", 160, 0.025)]


def test_it_is_log_linear_between_neighbours() -> None:
    assert equivalent_bytes(FALLING, 0.2) == pytest.approx(110.0) and equivalent_bytes(FALLING, 0.05) == pytest.approx(
        140.0
    )
    assert [equivalent_bytes(FALLING, r.kld) for r in FALLING] == [100, 120, 160]
    assert equivalent_bytes(FALLING, 0.5) is None and equivalent_bytes(FALLING, 0.02) is None


def test_a_rung_that_a_smaller_one_beats_is_passed_over() -> None:
    """SmolLM2 at 6 chunks: stock Q3_K_L was worse than Q3_K_M, and a file a little better than Q3_K_M was called 6 % larger."""
    rungs = [
        StockRung("Q3_K_S", 88, 0.486),
        StockRung("Q3_K_M", 93, 0.157),
        StockRung("Q3_K_L", 97, 0.194),
        StockRung("Q4_K_S", 102, 0.078),
    ]
    found = equivalent_bytes(rungs, 0.153)
    assert found is not None and found == pytest.approx(93 + 9 * math.log(0.157 / 0.153) / math.log(0.157 / 0.078))
    assert found < 94 and equivalent_bytes(rungs[::-1], 0.153) == found


def test_rungs_alike_divide_by_nothing() -> None:
    twins = [StockRung("A", 100, 0.1), StockRung("B", 100, 0.1), StockRung("C", 110, 0.1), StockRung("D", 120, 0.05)]
    assert equivalent_bytes(twins, 0.1) == 100 and equivalent_bytes(twins, 0.05) == 120


def test_a_smaller_share_is_a_larger_file() -> None:
    found = equivalent_of(FALLING, 0.1, Interval(0.5, 0.4, 2.0, 0.1, 8, 0.95))
    assert found.n_bytes == pytest.approx(140.0) and found.low == pytest.approx(110.0)
    assert found.high is not None and found.high > 140.0
