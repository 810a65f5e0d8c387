"""Differences between two measurements of one text, paired by chunk, with intervals that hold for few chunks.

Tokens of one chunk share a context, so they aren't independent samples. Chunks nearly are, so the chunk is the unit. A chunk that is hard
for one file is hard for the other one too. The difference of the pair is free of that. The input is sums and counts; the one division
comes last.

The interval is Student's t widened by Hall's skewness transformation (P. Hall 1992, "On the removal of skewness by
transformation", J. R. Statist. Soc. B 54, 221-228), which removes the order-1/sqrt(n) error that skewed chunks cause.
Hall's limit is taken where it lies further out, Student's elsewhere: Hall's shorter side rests on an estimated third
moment, and `benchmarks/planted_truth.py --intervals` shows that it undercovers for few chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from cerebellum.domain import ChunkScore
from cerebellum.errors import EngineError

#: From this mean NLL on, nats a token, a perplexity isn't a number any more (exp overflows at 709.8).
MOST_NLL = 700.0
#: An upper limit of more than this many times the estimate says nothing.
MOST_TIMES = 10.0

Floats = npt.NDArray[np.float64]
ChunkSums = Mapping[int, tuple[float, int]]
Method = Literal["skew", "hall", "t"]

_SYMMETRIC = 1e-6
"""Below this skewness / sqrt(n) Hall's limits are Student's: closer than the cube root's rounding."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval at ``level`` (0.95, say) for a mean over chunks; the unit is that of the values given.

    With fewer than two chunks nothing is known of the spread: ``std_error`` is inf, the limits are -inf and inf.
    """

    estimate: float
    low: float
    high: float
    std_error: float
    n_chunks: int
    level: float

    def excludes(self, value: float = 0.0) -> bool:
        return value < self.low or value > self.high

    def inside(self, margin: float) -> bool:
        """Whether the whole interval lies within -margin … margin."""
        return -margin <= self.low and self.high <= margin


def paired_values(trial: ChunkSums, base: ChunkSums) -> Floats:
    """Per-chunk differences trial - base, float64 [n_chunks] in order of chunk id, in nats per token.

    ``trial`` and ``base`` map a chunk id to (sum in nats, scored tokens). The mean of the result is the difference of
    the token-weighted means. Where chunks have different token counts the values are linearized ratio residuals, whose
    spread gives the ratio's standard error (W. G. Cochran, Sampling Techniques, 3rd ed., section 6.4).

    Raises ValueError when the chunk ids differ, there is no chunk, or a chunk has another number of tokens in the two.
    """
    if trial.keys() != base.keys():
        odd = sorted(trial.keys() ^ base.keys())
        raise ValueError(f"{len(odd)} chunks were measured on one side only, for example chunk {odd[0]}")
    chunks = sorted(base)
    if not chunks:
        raise ValueError("the two measurements have no chunk")
    for chunk in chunks:
        if trial[chunk][1] != base[chunk][1] or trial[chunk][1] <= 0:
            raise ValueError(f"chunk {chunk} has {trial[chunk][1]} scored tokens in one, {base[chunk][1]} in the other")
    sums = np.array([trial[chunk][0] - base[chunk][0] for chunk in chunks], dtype=np.float64)
    return ratio_values(sums, np.array([base[chunk][1] for chunk in chunks], dtype=np.float64))


def ratio_values(sums: Floats, counts: Floats) -> Floats:
    """Values [n] whose mean is sum(sums)/sum(counts) and whose spread is that of the ratio estimator (linearized)."""
    ratio = sums.sum() / counts.sum()
    return np.asarray(ratio + (sums - ratio * counts) * (len(sums) / counts.sum()), dtype=np.float64)


def paired_interval(trial: ChunkSums, base: ChunkSums, level: float = 0.95) -> Interval:
    """Interval for the token-weighted mean difference trial - base, in nats per token. Raises as `paired_values`
    does.
    """
    return mean_interval(paired_values(trial, base), level)


def mean_interval(values: Floats | Sequence[float], level: float = 0.95, method: Method = "skew") -> Interval:
    """Interval for the mean of independent per-chunk ``values`` [n], any unit.

    ``method``: "skew" (default, see the module), "hall" (Hall's interval with Student quantiles) or "t" (Student's).
    Raises ValueError for no values, values that aren't finite, or a level outside (0, 1).
    """
    from scipy.special import stdtrit

    x = _checked(values, level)
    n = len(x)
    if n < 2:
        return Interval(float(x[0]), -math.inf, math.inf, math.inf, n, level)
    quantile = float(stdtrit(n - 1, (1.0 + level) / 2.0))
    return interval_from_quantile(x, quantile, level, method)


def interval_from_quantile(x: Floats, quantile: float, level: float, method: Method = "skew") -> Interval:
    """The interval whose Student limits would lie ``quantile`` standard errors from the mean of ``x`` [n >= 2]."""
    mean, error, low, high = (float(v[0]) for v in mean_limits(x[None, :], quantile, method))
    return Interval(mean, low, high, error, len(x), level)


def mean_limits(x: Floats, quantile: float, method: Method = "skew") -> tuple[Floats, Floats, Floats, Floats]:
    """(mean, standard error, low, high), each [m], for m samples at once: ``x`` is [m, n >= 2].

    Hall's limits invert g(T) = T + aT²/3 + a²T³/27 + a/6 with a = skewness/sqrt(n), T the Student ratio.
    """
    mean, error = x.mean(axis=1), x.std(axis=1, ddof=1) / math.sqrt(x.shape[1])
    below = above = np.full(len(x), quantile)
    if method != "t":
        a = skewness(x) / math.sqrt(x.shape[1])
        small = np.abs(a) < _SYMMETRIC
        a = np.where(small, 1.0, a)
        below = 3.0 / a * (np.cbrt(1.0 + a * (quantile - a / 6.0)) - 1.0)
        above = 3.0 / a * (1.0 - np.cbrt(1.0 - a * (quantile + a / 6.0)))
        below, above = np.where(small, quantile, below), np.where(small, quantile, above)
        if method == "skew":
            below, above = np.maximum(below, quantile), np.maximum(above, quantile)
    return mean, error, mean - below * error, mean + above * error


def skewness(x: Floats) -> Floats:
    """Moment skewness m3 / m2^1.5 along the last axis; 0 for a constant sample. At most (n - 2)/sqrt(n - 1) in size."""
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True))
    constant = spread <= 1e-14 * np.abs(x).max(axis=-1, keepdims=True)
    unit = np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))
    return np.asarray(np.mean(unit**3, axis=-1), dtype=np.float64)


def quantile_to_reach(x: Floats, value: float = 0.0) -> float:
    """The quantile at which `interval_from_quantile` (method "skew") of ``x`` [n >= 2] has ``value`` as a limit.

    0 when even the narrowest interval holds it, inf for a constant sample elsewhere. Hall's g in closed form.
    """
    distance, error = float(x.mean()) - value, float(x.std(ddof=1)) / math.sqrt(len(x))
    if error <= 1e-14 * abs(distance):
        return math.inf if distance != 0.0 else 0.0
    t = abs(distance) / error
    a = math.copysign(1.0, distance) * float(skewness(x)) / math.sqrt(len(x))
    return max(0.0, min(t, t + a * t**2 / 3.0 + a**2 * t**3 / 27.0 + a / 6.0))


def percent_change(log_ratio: Interval) -> Interval:
    """A difference of mean NLL (nats per token, the log of a perplexity ratio) as a change of perplexity in percent.

    The limits are transformed, so their level is kept; the standard error is the first-order one (delta method).
    """

    def percent(x: float) -> float:
        return 100.0 * math.expm1(x) if x < 700.0 else math.inf

    error = 100.0 * math.exp(min(log_ratio.estimate, 700.0)) * log_ratio.std_error
    limits = percent(log_ratio.low), percent(log_ratio.high)
    return Interval(percent(log_ratio.estimate), *limits, error, log_ratio.n_chunks, log_ratio.level)


def perplexity(nll_nats: float, nll2: float, n_tokens: int) -> tuple[float, float]:
    """Perplexity and its token-level standard error, as stock ``llama-perplexity`` prints them.

    ``nll_nats`` and ``nll2`` are the sums of the NLL and its square over ``n_tokens`` scored tokens. The error takes
    tokens for independent (exp(mean) · sqrt((mean of squares - mean²)/(n - 1))): too small for judging, kept for
    comparison. Raises `EngineError` where the sums aren't finite numbers: the model is broken. Raises ValueError for fewer than one
    token.
    """
    if n_tokens < 1:
        raise ValueError("perplexity needs at least one scored token")
    mean = nll_nats / n_tokens
    value = exp_nll(mean)
    if n_tokens < 2:
        return value, math.inf
    return value, value * math.sqrt(max(nll2 / n_tokens - mean * mean, 0.0) / (n_tokens - 1))


def exp_nll(mean_nll: float) -> float:
    """The perplexity of a mean NLL in nats a token. Raises `EngineError` where there is none: NaN, or `MOST_NLL` and more."""
    if not mean_nll < MOST_NLL:
        raise EngineError(
            f"the mean NLL is {mean_nll} nats a token, which is no perplexity: the model or its quantization is broken"
        )
    return math.exp(mean_nll)


def exp_limits(mean_nll: Interval) -> Interval:
    """A mean NLL (nats a token), which is `positive`, with its limits as a perplexity with limits; the standard error is the first-order
    one."""
    value, mean_nll = exp_nll(mean_nll.estimate), positive(mean_nll)
    low = math.exp(min(mean_nll.low, MOST_NLL)) if math.isfinite(mean_nll.low) else -math.inf
    high = math.exp(mean_nll.high) if mean_nll.high < MOST_NLL else math.inf
    return Interval(value, low, high, value * mean_nll.std_error, mean_nll.n_chunks, mean_nll.level)


def not_finite(score: ChunkScore) -> str:
    """Which of a chunk's sums is no finite number, with its value, or ""."""
    names = ("nll", "nll2", "kld", "kld2", "kld_var", "dp", "dp2", "dp4")
    sums = [(name, getattr(score, name)) for name in names] + [("tempered", value) for value in score.tempered]
    return next((f"{name} is {value}" for name, value in sums if value is not None and not math.isfinite(value)), "")


