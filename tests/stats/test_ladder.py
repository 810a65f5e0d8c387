"""The validity gate: published ladders get the right word, short ones are judged with the caution they need."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cerebellum.errors import InputError
from cerebellum.stats.ladder import Rung, Validity, assess, kendall, parse_ladder, permutation_p, spearman

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("CEREBELLUM_SHARED_DATA", ROOT.parent / "shared" / "data"))


def published(model: Any) -> Any:
    path = SHARED / "sensitivity" / f"{model}.ladder.json"
    if not path.exists():
        pytest.skip(f"no {path}: set CEREBELLUM_SHARED_DATA")
    return parse_ladder(json.loads(path.read_text(encoding="utf-8")))


def ladder(ppls: Any, klds: Any = (0.002, 0.01, 0.05, 0.2, 0.9)) -> list[Rung]:
    return [Rung(f"r{i}", p, k) for i, (p, k) in enumerate(zip(ppls, klds, strict=False))]


def test_gemma_4_31b_is_invalid() -> None:
    """gemma-4-31B-it: 12 of 36 rungs beat BF16, q2_K by 27 %: invalid, and the reason says it."""
    report = assess(*published("gemma-4-31B-it"))
    assert report.verdict is Validity.INVALID
    assert report.rungs_below_reference == 12 and report.n_rungs == 36
    assert report.worst_below == "q2_K" and "26.6 %" in report.reason
    assert report.spearman == pytest.approx(0.615, abs=0.001)


def test_qwen3_4b_is_valid() -> None:
    """Qwen3-4B-Instruct-2507: the two orders agree and nothing beats BF16: valid."""
    report = assess(*published("Qwen3-4B-Instruct-2507"))
    assert report.verdict is Validity.VALID
    assert report.spearman > 0.99 and report.rungs_below_reference == 0


@pytest.mark.parametrize(
    ("model", "word"), [("gemma-4-31B-it", Validity.INVALID), ("Qwen3-4B-Instruct-2507", Validity.VALID)]
)
def test_five_rungs_tell_what_the_whole_ladder_tells(model: Any, word: Any) -> None:
    """q8_0, q6_K, q4_K, q3_K and q2_K alone give the same verdict as the published ladder of dozens."""
    reference, rungs = published(model)
    short = [r for r in rungs if r.name in ("q8_0", "q6_K", "q4_K", "q3_K", "q2_K")]
    assert assess(reference, short).verdict is word


CASES = [
    ((10.01, 10.05, 10.3, 11, 15), Validity.VALID, "orders the rungs"),
    ((10.05, 10.01, 10.3, 11, 15), Validity.VALID, "orders the rungs"),
    ((10.05, 10.01, 11, 10.3, 15), Validity.DOUBTFUL, "by luck"),
    ((15, 11, 10.3, 10.05, 10.01), Validity.INVALID, "disagree on 100 %"),
    ((10.01, 10.05, 10.3, 11, 9), Validity.INVALID, "r4 by 10.0 %"),
    ((9.7, 10.05, 10.3, 11, 15), Validity.DOUBTFUL, "r0 by 3.0 %"),
    ((9.999, 10.05, 10.3, 11, 15), Validity.VALID, "1 below the reference"),
    ((10.01, 10.05, 10.3), Validity.DOUBTFUL, "by luck"),
    ((10.01, 10.05, 10.3, 11), Validity.VALID, "orders the rungs"),
]


@pytest.mark.parametrize(("ppls", "word", "why"), CASES)
def test_short_ladders(ppls: Any, word: Any, why: Any) -> None:
    """Four or five rungs beside a reference of 10: each word with its ground in the reason."""
    report = assess(10.0, ladder(ppls))
    assert report.verdict is word, report.reason
    assert why in report.reason


def test_a_measured_interval_decides_whether_a_rung_is_below() -> None:
    """A strong rung 2 % below counts when its interval says so and not when the interval reaches the reference."""
    rungs = ladder((10.01, 10.05, 10.3, 11))
    sure, unsure = Rung("x", 9.8, 0.9, 9.7, 9.9), Rung("x", 9.8, 0.9, 9.5, 10.1)
    assert assess(10.0, [*rungs, sure]).verdict is Validity.INVALID
    assert "x" not in assess(10.0, [*rungs, unsure]).clearly_below


def test_more_tokens_make_a_small_fall_count() -> None:
    """Where no interval is given, the stand-in shrinks with the tokens scored."""
    rungs = ladder((9.995, 10.05, 10.3, 11, 15))
    assert assess(10.0, rungs).clearly_below == ()
    assert assess(10.0, rungs, n_tokens=10**6).clearly_below == ("r0",)


pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=20)


@settings(deadline=None)
@given(pairs)
def test_rank_statistics_agree_with_scipy(values: Any) -> None:
    """Spearman (ties included) is scipy's; the share of wrong pairs is what counting them gives."""
    x, y = np.array(values, dtype=float).T
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        assert spearman(x, y) == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    signs = [
        (x[i] - x[j]) * (y[i] - y[j]) for i in range(len(x)) for j in range(i) if (x[i] - x[j]) * (y[i] - y[j]) != 0
    ]
    wrong = sum(s < 0 for s in signs) / len(signs) if signs else 0.5
    assert kendall(x, y)[1] == pytest.approx(wrong)


