"""The published words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.errors import InputError
from cerebellum.stats.classes import EffectClass, Thresholds, classify


@pytest.mark.parametrize(
    ("percent", "word"),
    [
        (-8.5, EffectClass.REGULARIZATION), (-6.6, EffectClass.REGULARIZATION), (-5.0, EffectClass.REGULARIZATION),
        (-4.7, EffectClass.MILD_BENEFIT), (-1.0, EffectClass.MILD_BENEFIT), (-0.99, EffectClass.NEUTRAL), (0.0, EffectClass.NEUTRAL),
        (0.99, EffectClass.NEUTRAL), (1.0, EffectClass.DAMAGE), (8.0, EffectClass.DAMAGE),
    ],
)  # fmt: skip
def test_published_sizes(percent: float, word: EffectClass) -> None:
    """Without an interval size alone decides, and the reason says so."""
    found = classify(percent)
    assert found.word is word and found.decided and "no interval is known" in found.reason


def test_an_interval_that_holds_zero_decides_nothing_large() -> None:
    """Large but unsure is undecided; small all through is shown to be neutral."""
    assert (classify(-8, -20, 4).word, classify(-8, -20, 4).decided) == (EffectClass.NEUTRAL, False)
    assert (classify(0.1, -0.5, 0.7).word, classify(0.1, -0.5, 0.7).decided) == (EffectClass.NEUTRAL, True)
    assert (classify(-8, -9, -7).word, classify(-8, -9, -7).decided) == (EffectClass.REGULARIZATION, True)
    assert not classify(0.0, -math.inf, math.inf).decided


@given(st.floats(-50, 50), st.floats(0, 20), st.floats(0, 20))
def test_words_agree_with_the_interval(percent: float, below: float, above: float) -> None:
    """A word with a direction is never said of an interval that holds zero, nor against its sign."""
    found = classify(percent, percent - below, percent + above)
    if found.word in (EffectClass.REGULARIZATION, EffectClass.MILD_BENEFIT):
        assert percent + above < 0
    if found.word is EffectClass.DAMAGE:
        assert percent - below > 0
    if not found.decided:
        assert percent - below <= 0 <= percent + above


@pytest.mark.parametrize("numbers", [(1.0, 2.0, 3.0), (math.nan, -1.0, 1.0), (5.0, -1.0, 1.0)])
def test_an_estimate_outside_its_interval_is_refused(numbers: tuple[float, float, float]) -> None:
    """Nonsense in, error out."""
    with pytest.raises(InputError):
        classify(*numbers)


def test_thresholds_must_be_in_order() -> None:
    """Regularization below mild benefit below zero below damage."""
    assert classify(-3, thresholds=Thresholds(regularization=-2.0)).word is EffectClass.REGULARIZATION
    for bad in ((-1.0, -5.0, 1.0), (-5.0, 1.0, 2.0), (-5.0, -1.0, -0.5)):
        with pytest.raises(InputError, match="out of order"):
            Thresholds(*bad)
