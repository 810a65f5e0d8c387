"""Numbers as people read them, over the whole kind: no exponent, no minus before zero, no plural of one."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.figures import counted, fixed, significant

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
