"""From per-chunk sums to a trial's figures on a split and its difference from the base. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cerebellum.domain import ChunkScore
from cerebellum.scoring.metrics import INVERSE_TEMPERATURES
from cerebellum.stats.intervals import (
    ChunkSums,
    Interval,
    as_share,
    exp_nll,
    mean_interval,
    negated,
    paired_interval,
    percent_change,
    perplexity,
    positive,
    quantile_interval,
    ratio_values,
)
from cerebellum.stats.verdicts import Judgement, judge, practical_margin

Scores = Mapping[int, ChunkScore]


#: The percentiles of the per-token KL divergence that are kept, by name.
PERCENTILES = {"median": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(reference ‖ trial) in nats a token, and what goes with it; each figure with its interval over chunks.

    ``draw_error`` is the standard error that drawing words of the reference's rows adds to the mean (0 where its rows are complete); the
    interval over chunks holds it already. ``percentiles``: of the per-token values, by the names of
    `PERCENTILES`. ``same_top`` is the share of tokens whose most likely next token agrees; ``mean_dp`` and ``rms_dp`` the mean and the
    root mean square change of the true token's probability.
    """

    mean: Interval
    draw_error: float
    percentiles: Mapping[str, Interval]
    maximum: float
    same_top: Interval
    mean_dp: Interval
    rms_dp: Interval


@dataclass(frozen=True, slots=True)
class Summary:
    """A trial on some chunks. ``std_error`` is llama-perplexity's; ``nll`` has the interval over chunks that counts.

    ``calibrated`` is the perplexity at the trial's own best single temperature, ``temperature`` that temperature.
    """

    n_chunks: int
    n_tokens: int
    perplexity: float
    std_error: float
    nll: Interval
    calibrated: float | None
    temperature: float | None
    divergence: Divergence | None


#: Nats a token that rounding alone makes of a divergence that is none.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Contrast:
    """A trial less the base, paired by chunk, in nats a token; ``ppl`` is the log of the perplexity ratio."""

    ppl: Interval
    kld: Interval | None
    judgement: Judgement

    @property
    def percent(self) -> Interval:
        """The change of perplexity in percent."""
        return percent_change(self.ppl)


def nll_sums(scores: Scores) -> dict[int, tuple[float, int]]:
    """Chunk → (NLL sum, tokens)."""
    return {chunk: (s.nll, s.n_tokens) for chunk, s in scores.items()}


def kld_sums(scores: Scores) -> dict[int, tuple[float, int]] | None:
    """Chunk → (KL divergence sum, tokens), or None where some chunk has none."""
    if any(s.kld is None for s in scores.values()):
        return None
    return {chunk: (s.kld or 0.0, s.n_tokens) for chunk, s in scores.items()}


def mean_kld(scores: Scores) -> float:
    """Mean KL divergence, nats a token; 0 where none was measured."""
    return sum(s.kld or 0.0 for s in scores.values()) / sum(s.n_tokens for s in scores.values())


def mean_of(sums: Mapping[int, tuple[float, int]], level: float = 0.95) -> Interval:
    """The token-weighted mean over chunks with its interval."""
    totals = np.array([total for total, _ in sums.values()])
    counts = np.array([n for _, n in sums.values()], np.float64)
    return mean_interval(ratio_values(totals, counts), level)


def summarize(scores: Scores) -> Summary:
    """The figures of one trial. Raises `ValueError` where nothing was measured."""
    if not scores:
        raise ValueError("nothing was measured")
    n = sum(s.n_tokens for s in scores.values())
    value, error = perplexity(math.fsum(s.nll for s in scores.values()), math.fsum(s.nll2 for s in scores.values()), n)
    calibrated, temperature = best_temperature(scores.values())
    return Summary(
        n_chunks=len(scores),
        n_tokens=n,
        perplexity=value,
        std_error=error,
        nll=mean_of(nll_sums(scores)),
        calibrated=calibrated,
        temperature=temperature,
        divergence=_divergence(scores, n),
    )


