"""The words for a difference, and that none is said without its ground."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.stats.intervals import Interval
from cerebellum.stats.verdicts import Verdict, judge, practical_margin


def interval(low: Any, high: Any) -> Any:
    return Interval((low + high) / 2, low, high, (high - low) / 4, 24, 0.95)


CASES = [
    (interval(0.01, 0.02), Verdict.DAMAGES),
    (interval(-0.02, -0.01), Verdict.IMPROVES),
    (interval(-0.0005, 0.0005), Verdict.NO_DIFFERENCE),
    (interval(0.0001, 0.0005), Verdict.NO_DIFFERENCE),
    (interval(-0.01, 0.02), Verdict.UNDECIDED),
    (interval(0.0005, 0.02), Verdict.UNDECIDED),
]


@pytest.mark.parametrize(("kld", "expected"), CASES)
def test_the_interval_decides_the_word(kld: Any, expected: Any) -> None:
    """Clear of floor: a change; inside the margin: none; holding zero or the floor and reaching past: undecided."""
    assert judge(kld, noise_floor=0.001).verdict is expected


def test_lower_perplexity_with_higher_divergence_is_drift() -> None:
    """Perplexity surely down, KL divergence surely up: drift; with perplexity unsure or up: damages."""
    up = interval(0.01, 0.02)
    assert judge(up, interval(-0.05, -0.01)).verdict is Verdict.DRIFT
    assert judge(up, interval(-0.05, 0.01)).verdict is Verdict.DAMAGES
    assert judge(up, interval(0.01, 0.05)).verdict is Verdict.DAMAGES


def test_zero_in_the_interval_is_not_evidence_of_no_difference() -> None:
    """Without a margin nothing but exact identity is "no detectable difference"."""
    assert judge(interval(-1e-9, 1e-9)).verdict is Verdict.UNDECIDED
    assert judge(interval(0.0, 0.0)).verdict is Verdict.NO_DIFFERENCE


def test_false_discovery_control_can_withhold_a_word() -> None:
    """An interval clear of zero is undecided when the sweep's control says no."""
    assert judge(interval(0.01, 0.02), significant=False).verdict is Verdict.UNDECIDED
    assert judge(interval(0.01, 0.02), significant=True).verdict is Verdict.DAMAGES


def test_perplexity_alone_says_so() -> None:
    """Without a reference perplexity decides, in percent, and the sentence warns."""
    out = judge(None, interval(0.01, 0.02))
    assert out.verdict is Verdict.DAMAGES
    assert "perplexity alone, without a reference" in out.reason and "+1.51 %" in out.reason


def test_the_reason_holds_the_numbers() -> None:
    """The reason carries estimate, limits, level and chunks."""
    reason = judge(interval(0.01, 0.02), interval(-0.05, -0.01)).reason
    for part in ("+15 thousandths", "+10 to +20", "95 % interval from 24 chunks", "-2.96 %", "tasks must judge"):
        assert part in reason
    kld, ppl = reason.split(". ")
    assert "KL divergence" in kld and "tasks must judge" in kld and ppl.startswith("Perplexity") and ppl.endswith(".")


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.1), st.floats(0, 0.1))
def test_words_agree_with_the_numbers(
    low: Any, width: Any, ppl_low: Any, ppl_width: Any, floor: Any, margin: Any
) -> None:
    """Improves only below zero and the floor; damages and drift only above; no difference only inside the margin."""
    kld, ppl = interval(low, low + width), interval(ppl_low, ppl_low + ppl_width)
    verdict = judge(kld, ppl, noise_floor=floor, margin=margin).verdict
    if verdict is Verdict.IMPROVES:
        assert kld.high < -floor
    elif verdict in (Verdict.DAMAGES, Verdict.DRIFT):
        assert kld.low > floor and (verdict is Verdict.DRIFT) == (ppl.high < 0)
    elif verdict is Verdict.NO_DIFFERENCE:
        assert kld.inside(max(floor, margin))


def test_impossible_input_is_refused() -> None:
    """Nothing to judge, or a negative floor, margin or divergence, is an error."""
    with pytest.raises(ValueError):
        judge(None)
    with pytest.raises(ValueError):
        judge(interval(0, 1), noise_floor=-1)
    with pytest.raises(ValueError):
        practical_margin(-0.1)
    assert practical_margin(0.5) == pytest.approx(0.005)
