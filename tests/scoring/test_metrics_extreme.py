"""KL divergence on logits that no sane model gives: up to ±10,000, all the same, many ties. And memory on very wide rows."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cerebellum.scoring.metrics import reference_rows, score_rows

Floats = npt.NDArray[np.float32]
Exact = npt.NDArray[np.longdouble]

#: Few different values, so that ties are common; any float32 between; both ends.
VALUES = st.one_of(
    st.sampled_from([-1e4, -40.0, -1.0, 0.0, 0.5, 1.0, 40.0, 1e4]),
    st.floats(-1e4, 1e4, width=32),
    st.floats(-5.0, 5.0, width=32),
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Floats, Floats, int]:
    """Reference and trial logits [n, v], and how many to keep of a row; a trial is often near its reference."""
    n, v = draw(st.integers(1, 4)), draw(st.integers(2, 24))
    rows = arrays(np.float32, (n, v), elements=VALUES)
    reference, trial = draw(rows), draw(rows)
    share = np.float32(draw(st.sampled_from([0.0, 1e-6, 1e-3, 1.0])))
    near = (reference + share * (trial - reference)).astype(np.float32)
    return reference, near, draw(st.integers(2, max(2, v - 1)))


def log_softmax(row: Floats) -> Exact:
    wide = row.astype(np.longdouble)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())


def true_divergence(reference: Floats, trial: Floats) -> list[float]:
    """Of each row, in extended precision."""
    logs = [(log_softmax(p), log_softmax(q)) for p, q in zip(reference, trial, strict=True)]
    return [float((np.exp(p) * (p - q)).sum()) for p, q in logs]


def targets(rows: Floats) -> npt.NDArray[np.int64]:
    return np.arange(len(rows)) % rows.shape[1]


@settings(deadline=None, max_examples=300)
@given(pairs())
def test_identical_logits_are_at_distance_zero(case: tuple[Floats, Floats, int]) -> None:
    """Exactly, whatever the logits, in both forms; all tokens agree, ties included."""
    rows, _, k = case
    for kept in (None, k):
        score = score_rows(0, rows, targets(rows), reference_rows(rows, targets(rows), kept))
        assert (score.kld, score.kld2, score.dp, score.dp2, score.dp4) == (0.0, 0.0, 0.0, 0.0, 0.0)
        assert score.same_top == len(rows)


@settings(deadline=None, max_examples=300)
@given(pairs())
def test_complete_rows_give_the_true_divergence(case: tuple[Floats, Floats, int]) -> None:
    """Finite, never negative, and true to the precision that logits of 10,000 leave in float64."""
    reference, trial, _ = case
    score = score_rows(0, trial, targets(trial), reference_rows(reference, targets(trial), None))
    tokens = np.frombuffer(score.kld_tokens or b"", np.float32)
    assert (tokens >= 0).all() and np.isfinite(tokens).all()
    assert score.kld == pytest.approx(math.fsum(true_divergence(reference, trial)), rel=1e-9, abs=1e-10)


@settings(deadline=None, max_examples=600)
@given(pairs())
def test_compact_rows_stay_finite(case: tuple[Floats, Floats, int]) -> None:
    """Whatever the logits: no token without a number, and an error that is a number."""
    reference, trial, k = case
    score = score_rows(0, trial, targets(trial), reference_rows(reference, targets(trial), k))
    tokens = np.frombuffer(score.kld_tokens or b"", np.float32)
    assert np.isfinite(tokens).all()
    assert score.kld_var is not None and 0.0 <= score.kld_var < math.inf


@pytest.mark.parametrize("level", [0.0, 300.0, -1e4, 9.9e3])
@pytest.mark.parametrize("gap", [20.0, 27.0, 30.0, 33.0])
def test_a_peaked_trial_on_a_high_level(level: float, gap: float) -> None:
    """The normalizer of logits near 10,000 is known to 1e-12 only; the rest's mass, a difference from one, no better. The rest is moved as
    one here, so that any draw gives the true value."""
    rng = np.random.default_rng(0)
    reference = rng.uniform(level, level + 3.0, (50, 40)).astype(np.float32)
    trial = reference - np.float32(gap)
    trial[np.arange(50), reference.argmax(axis=1)] += np.float32(gap)
    true = true_divergence(reference, trial)
    for row in range(50):
        rows = slice(row, row + 1)
        kept = reference_rows(reference[rows], targets(reference[rows]), 5)
        score = score_rows(0, trial[rows], targets(trial[rows]), kept)
        assert score.kld == pytest.approx(true[row], rel=1e-4)


def test_wide_rows_are_taken_in_small_blocks() -> None:
    """Choosing the largest of 64 rows of 100,000 must not cost an index of 8 bytes for each of them (it did: twice the logits)."""
    logits = np.random.default_rng(0).standard_normal((64, 100_000), np.float32)
    tracemalloc.start()
    try:
        kept = reference_rows(logits, targets(logits), 16)
        score_rows(0, logits, targets(logits), kept)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < logits.nbytes / 2
