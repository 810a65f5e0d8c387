"""Numbers as people read them, over the whole kind: no exponent, no minus before zero, no plural of one."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.figures import counted, fixed, significant
from cerebellum.report.allocation_lines import as_good_as
from cerebellum.report.estimate import megabytes
from cerebellum.report.ladder import ladder_grid
from cerebellum.results import LadderResult
from cerebellum.results.stock import Equivalent
from cerebellum.scoring.summary import kld_change
from cerebellum.stats.intervals import paired_interval
from cerebellum.stats.ladder import Rung, assess
from cerebellum.verbs.finished import differences
from cerebellum.verbs.pipeline import ChoiceOptions, settings_of_choice
from cerebellum.verbs.sweep import SweepOptions

numbers = st.floats(-1e12, 1e12, allow_subnormal=True)


@given(numbers, st.integers(2, 4), st.booleans())
def test_no_figure_has_an_exponent_or_a_minus_before_zero(x: float, digits: int, sign: bool) -> None:
    for text in (significant(x, digits, sign=sign), fixed(x, digits, sign=sign)):
        assert "e" not in text and not re.fullmatch(r"-0(\.0*)?", text), text


@given(st.floats(1e-4, 1e12), st.integers(2, 4))
def test_significant_digits_are_those_of_the_number(x: float, digits: int) -> None:
    assert float(significant(x, digits).replace(",", "")) == pytest.approx(x, rel=0.51 * 10.0 ** (1 - digits))


@pytest.mark.parametrize(
    ("x", "text"),
    [(1190.0, "1,190"), (-0.0, "0"), (-0.004, "-0.004"), (0.00005, "<0.0001"), (math.nan, "?"), (math.inf, "?")],
)
def test_figures_of_the_issue(x: float, text: str) -> None:
    assert significant(x) == text


def test_zero_has_no_sign_of_its_own() -> None:
    assert fixed(-0.001) == "0.00" and fixed(-0.001, sign=True) == "0.00" and fixed(-0.006) == "-0.01"


def test_plurals() -> None:
    assert [counted(n, "token") for n in (0, 1, 2, 2000)] == ["0 tokens", "1 token", "2 tokens", "2,000 tokens"]
    assert counted(2, "body", "bodies") == "2 bodies"


@given(st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=8))
def test_a_change_from_the_reference_itself_is_a_divergence_and_not_negative(sums: list[float]) -> None:
    """Two chunks of SmolLM2 gave +10.8 [-9.3, +30.8] thousandths. From another file it is the paired interval, as it was."""
    trial, reference = {i: (x, 32) for i, x in enumerate(sums)}, dict.fromkeys(range(len(sums)), (1e-12, 32))
    other = dict.fromkeys(range(len(sums)), (0.5, 32))
    change, back = kld_change(trial, reference), kld_change(reference, trial)
    assert 0.0 <= change.low <= change.estimate <= change.high
    assert [back.low, back.estimate, back.high] == pytest.approx([-change.high, -change.estimate, -change.low])
    assert kld_change(trial, other) == paired_interval(trial, other)


def test_a_ladder_has_no_minus_before_zero_and_a_mark_for_a_limit_that_is_not_known() -> None:
    rung = Rung(
        "Q8_0", 2.0, 0.001, ppl_low=1.99999, ppl_high=2.001, kld_low=0.0005, kld_high=math.inf, file_bytes=10**7
    )
    report = LadderResult(assess(2.0, [rung, Rung("Q4_0", 2.1, 0.1)]), (rung,), {"ladder": "l.json"})
    (row,) = [row for row in ladder_grid(report).rows if row[0] == "Q8_0"]
    assert row == ("Q8_0", "10.00", "2.0000", "+0.00 [0.00, +0.05]", "1.000 [0.500, ?]")


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(10_010_000, "which is as large as this one"), (12_000_000, "which is 20 % larger"), (9_000_000, "which is 10 % smaller")],
)  # fmt: skip
def test_what_is_as_large_is_not_called_0_percent_larger(n_bytes: int, words: str) -> None:
    assert words in as_good_as(Equivalent(n_bytes, n_bytes - 10_000, n_bytes + 10_000), (), None, 10_000_000)


def test_percents_over_a_hundred_have_no_exponent() -> None:
    assert significant(100 * 1.234, 2) == "123" and megabytes(3_000) == "1 MB" and megabytes(20_000_000) == "20 MB"


def test_settings_are_told_by_the_names_of_options() -> None:
    names = settings_of_choice(SweepOptions(), ChoiceOptions(max_growth_share=0.05))
    assert not [name for name in names if "_" in name] and "max-growth" in names
    before = {"max-growth": "5%", "max_growth_share": 0.05}
    assert differences(before, {"max-growth": "5%"}) == []
    assert differences(before, {"max-growth": "3%"}) == ["--max-growth 5%, now 3%"]