def _divergence(scores: Scores, n: int) -> Divergence | None:
    sums = kld_sums(scores)
    if sums is None:
        return None
    tokens = [np.frombuffer(s.kld_tokens or b"", np.float32) for s in scores.values()]

    def mean(name: str) -> Interval:
        return mean_of({chunk: (getattr(s, name), s.n_tokens) for chunk, s in scores.items()})

    return Divergence(
        mean=positive(mean_of(sums)),
        draw_error=math.sqrt(math.fsum(s.kld_var or 0.0 for s in scores.values())) / n,
        percentiles={name: quantile_interval(tokens, percent) for name, percent in PERCENTILES.items()},
        maximum=max(float(values.max()) for values in tokens),
        same_top=as_share(mean("same_top")),
        mean_dp=mean("dp"),
        rms_dp=root(positive(mean("dp2"))),
    )


def root(x: Interval) -> Interval:
    """The square root of a mean of squares: the limits transformed, so their level is kept."""
    value = math.sqrt(max(x.estimate, 0.0))
    error = x.std_error / (2.0 * value) if value else 0.0
    return Interval(value, math.sqrt(max(x.low, 0.0)), math.sqrt(x.high), error, x.n_chunks, x.level)


def best_temperature(scores: Iterable[ChunkScore]) -> tuple[float | None, float | None]:
    """(perplexity, temperature) at the single temperature that fits best, by a parabola through the best grid point and its neighbours.

    The NLL is convex in the inverse temperature. None where the best lies at the grid's end: then it isn't known.
    """
    scores = list(scores)
    if any(len(s.tempered) != len(INVERSE_TEMPERATURES) for s in scores):
        return None, None
    n = sum(s.n_tokens for s in scores)
    means = np.sum([s.tempered for s in scores], axis=0) / n
    best = int(means.argmin())
    if best in (0, len(means) - 1):
        return None, None
    left, middle, right = means[best - 1 : best + 2]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    step = INVERSE_TEMPERATURES[1] - INVERSE_TEMPERATURES[0]
    lowest = middle - 0.25 * (left - right) * shift
    return exp_nll(lowest), 1.0 / (INVERSE_TEMPERATURES[best] + shift * step)


def contrast(
    trial: Scores, base: Scores, *, noise_floor: float = 0.0, significant: bool | None = None, level: float = 0.95
) -> Contrast:
    """``trial`` less ``base`` over the chunks both were measured on."""
    shared = trial.keys() & base.keys()
    trial, base = ({c: s for c, s in scores.items() if c in shared} for scores in (trial, base))
    ppl = paired_interval(nll_sums(trial), nll_sums(base), level)
    trial_kld, base_kld = kld_sums(trial), kld_sums(base)
    kld = kld_change(trial_kld, base_kld, level) if trial_kld and base_kld else None
    margin = 0.0
    if base_kld:
        margin = practical_margin(sum(t for t, _ in base_kld.values()) / sum(n for _, n in base_kld.values()))
    return Contrast(ppl, kld, judge(kld, ppl, noise_floor=noise_floor, margin=margin, significant=significant))


def kld_change(trial: ChunkSums, base: ChunkSums, level: float = 0.95) -> Interval:
    """The change of mean KL divergence. Where the base is the reference itself the change is a KL divergence, which can't be negative
    (where the trial is, it can't be positive): `positive`."""
    change = paired_interval(trial, base, level)
    if _is_reference(base):
        return positive(change)
    return negated(positive(negated(change))) if _is_reference(trial) else change


def _is_reference(sums: ChunkSums) -> bool:
    """Whether these are the divergences of the reference from itself, but for the last bits."""
    return all(abs(total) <= ROUNDING * n for total, n in sums.values())


def as_json(value: Any) -> Any:
    """Dataclasses of this module, intervals and verdicts as plain data; infinities become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, str | int | bool) or value is None:
        return value
    return str(value)
