"""Sums from logits, against a slow and obvious computation: one token at a time, Python floats, `math.fsum`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.parallel import Threads
from cerebellum.scoring import metrics
from cerebellum.scoring.metrics import (
    DRAW_VERSION,
    INVERSE_TEMPERATURES,
    ReferenceRows,
    draw_offsets,
    log_sum_exp,
    reference_rows,
    score_rows,
)
from tests.pools import Counting

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
#: The offsets of the tokens 1, 2, 3, by draw version 1.
KNOWN_OFFSETS = [0.542827, 0.25613, 0.248545]


def slow_log_probabilities(row: Sequence[float], beta: float = 1.0) -> list[float]:
    top = max(row)
    total = math.log(math.fsum(math.exp(beta * (x - top)) for x in row))
    return [beta * (x - top) - total for x in row]


def slow_kld(reference: Sequence[float], trial: Sequence[float]) -> float:
    p, q = slow_log_probabilities(reference), slow_log_probabilities(trial)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def rows(n: int, v: int, seed: int = 0, scale: float = 4.0) -> tuple[Floats, Ids]:
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((n, v))).astype(np.float32), rng.integers(v, size=n)


def near(logits: Floats, by: float, seed: int = 1) -> Floats:
    noise = np.random.default_rng(seed).standard_normal(logits.shape)
    return (logits + by * noise).astype(np.float32)


CASES = pytest.mark.parametrize(("n", "v", "scale"), [(1, 2, 1.0), (7, 33, 4.0), (40, 1000, 10.0), (300, 1500, 3.0)])


@CASES
def test_nll_and_its_square(n: int, v: int, scale: float) -> None:
    """Sums of -log p and of its square over the true tokens, more rows than one block holds included."""
    logits, targets = rows(n, v, scale=scale)
    nll = [-slow_log_probabilities(row.tolist())[t] for row, t in zip(logits, targets, strict=True)]
    score = score_rows(5, logits, targets)
    assert (score.chunk, score.n_tokens) == (5, n)
    assert score.nll == pytest.approx(math.fsum(nll), rel=1e-12)
    assert score.nll2 == pytest.approx(math.fsum(x * x for x in nll), rel=1e-12)
    assert log_sum_exp(logits) == pytest.approx([n + float(r[t]) for n, r, t in zip(nll, logits, targets, strict=True)])


@CASES
def test_tempered_sums(n: int, v: int, scale: float) -> None:
    """The NLL at each inverse temperature, computed directly; at 1.0 it is the NLL."""
    logits, targets = rows(n, v, scale=scale)
    score = score_rows(0, logits, targets)
    for beta, value in zip(INVERSE_TEMPERATURES, score.tempered, strict=True):
        slow = math.fsum(-slow_log_probabilities(row.tolist(), beta)[t] for row, t in zip(logits, targets, strict=True))
        assert value == pytest.approx(slow, rel=1e-5, abs=1e-5 * n)
    assert score.tempered[INVERSE_TEMPERATURES.index(1.0)] == pytest.approx(score.nll, rel=1e-5, abs=1e-5 * n)


@CASES
@pytest.mark.parametrize("by", [0.01, 0.5, 5.0])
def test_divergence_with_complete_rows(n: int, v: int, scale: float, by: float) -> None:
    """KL(reference ‖ trial), in this direction, its square, agreement, and the change of the true token's probability."""
    logits, targets = rows(n, v, scale=scale)
    trial = near(logits, by)
    score = score_rows(0, trial, targets, reference_rows(logits, targets, None))
    pairs = list(zip(logits.tolist(), trial.tolist(), targets, strict=True))
    kld = [slow_kld(p, q) for p, q, _ in pairs]
    change = [math.exp(slow_log_probabilities(q)[t]) - math.exp(slow_log_probabilities(p)[t]) for p, q, t in pairs]
    assert score.kld == pytest.approx(math.fsum(kld), rel=1e-9, abs=1e-12 * n)
    assert score.kld2 == pytest.approx(math.fsum(x * x for x in kld), rel=1e-8, abs=1e-12 * n)
    assert score.kld_var == 0.0
    assert score.same_top == sum(p.index(max(p)) == q.index(max(q)) for p, q, _ in pairs)
    assert score.dp == pytest.approx(math.fsum(change), rel=1e-9, abs=1e-12 * n)
    assert score.dp2 == pytest.approx(math.fsum(x**2 for x in change), rel=1e-9, abs=1e-15)
    assert score.dp4 == pytest.approx(math.fsum(x**4 for x in change), rel=1e-9, abs=1e-15)
    assert np.frombuffer(score.kld_tokens or b"", np.float32) == pytest.approx(kld, rel=1e-6, abs=1e-9)
    if n > 1 and by > 0.1:
        backwards = math.fsum(slow_kld(q, p) for p, q, _ in pairs)
        assert score.kld != pytest.approx(backwards, rel=1e-3)


