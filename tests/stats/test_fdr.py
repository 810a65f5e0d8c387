"""False-discovery control: against a slow obvious reference, and on planted truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cerebellum.stats.fdr import adjusted_p

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@settings(deadline=None)
@given(p_lists, st.sampled_from([0.01, 0.05, 0.2]))
def test_rejections_are_those_of_the_step_up_procedure(p: Any, q: Any) -> None:
    """adjusted <= q rejects exactly the p-values up to the largest k with p(k) <= kq/m."""
    m = len(p)
    ranked = sorted(p)
    assume(all(abs(ranked[k - 1] * m / k - q) > 1e-12 for k in range(1, m + 1)))  # a tie hangs on the order of rounding
    passing = [k for k in range(1, m + 1) if ranked[k - 1] * m / k <= q]
    threshold = ranked[passing[-1] - 1] if passing else -1.0
    assert list(adjusted_p(p) <= q) == [x <= threshold for x in p]


@settings(deadline=None)
@given(p_lists, st.data())
def test_lowering_one_p_value_raises_no_adjusted_one(p: Any, data: Any) -> None:
    """Monotone: what a race rejects early stays rejected while other trials' p-values fall."""
    i = data.draw(st.integers(0, len(p) - 1))
    lower = [*p[:i], p[i] * data.draw(st.floats(0, 1)), *p[i + 1 :]]
    assert (adjusted_p(lower) <= adjusted_p(p) + 1e-12).all()


def test_false_discoveries_stay_under_the_rate() -> None:
    """70 nulls and 30 effects with correlated errors: the mean share of false discoveries is at most 10 %."""
    rng, shares = np.random.default_rng(0), []
    for _ in range(400):
        z = np.sqrt(0.5) * rng.standard_normal(100) + np.sqrt(0.5) * rng.standard_normal()
        z[70:] += 3
        rejected = adjusted_p(2 * scipy_stats.norm.sf(np.abs(z))) <= 0.1
        shares.append(rejected[:70].sum() / max(rejected.sum(), 1))
    assert np.mean(shares) <= 0.1


def test_bad_input_is_refused() -> None:
    """Impossible p-values, counts and rates are errors."""
    with pytest.raises(ValueError):
        adjusted_p([0.5, 1.5])
    with pytest.raises(ValueError):
        adjusted_p([np.nan])
    assert len(adjusted_p([])) == 0