def test_permutation_p_values_are_the_published_ones() -> None:
    """Perfect order of n has p = 1/n!, five with one adjacent swap 5/120; beyond eight values it is Student's."""
    for n in (3, 4, 5):
        assert permutation_p(np.arange(n, dtype=float), np.arange(n, dtype=float)) == pytest.approx(
            1 / math.factorial(n)
        )
    swapped = np.array([1.0, 0, 2, 3, 4])
    assert permutation_p(np.arange(5.0), swapped) == pytest.approx(5 / 120)
    x, y = np.arange(12.0), np.random.default_rng(0).permutation(12).astype(float)
    theirs = scipy_stats.spearmanr(x, y, alternative="greater").pvalue
    assert permutation_p(x, y) == pytest.approx(theirs)


@settings(deadline=None)
@given(st.permutations(list(range(6))))
def test_the_order_of_the_rungs_does_not_matter(order: Any) -> None:
    """A report is the same whatever order the rungs come in."""
    rungs = ladder((10.05, 10.01, 10.3, 9.7, 15, 16), (0.002, 0.01, 0.05, 0.2, 0.9, 1.0))
    a, b = assess(10.0, rungs), assess(10.0, [rungs[i] for i in order])
    assert (a.verdict, a.reason, set(a.below)) == (b.verdict, b.reason, set(b.below))


BAD = [
    {},
    {"by_type": {}},
    {"by_type": {"q8_0": {"ppl": 10, "kld": 0.1}}},
    {"by_type": {"bf16": {"ppl": 10, "kld": 0}, "q8_0": {"ppl": 10}}},
    {"by_type": {"bf16": {"ppl": 10, "kld": 0}, "q8_0": 3}},
    {"by_type": {"a": {"ppl": 10, "kld": 0}, "b": {"ppl": 10, "kld": 0}}},
    {"by_type": ["q8_0"]},
]


@pytest.mark.parametrize("data", BAD)
def test_malformed_ladders_are_refused(data: Any) -> None:
    """A file of another form, or without one reference, is an input error, never a crash."""
    with pytest.raises(InputError):
        parse_ladder(data)


@pytest.mark.parametrize("rung", [Rung("x", 0, 1), Rung("x", math.nan, 1), Rung("x", 3, -1)])
def test_impossible_rungs_are_refused(rung: Any) -> None:
    """A perplexity that isn't above zero, or a negative divergence, is named and refused."""
    with pytest.raises(InputError, match="x"):
        assess(10.0, [rung])