def test_the_plain_part_does_not_depend_on_the_reference() -> None:
    """NLL and tempered sums are the same with and without one."""
    logits, targets = rows(20, 50)
    alone, beside = (
        score_rows(0, logits, targets),
        score_rows(0, logits, targets, reference_rows(near(logits, 1.0), targets, 8)),
    )
    assert (alone.nll, alone.nll2, alone.tempered) == (beside.nll, beside.nll2, beside.tempered)
    assert alone.kld is None and alone.same_top is None and alone.kld_tokens is None


def test_a_known_value_by_hand() -> None:
    """Halves against a quarter and three: log 2 - log 3 / 2."""
    even, odd = np.zeros((1, 2), np.float32), np.array([[0.0, math.log(3)]], np.float32)
    score = score_rows(0, odd, np.array([0]), reference_rows(even, np.array([0]), None))
    assert score.kld == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), rel=1e-6)
    assert score.nll == pytest.approx(math.log(4), rel=1e-6)
    assert score.dp == pytest.approx(-0.25, rel=1e-6)


# -- compact rows ------------------------------------------------------------------------------------------------------


@st.composite
def compact_cases(draw: st.DrawFn) -> tuple[Floats, Floats, Ids, int]:
    n, v = draw(st.integers(1, 6)), draw(st.integers(3, 60))
    logits, targets = rows(n, v, draw(st.integers(0, 10_000)), draw(st.sampled_from([0.1, 1.0, 5.0, 20.0])))
    trial = near(logits, draw(st.sampled_from([0.0, 0.01, 0.3, 2.0, 10.0])), draw(st.integers(0, 10_000)))
    return logits, trial, targets, draw(st.integers(2, v - 1))


#: What a row's kept words, float32, may miss of its divergence: nothing on average, 2e-9 nats in the usual row of three words.
ROUNDED = 5e-8
#: Offsets that stand for all: what is drawn changes at no more than v of them.
EVERY = (np.arange(4096) + 0.5) / 4096


