"""Logits to per-chunk sums: NLL, KL divergence to a reference, agreement, tempered NLL. Pure; in float64.

Everything is a sum over scored tokens, in nats; nothing is divided here. Compiled loops (`cerebellum.scoring.loops.kernels`) read
the logits where they lie and give figures of each row;
rows may be shared among the threads of a pool. The sums over rows are exact but for one
rounding (`math.fsum`), so neither threads nor the order of rows change a bit.

KL divergence is KL(reference ‖ trial) of the next-token distributions. A reference row is either complete (all logits: exact) or
its k largest logits and the log of its normalizer. Then the tokens outside the k are compared as one event, which by the log-sum
inequality can only make the value smaller (Cover & Thomas, Elements of Information Theory, 2.7.1); the slack is an upper bound on
how much smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import ByValue, ChunkScore
from cerebellum.parallel import ALONE, Threads

#: Raise it whenever a number computed here could change: it is part of the key of every measurement and of every answer.
METRIC_VERSION = 7

#: Inverse temperatures at which the NLL is summed, for the perplexity of a model at its own best temperature.
INVERSE_TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(4, 13))

#: Bounds the rounding of a sum of probabilities in float64, whose terms come from logits and their normalizer of this size at most;
#: for larger ones it grows as they do.
_ROUNDING, _ROUNDING_AT = 1e-13, 100.0

#: The fewest values handed to a thread at once: far more work than the handing over, and little enough that threads end together.
_PIECE = 1 << 16
#: What a kept token of a compact reference costs, in values of a whole row: two exponentials, and a read from anywhere in the row.
_KEPT_TOKEN = 8

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRows(ByValue):
    """The reference's view of the scored tokens of one chunk.

    ``lse`` float64 [n]: log of the sum of exponentials of each full row. Complete: ``logits`` float32 [n, vocabulary] and ``ids`` is
    None. Compact: ``logits`` float32 [n, k] are the k largest and ``ids`` uint32 [n, k] their tokens, largest first. ``target_nll``
    float64 [n] is the reference's NLL of the true token; ``top`` int64 [n] its most likely token.
    """

    logits: Floats
    lse: Doubles
    target_nll: Doubles
    top: Ids
    ids: npt.NDArray[np.uint32] | None = None

    @property
    def n_bytes(self) -> int:
        """What the rows take in memory."""
        arrays = (self.logits, self.lse, self.target_nll, self.top, self.ids)
        return sum(array.nbytes for array in arrays if array is not None)


def _over_rows(threads: Threads, kernel: Callable[..., None], work: int, logits: Floats, *others: Any) -> None:
    """``kernel(logits, first, last + 1, *others)`` for all rows; ``work``: how many values a row's work is: whether it is worth sharing."""
    threads.run(lambda first, last: kernel(logits, first, last, *others), len(logits), least=_PIECE // max(1, work))


@dataclass(frozen=True, slots=True, eq=False)
class _Normalized:
    """Of each row: log Σ exp(z) [n]; log Σ exp(βz) [n, `INVERSE_TEMPERATURES`]; the most likely token [n]; the smallest logit [n]."""

    lse: Doubles
    tempered: Doubles
    top: Ids
    lowest: Doubles


def _normalized(logits: Floats, threads: Threads) -> _Normalized:
    from cerebellum.scoring.loops import kernels  # numba is loaded where something is to be computed

    n = len(logits)
    out = _Normalized(
        np.empty(n), np.empty((n, len(INVERSE_TEMPERATURES))), np.empty(n, np.int64), np.empty(n, np.float64)
    )
    _over_rows(threads, kernels.normalize, logits.shape[1], logits, out.lse, out.tempered, out.top, out.lowest)
    return out


def log_sum_exp(logits: Floats, threads: Threads = ALONE) -> Doubles:
    """float32 [n, v] → float64 [n]: log Σ exp, computed in float64."""
    return _normalized(np.ascontiguousarray(logits), threads).lse


def reference_rows(logits: Floats, targets: Ids, k: int | None, threads: Threads = ALONE) -> ReferenceRows:
    """What is kept of the reference's ``logits`` [n, v]: everything (``k`` None or at least v), or the k largest of each row.

    Of equal logits those of earlier tokens are kept, and come first. Raises `ValueError` for a ``k`` below 1.
    """
    from cerebellum.scoring.loops import kernels

    if k is not None and k < 1:
        raise ValueError(f"of each row of the reference at least one logit is kept, not {k}")
    logits = np.ascontiguousarray(logits)
    rows = _normalized(logits, threads)
    nll = rows.lse - logits[np.arange(len(logits)), targets]
    if k is None or k >= logits.shape[1]:
        return ReferenceRows(logits.copy(), rows.lse, nll, rows.top)
    kept, ids = np.empty((len(logits), k), np.float32), np.empty((len(logits), k), np.uint32)
    _over_rows(threads, kernels.largest, logits.shape[1], logits, kept, ids)
    return ReferenceRows(kept, rows.lse, nll, rows.top, ids)


def score_rows(
    chunk: int, logits: Floats, targets: Ids, reference: ReferenceRows | None = None, threads: Threads = ALONE
) -> ChunkScore:
    """Sums over ``logits`` float32 [n, v] that predict ``targets`` int64 [n]; KL fields where a ``reference`` is given."""
    logits = np.ascontiguousarray(logits)
    n = len(targets)
    rows = _normalized(logits, threads)
    true_logits = logits[np.arange(n), targets].astype(np.float64)
    nll = rows.lse - true_logits
    # log Σ exp(βz) less β times the true token's logit.
    tempered = rows.tempered - np.multiply.outer(true_logits, np.asarray(INVERSE_TEMPERATURES))
    plain = ChunkScore(chunk, n, _sum(nll), _sum(nll**2), tuple(_sum(column) for column in tempered.T))
    return plain if reference is None else _with_divergence(plain, logits, rows, nll, reference, threads)


def _with_divergence(
    plain: ChunkScore,
    logits: Floats,
    rows: _Normalized,
    nll: Doubles,
    reference: ReferenceRows,
    threads: Threads,
) -> ChunkScore:
    kld, slack = _divergence(logits, rows, reference, threads)
    change = _exp(-nll) - _exp(-reference.target_nll)
    squares = change**2
    return replace(
        plain,
        kld=_sum(kld),
        kld2=_sum(kld**2),
        kld_slack=_sum(slack),
        same_top=int((rows.top == reference.top).sum()),
        dp=_sum(change),
        dp2=_sum(squares),
        dp4=_sum(squares**2),
        kld_tokens=kld.astype(np.float32).tobytes(),
    )


def _divergence(
    logits: Floats, rows: _Normalized, reference: ReferenceRows, threads: Threads
) -> tuple[Doubles, Doubles]:
    """KL divergence and slack of each row [n]."""
    from cerebellum.scoring.loops import kernels

    n = len(logits)
    kept = np.ascontiguousarray(reference.logits)
    _check_shapes(logits, reference)
    if reference.ids is None:
        kld = np.empty(n, np.float64)
        _over_rows(threads, kernels.complete, logits.shape[1], logits, rows.lse, kept, reference.lse, kld)
        return np.maximum(kld, 0.0), np.zeros(n)
    sums = np.empty((n, 3), np.float64)
    _over_rows(
        threads,
        kernels.compact,
        _KEPT_TOKEN * kept.shape[1],
        logits,
        rows.lse,
        kept,
        np.ascontiguousarray(reference.ids),
        reference.lse,
        sums,
    )
    rounding = _ROUNDING * np.maximum(1.0, np.abs(rows.lse) / _ROUNDING_AT)
    smallest = kept[:, -1].astype(np.float64) - reference.lse
    least, most = the_rest(1.0 - sums[:, 1], 1.0 - sums[:, 2], smallest, rows.lowest - rows.lse, rounding)
    return np.maximum(sums[:, 0] + least, 0.0), np.maximum(most - least, 0.0)


def _check_shapes(logits: Floats, reference: ReferenceRows) -> None:
    """Kernels check no bounds. Raises `ValueError` where the reference is of other rows or of another vocabulary."""
    n, v = logits.shape
    ids = reference.ids
    kept = (n, v) if ids is None else (n, ids.shape[-1])
    same = reference.logits.shape == kept and reference.lse.shape == (n,) and (ids is None or ids.shape == kept)
    if not same or (ids is not None and ids.size and int(ids.max()) >= v):
        raise ValueError(f"the reference's rows are not of the {n} rows of {v} logits that they are compared with")


def the_rest(
    rest_p: Doubles, rest_q: Doubles, smallest: Doubles, lowest: Doubles, rounding: Doubles
) -> tuple[Doubles, Doubles]:
    """What the tokens outside the k kept ones add to KL divergence, at least and at most: float64 [n] each.

    ``rest_p``, ``rest_q`` [n] are the rest's masses P and Q under reference and trial, ``smallest`` [n] the reference's smallest kept
    log-probability p_k, ``lowest`` [n] the trial's smallest log-probability of any token. The rest adds at least P log(P/Q); since each of
    the rest's reference probabilities is at most the smallest kept one (and P), it adds at most P (log min(p_k, P) − lowest). Q is a
    difference from 1, so it is taken ``rounding`` [n] larger: the value stays a lower bound where a peaked trial leaves the rest next
    to nothing. Where even the smallest kept one is impossible there is no rest, whatever rounding has left of P.
    """
    some = (rest_p > 0) & (smallest != -np.inf)
    mass = np.where(some, rest_p, 1.0)
    log_rest = _log(mass)
    least = np.where(some, mass * (log_rest - _log(np.maximum(rest_q, 0.0) + rounding)), 0.0)
    highest = np.where(some, np.minimum(smallest, log_rest), 0.0)
    most = np.where(some, mass * (highest - lowest), 0.0)
    return least, most


def _sum(values: Doubles) -> float:
    """NaN where a value is no finite number: `math.fsum` would raise for infinities of both signs."""
    return math.fsum(values.tolist()) if np.isfinite(values).all() else math.nan


def _exp(x: Doubles) -> Doubles:
    from cerebellum.scoring.loops import kernels

    out = np.empty_like(x)
    kernels.exponentials(x, out)
    return out


def _log(x: Doubles) -> Doubles:
    from cerebellum.scoring.loops import kernels

    out = np.empty_like(x)
    kernels.logarithms(x, out)
    return out
