"""Single effects and what they predict together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.allocation.effects import SingleEffect, predict_additive
from cerebellum.domain import TensorType, tensor_types_of
from cerebellum.errors import InputError
from cerebellum.stats.classes import EffectClass


def single(block: int, nll: float, half: float | None = None, kld: float | None = None) -> SingleEffect:
    effect = SingleEffect(
        f"blk.{block}.ffn_gate.weight", block, "ffn_gate", "Q3_K", "Q2_K", -10 * (block + 1), nll, kld=kld
    )
    if half is None:
        return effect
    effect = replace(effect, low=nll - half, high=nll + half)
    return effect if kld is None else replace(effect, kld_low=kld - half, kld_high=kld + half)


def test_percent_is_of_perplexity() -> None:
    """169.18 against 184.93 is -8.5 %."""
    effect = single(11, math.log(169.18 / 184.93))
    assert effect.percent == pytest.approx(100 * (169.18 / 184.93 - 1)) and round(effect.percent, 1) == -8.5
    assert effect.classify().word is EffectClass.REGULARIZATION
    assert single(0, 1e6).percent == math.inf


def test_the_interval_is_transformed_with_the_estimate() -> None:
    """Limits in nats become limits in percent; the word follows them."""
    assert single(0, -0.08, 0.01).classify().decided
    found = single(0, -0.08, 0.1).classify()
    assert found.word is EffectClass.NEUTRAL and not found.decided
    assert f"{100 * math.expm1(-0.18):+.2f} to {100 * math.expm1(0.02):+.2f} %" in found.reason


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_predictions_add_nats_and_limits(values: list[tuple[float, float, float]]) -> None:
    """Nats add, percents don't; half-widths add, so the interval holds for any correlation."""
    effects = [single(i, nll, half, kld) for i, (nll, half, kld) in enumerate(values)]
    out = predict_additive(effects, tuple(e.swap for e in effects))
    total, half = math.fsum(v[0] for v in values), math.fsum(v[1] for v in values)
    assert out.nll == pytest.approx(total) and out.percent == pytest.approx(100 * math.expm1(total))
    assert out.nll_low == pytest.approx(total - half) and out.nll_high == pytest.approx(total + half)
    assert out.kld == pytest.approx(math.fsum(v[2] for v in values)) and out.kld_high is not None
    assert out.delta_bytes == sum(e.delta_bytes for e in effects)


def test_what_is_unknown_of_one_is_unknown_of_all() -> None:
    """One single without interval or KL divergence, and the sum has none; only chosen ones count."""
    effects = [single(0, 0.1, 0.01, 0.2), single(1, 0.2)]
    both = predict_additive(effects, (effects[0].swap, effects[1].swap))
    assert (both.nll_low, both.nll_high, both.kld, both.kld_low) == (None, None, None, None)
    assert predict_additive(effects, (effects[0].swap,)).kld == 0.2
    assert predict_additive(effects, ()).nll == 0.0


def test_a_swap_that_was_not_swept_can_not_be_predicted() -> None:
    """The same tensor at another type is another effect."""
    with pytest.raises(InputError, match=r"blk\.0\.ffn_gate\.weight as Q4_K was not measured alone"):
        predict_additive([single(0, 0.1)], tensor_types_of({"blk.0.ffn_gate.weight": "Q4_K"}))


def test_cost_is_the_upper_limit_for_the_cautious() -> None:
    """Where a limit is known; else the estimate."""
    effect = single(0, 0.1, 0.05, 0.3)
    assert effect.cost("nll", False) == 0.1 and effect.cost("nll", True) == pytest.approx(0.15)
    assert effect.cost("kld", False) == 0.3 and effect.cost("kld", True) == pytest.approx(0.35)
    assert single(0, 0.1).cost("nll", True) == 0.1
    assert effect.swap == TensorType("blk.0.ffn_gate.weight", "Q2_K")