def over_every_draw(row: Floats, trial: Floats, k: int) -> tuple[Doubles, float]:
    """KL divergence of one row at each offset of `EVERY`, and its largest change from one set of words to the next."""
    n, targets = len(EVERY), np.zeros(len(EVERY), np.int64)
    many, others = np.repeat(row[None], n, 0), np.repeat(trial[None], n, 0)
    score = score_rows(0, others, targets, reference_rows(many, targets, k, offsets=EVERY))
    found = np.frombuffer(score.kld_tokens or b"", np.float32).astype(np.float64)
    return found, float(np.abs(np.diff(found)).max())


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 60), st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([0.01, 0.3, 2.0]), st.integers(0, 9999))
def test_compact_rows_are_right_on_average_over_the_draw(v: int, scale: float, by: float, seed: int) -> None:
    """The mean over all draws is the divergence over all words, whatever is kept and however far the trial."""
    logits, _ = rows(1, v, seed, scale)
    trial = near(logits, by, seed + 1)
    p, q = slow_log_probabilities(logits[0].tolist()), slow_log_probabilities(trial[0].tolist())
    true = slow_kld(logits[0].tolist(), trial[0].tolist())
    for k in {2, v // 2, v - 1} - {0, 1}:
        found, step = over_every_draw(logits[0], trial[0], k)
        rest = [math.exp(x) for x in sorted(p)[: v - (k - k // 2)]]  # half of the k words are drawn from it
        seldom = math.fsum(x for x in rest if x < 2.0 * math.fsum(rest) / len(EVERY))  # drawn at no offset, or at one
        worth = max(abs(x - y) + math.exp(y - x) for x, y in zip(p, q, strict=True))
        missed = step * v / len(EVERY) + 2.0 * seldom * worth
        assert found.mean() == pytest.approx(true, rel=1e-5, abs=ROUNDED + missed)


def wide_rows(n: int = 64, v: int = 20_000, seed: int = 0) -> tuple[Floats, Ids]:
    """Rows as flat as a base model's: the 124 most likely words of 20,000 leave about a sixth."""
    return rows(n, v, seed, 4.0)


@pytest.mark.parametrize("by", [0.02, 0.2, 1.0])
def test_one_draw_is_near_the_truth_and_says_how_near(by: float) -> None:
    """64 flat rows against float64 over all words: within four of its own standard errors, which are small, and which the deviation over
    20 draws agrees with; lumping what is not kept would miss by more than ten of them."""
    logits, targets = wide_rows()
    trial = near(logits, by)
    true = score_rows(0, trial, targets, reference_rows(logits, targets, None)).kld or 0.0
    found, errors = [], []
    for seed in range(20):
        offsets = np.random.default_rng(seed).random(len(logits))
        score = score_rows(0, trial, targets, reference_rows(logits, targets, 248, offsets=offsets))
        found.append(score.kld or 0.0)
        errors.append(math.sqrt(score.kld_var or 0.0))
    error = float(np.mean(errors))
    assert error < 0.006 * true and 0.5 * error < np.std(found) < 1.5 * error
    assert (np.abs(np.array(found) - true) < 4 * error).all() and abs(np.mean(found) - true) < error
    assert true - sum(lumped(p, q) for p, q in zip(logits, trial, strict=True)) > 10 * error


def lumped(row: Floats, trial: Floats, k: int = 248) -> float:
    """The k largest, and the rest as one event: a lower bound (log-sum inequality)."""
    p, q = (np.exp(z.astype(np.float64) - np.logaddexp.reduce(z.astype(np.float64))) for z in (row, trial))
    places = np.argsort(-p)[:k]
    p, q = (np.append(x[places], 1 - x[places].sum()) for x in (p, q))
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("share", [0.3, 0.03])
def test_two_close_trials_keep_the_sign_and_size_of_their_difference(share: float) -> None:
    """A trial and the same with a little more of the same kind of noise: the words drawn are the same, so their errors cancel."""
    logits, targets = wide_rows()
    trial = near(logits, 0.3)
    other = near(trial, 0.3 * share, 77)
    exact, kept = (reference_rows(logits, targets, k) for k in (None, 248))
    true, found = (
        (score_rows(0, other, targets, r).kld or 0) - (score_rows(0, trial, targets, r).kld or 0) for r in (exact, kept)
    )
    assert found == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("gap", [20.0, 36.0, 40.0, 90.0])
def test_a_trial_so_peaked_that_the_rest_vanishes(gap: float) -> None:
    """One minus the kept mass rounds to nothing; what needs it is left out then, and the value is the true one."""
    logits, targets = rows(4, 50, scale=0.1)
    trial = logits.copy()
    trial[:, :] -= np.float32(gap)
    trial[np.arange(4), logits.argmax(axis=1)] += np.float32(gap)
    true = math.fsum(slow_kld(p, q) for p, q in zip(logits.tolist(), trial.tolist(), strict=True))
    score = score_rows(0, trial, targets, reference_rows(logits, targets, 10))
    assert score.kld == pytest.approx(true, rel=1e-6)


@settings(deadline=None, max_examples=200)
@given(compact_cases())
def test_what_does_not_need_the_rest_is_exact_in_compact_rows(case: tuple[Floats, Floats, Ids, int]) -> None:
    """Agreement and the true token's probability don't suffer from leaving out small logits."""
    logits, trial, targets, k = case
    complete = score_rows(0, trial, targets, reference_rows(logits, targets, None))
    compact = score_rows(0, trial, targets, reference_rows(logits, targets, k))
    for name in ("nll", "same_top", "dp", "dp2", "dp4"):
        assert getattr(compact, name) == getattr(complete, name)


def test_compact_rows_keep_the_largest_first() -> None:
    """Three of the five words are the largest, in order; the others are of the rest, in the vocabulary's order; and the full normalizer."""
    logits, targets = rows(9, 40)
    kept = reference_rows(logits, targets, 5)
    assert kept.ids is not None and kept.ids.dtype == np.uint32 and kept.logits.shape == (9, 5) and kept.drawn == 2
    for row, ids, values, lse, top in zip(logits, kept.ids, kept.logits, kept.lse, kept.top, strict=True):
        largest = sorted(row.tolist(), reverse=True)[:3]
        assert values[:3].tolist() == largest and row[ids].tolist() == values.tolist()
        assert top == ids[0] and values[3:].max() < largest[-1] and ids[3] <= ids[4]
        assert lse == pytest.approx(math.log(math.fsum(math.exp(x) for x in row.tolist())), rel=1e-12)


@pytest.mark.parametrize("v", [40, 63, 64, 65, 700, 5000])
def test_words_are_drawn_as_a_slow_walk_draws_them(v: int) -> None:
    """Laid end to end, each word as long as it is likely; marks at equal steps from the offset on. Ties among the largest included."""
    rng = np.random.default_rng(v)
    logits = (rng.integers(-8, 9, (30, v)) / 2).astype(np.float32)
    offsets, targets, k = rng.random(30), np.zeros(30, np.int64), 14
    kept = reference_rows(logits, targets, k, offsets=offsets)
    assert kept.ids is not None
    for row, offset, ids in zip(logits, offsets, kept.ids, strict=True):
        p = np.exp(row.astype(np.float64))
        p[np.argsort(-row, kind="stable")[:7]] = 0.0
        ends = np.cumsum(p)
        assert ids[7:].tolist() == np.searchsorted(ends, (np.arange(7) + offset) * ends[-1] / 7, side="right").tolist()


def test_the_draw_depends_on_the_text_and_the_position_alone() -> None:
    """The same for the same tokens, another for each position and each text; uniform."""
    tokens = np.arange(500, dtype=np.int32)
    found = draw_offsets(tokens)
    assert np.array_equal(found, draw_offsets(tokens.copy())) and len(set(found.tolist())) == 500
    assert (
        found.min() >= 0 and found.max() < 1 and abs(found.mean() - 0.5) < 0.05 and abs(found.std() - 12**-0.5) < 0.03
    )
    assert not np.isin(draw_offsets(tokens[::-1]), found).any()
    # These words were drawn with DRAW_VERSION 1.
    assert (DRAW_VERSION, [round(x, 6) for x in draw_offsets(np.array([1, 2, 3], np.int32))]) == (1, KNOWN_OFFSETS)


def test_the_error_shrinks_as_more_is_kept() -> None:
    """More kept tokens: a smaller error, and none left when all are kept."""
    logits, targets = rows(300, 200)
    trial = near(logits, 0.3)
    found = [score_rows(0, trial, targets, reference_rows(logits, targets, k)).kld_var for k in (4, 20, 100, 200)]
    assert found == sorted(found, key=lambda x: -(x or 0.0)) and found[0] and found[-1] == 0.0


# -- identity and sign -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 20), st.integers(2, 300), st.floats(0.0, 50.0), st.integers(0, 1000), st.booleans())
def test_identical_rows_have_divergence_exactly_zero(n: int, v: int, scale: float, seed: int, compact: bool) -> None:
    """Not nearly: the sum, every token, and the change of probability are 0.0, in both forms."""
    logits, targets = rows(n, v, seed, scale)
    score = score_rows(0, logits, targets, reference_rows(logits, targets, max(2, v // 3) if compact else None))
    assert (score.kld, score.kld2, score.dp, score.dp2, score.dp4) == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert score.same_top == n and not np.frombuffer(score.kld_tokens or b"", np.float32).any()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.sampled_from([1e-7, 1e-5, 1e-3, 1.0]), st.booleans())
def test_divergence_is_never_negative(seed: int, by: float, compact: bool) -> None:
    """Differences at the edge of float32, where rounding could push a tiny value below zero."""
    logits, targets = rows(5, 64, seed, 8.0)
    score = score_rows(0, near(logits, by, seed + 1), targets, reference_rows(logits, targets, 8 if compact else None))
    assert score.kld is not None and score.kld >= 0.0
    assert (np.frombuffer(score.kld_tokens or b"", np.float32) >= 0).all()


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 1000.0, 30_000.0])
def test_a_constant_added_to_all_logits_changes_little(shift: float) -> None:
    """Large logits neither overflow nor lose the answer (beyond float32's own rounding of them)."""
    logits, targets = rows(10, 100)
    moved = (logits + np.float32(shift)).astype(np.float32)
    plain, other = score_rows(0, logits, targets), score_rows(0, moved, targets)
    assert other.nll == pytest.approx(plain.nll, rel=1e-3) and math.isfinite(other.nll2)
    divergence = score_rows(0, moved, targets, reference_rows(logits, targets, None)).kld
    assert divergence == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("k", [None, 30])
@pytest.mark.parametrize("n", [1, 2, 7, 96])
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, n: int, k: int | None) -> None:
    """Rows are independent and sums over them exact: every field is the same for any number of threads, more than rows included."""
    monkeypatch.setattr(metrics, "_PIECE", 1)
    logits, targets = rows(n, 65)
    trial = near(logits, 0.4)
    alone = score_rows(3, trial, targets, reference_rows(logits, targets, k))
    for count in (1, 2, 3, 16):
        with Counting(count) as pool:
            threads = Threads(pool, count)
            reference = reference_rows(logits, targets, k, threads)
            assert score_rows(3, trial, targets, reference, threads) == alone
        shared = 3 if k is None else 5  # normalizers of both, the largest, the draw, the divergence
        assert pool.count == shared * (min(n, count) - 1)


def test_few_values_are_not_shared() -> None:
    """Two rows that together are less than a thread's piece; five times as many are shared."""
    width = metrics._PIECE // 5
    for n, helped in ((2, 0), (10, 1)):
        logits, targets = rows(n, width)
        with Counting(1) as pool:
            score_rows(0, logits, targets, threads=Threads(pool, 2))
        assert pool.count == helped


@pytest.mark.parametrize("k", [None, 30])
def test_pieces_of_several_rows_and_a_rest(monkeypatch: pytest.MonkeyPatch, k: int | None) -> None:
    """53 rows of 65 values in pieces of 5: threads change no bit."""
    monkeypatch.setattr(metrics, "_PIECE", 65 * 5 + 7)
    logits, targets = rows(53, 65)
    trial = near(logits, 0.4)
    alone = score_rows(3, trial, targets, reference_rows(logits, targets, k))
    threads = Threads.of(4)
    assert score_rows(3, trial, targets, reference_rows(logits, targets, k, threads), threads) == alone
    threads.close()


def test_the_order_of_rows_changes_no_sum() -> None:
    """A chunk read backwards has the same sums, to the last bit."""
    logits, targets = rows(50, 64)
    trial = near(logits, 0.4)
    ahead = score_rows(0, trial, targets, reference_rows(logits, targets, None))
    back = score_rows(0, trial[::-1], targets[::-1], reference_rows(logits[::-1], targets[::-1], None))
    assert replace(back, kld_tokens=ahead.kld_tokens) == ahead


def test_reference_rows_of_all_tokens_are_complete() -> None:
    """A k of at least the vocabulary keeps everything, and a copy: the engine's buffer is overwritten by the next batch."""
    logits, targets = rows(3, 10)
    kept: ReferenceRows = reference_rows(logits, targets, 10)
    assert kept.ids is None and np.array_equal(kept.logits, logits) and not np.shares_memory(kept.logits, logits)


def test_a_reference_of_other_rows_is_refused() -> None:
    """The compiled loops check no bounds."""
    logits, targets = rows(4, 30)
    for other in (rows(4, 20), rows(4, 31), rows(3, 30)):
        with pytest.raises(ValueError, match="not of the 4 rows of 30 logits"):
            score_rows(0, logits, targets, reference_rows(*other, None))
    wide, few = reference_rows(*rows(4, 50), 8), reference_rows(*rows(3, 30), 8)
    beyond = replace(wide, ids=np.full_like(wide.ids, 30))
    for kept in (beyond, few, replace(few, lse=np.zeros(4)), replace(wide, logits=wide.logits[:, :5])):
        with pytest.raises(ValueError, match="not of the 4 rows of 30 logits"):
            score_rows(0, logits, targets, kept)
    with pytest.raises(ValueError, match="at least two"):
        reference_rows(logits, targets, 1)