def fault_of(score: ChunkScore) -> str:
    """Why a chunk's sums are no measurement, or "": one that is no finite number, or an NLL that has no perplexity."""
    if odd := not_finite(score):
        return f"the sum {odd}, which is no finite number"
    if not score.nll / score.n_tokens < MOST_NLL:
        return f"the mean NLL is {score.nll / score.n_tokens:.4g} nats a token, which is no perplexity"
    return ""


def smallest_detectable(std_error: float, n_chunks: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference (unit of ``std_error``) that a two-sided test at ``alpha`` finds with ``power``.

    (t[1-alpha/2] + t[power]) · standard error with n - 1 degrees of freedom (J. Cohen; W. G. Snedecor & W. G. Cochran,
    section 6.14). inf with fewer than two chunks. Raises ValueError unless 0 < alpha < 1 and 0 < power < 1.
    """
    from scipy.special import stdtrit

    if not (0.0 < alpha < 1.0 and 0.0 < power < 1.0):
        raise ValueError(f"alpha {alpha} and power {power} must lie between 0 and 1")
    if n_chunks < 2:
        return math.inf
    return float(stdtrit(n_chunks - 1, 1.0 - alpha / 2.0) + stdtrit(n_chunks - 1, power)) * std_error


def positive(x: Interval) -> Interval:
    """The interval of a mean that can't be negative, with limits of its logarithm: estimate · exp(limit / estimate - 1).

    A limit under zero would say what can't be, and one that is cut off at zero leaves the other limit, which skewed chunks pass too often,
    as it is. Of 4 chunks that are lognormal with a deviation of 1, 11.5 % of the intervals miss the truth before and 6.8 % after; of 16 it
    is 7.5 and 5.6 (`tests/stats/test_intervals.py`). A limit of more than `MOST_TIMES` the estimate isn't known: the chunks are too few
    and too unlike. An estimate of zero keeps its limits, cut off at zero.
    """
    m = x.estimate
    if not m > 0.0:
        return replace(x, low=max(x.low, 0.0) if math.isfinite(x.low) else x.low)
    low, high = (m * _exp(v / m - 1.0) if math.isfinite(v) else v for v in (x.low, x.high))
    return replace(x, low=low, high=high if high <= MOST_TIMES * m else math.inf)


def negated(x: Interval) -> Interval:
    """The interval of the mean of the negated values."""
    return replace(x, estimate=-x.estimate, low=-x.high, high=-x.low)


def as_share(x: Interval) -> Interval:
    """The interval of a share, between 0 and 1, with limits of its log odds; a share of 0 or 1 keeps its limits, cut off there.

    Of 4 chunks with a share of about 0.98, 6.4 % of the intervals miss the truth before and 2.6 % after.
    """
    p = x.estimate
    if not 0.0 < p < 1.0:
        low, high = (min(max(v, 0.0), 1.0) if math.isfinite(v) else v for v in (x.low, x.high))
        return replace(x, low=low, high=high)

    def limit(v: float) -> float:
        if v == p or not math.isfinite(v):
            return v
        return 1.0 / (1.0 + (1.0 - p) / p * _exp((p - v) / (p * (1.0 - p))))

    return replace(x, low=limit(x.low), high=limit(x.high))


def _exp(x: float) -> float:
    return math.exp(x) if x < MOST_NLL else math.inf


def percentiles(values: npt.ArrayLike, percents: Sequence[float]) -> tuple[float, ...]:
    """Percentiles (0 to 100) of per-token ``values``, linear between order statistics (Hyndman & Fan type 7)."""
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError("no values to take a percentile of")
    return tuple(float(v) for v in np.percentile(x, list(percents)))


def quantile_interval(per_chunk: Sequence[npt.ArrayLike], percent: float, level: float = 0.95) -> Interval:
    """The ``percent`` percentile of the tokens of all chunks, with limits that know that tokens of one chunk are alike.

    ``per_chunk``: the tokens' values, one array a chunk. Woodruff's interval (R. S. Woodruff 1952, J. Am. Stat. Ass. 47, 635-646): the
    share of tokens at or below the percentile is a ratio with an interval over chunks, and the percentiles at its limits are the
    limits. ``std_error`` is half their distance in units of the quantile used. A limit is infinite where the chunks are too few to
    know it: fewer than two, or a share that reaches 0 or 1.
    Raises ValueError for no values.
    """
    from scipy.special import stdtrit

    chunks = [np.asarray(values, dtype=np.float64) for values in per_chunk]
    everything = np.concatenate(chunks) if chunks else np.zeros(0)
    (estimate,) = percentiles(everything, (percent,))
    n = len(chunks)
    if n < 2:
        return Interval(estimate, -math.inf, math.inf, math.inf, n, level)
    below = np.array([np.count_nonzero(values <= estimate) for values in chunks], dtype=np.float64)
    shares = ratio_values(below, np.array([values.size for values in chunks], dtype=np.float64))
    quantile = float(stdtrit(n - 1, (1.0 + level) / 2.0))
    reach = 100.0 * quantile * float(shares.std(ddof=1)) / math.sqrt(n)
    low = percentiles(everything, (percent - reach,))[0] if percent > reach else -math.inf
    high = percentiles(everything, (percent + reach,))[0] if percent + reach < 100.0 else math.inf
    return Interval(estimate, low, high, (high - low) / (2.0 * quantile), n, level)


def _checked(values: Floats | Sequence[float], level: float) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError("an interval needs at least one chunk")
    if not np.isfinite(x).all():
        raise ValueError("a chunk's value is not finite")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level {level} must lie between 0 and 1")
    return x
