"""Logits to per-chunk sums: NLL, KL divergence to a reference, agreement, tempered NLL. Pure; float64 where it decides.

Everything is a sum over scored tokens, in nats; nothing is divided here. Rows are taken in blocks small enough for the cache, so a
262,144-word vocabulary costs no second copy of the logits.

KL divergence is KL(reference ‖ trial) of the next-token distributions. A reference row is either complete (all logits: exact) or
its k largest logits and the log of its normalizer. Then the tokens outside the k are compared as one event, which by the log-sum
inequality can only make the value smaller (Cover & Thomas, Elements of Information Theory, 2.7.1); the slack is an upper bound on
how much smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.domain import ChunkScore

#: Raise it whenever a number computed here could change: it is part of every measurement's key.
METRIC_VERSION = 3

#: Inverse temperatures at which the NLL is summed, for the perplexity of a model at its own best temperature.
INVERSE_TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(4, 13))

#: Bounds the rounding of a sum of probabilities in float64, whose terms come from logits and their normalizer of this size at most;
#: for larger ones it grows as they do.
_ROUNDING, _ROUNDING_AT = 1e-13, 100.0

_BLOCK_VALUES = 1 << 18

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReferenceRows:
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


def log_sum_exp(logits: Floats) -> Doubles:
    """float32 [n, v] → float64 [n]: log Σ exp, computed in float64."""
    out = np.empty(len(logits), np.float64)
    for part in _blocks(len(logits), logits.shape[1]):
        wide = logits[part].astype(np.float64)
        top = wide.max(axis=1)
        wide -= top[:, None]
        out[part] = top + np.log(np.exp(wide, out=wide).sum(axis=1))
    return out


def reference_rows(logits: Floats, targets: Ids, k: int | None) -> ReferenceRows:
    """What is kept of the reference's ``logits`` [n, v]: everything (``k`` None or at least v), or the k largest of each row."""
    lse = log_sum_exp(logits)
    nll = lse - logits[np.arange(len(logits)), targets]
    top = logits.argmax(axis=1).astype(np.int64)
    if k is None or k >= logits.shape[1]:
        return ReferenceRows(logits.copy(), lse, nll, top)
    kept, ids = np.empty((len(logits), k), np.float32), np.empty((len(logits), k), np.uint32)
    for part in _blocks(len(logits), logits.shape[1]):
        kept[part], ids[part] = _largest(logits[part], k)
    return ReferenceRows(kept, lse, nll, top, ids)


def _largest(logits: Floats, k: int) -> tuple[Floats, Ids]:
    """The k largest of each row and their places [n, k], largest first."""
    ids = np.argpartition(logits, -k, axis=1)[:, -k:]
    kept = np.take_along_axis(logits, ids, axis=1)
    order = np.argsort(-kept, axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1), np.take_along_axis(ids, order, axis=1)


def score_rows(chunk: int, logits: Floats, targets: Ids, reference: ReferenceRows | None = None) -> ChunkScore:
    """Sums over ``logits`` float32 [n, v] that predict ``targets`` int64 [n]; KL fields where a ``reference`` is given."""
    n = len(targets)
    lse, tempered = np.empty(n, np.float64), np.zeros(len(INVERSE_TEMPERATURES))
    for part in _blocks(n, logits.shape[1]):
        lse[part], sums = _normalize(logits[part])
        tempered += sums
    true_logits = logits[np.arange(n), targets].astype(np.float64)
    nll = lse - true_logits
    # Σ over rows of log Σ exp(βz), less β times the true token's logit.
    tempered -= np.asarray(INVERSE_TEMPERATURES) * true_logits.sum()
    score = ChunkScore(chunk, n, float(nll.sum()), float((nll**2).sum()), tuple(map(float, tempered)))
    return score if reference is None else _with_divergence(score, logits, lse, nll, reference)


def _normalize(logits: Floats) -> tuple[Doubles, Doubles]:
    """Per-row log Σ exp in float64 [n], and Σ over rows of log Σ exp(βz) for each β [len(INVERSE_TEMPERATURES)]."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    wide -= top[:, None]
    step = np.exp(0.1 * wide).astype(np.float32)
    lse = top + np.log(np.exp(wide, out=wide).sum(axis=1))
    power, out = step * step, np.empty(len(INVERSE_TEMPERATURES))
    power *= power
    for place, beta in enumerate(INVERSE_TEMPERATURES):
        out[place] = (np.log(power.sum(axis=1, dtype=np.float64)) + beta * top).sum()
        power *= step
    return lse, out


def _with_divergence(
    score: ChunkScore, logits: Floats, lse: Doubles, nll: Doubles, reference: ReferenceRows
) -> ChunkScore:
    n, v = logits.shape
    kld, slack, top = np.empty(n, np.float64), np.zeros(n, np.float64), np.empty(n, np.int64)
    for part in _blocks(n, v):
        rows = logits[part]
        top[part] = rows.argmax(axis=1)
        kept, full = reference.logits[part].astype(np.float64), reference.lse[part, None]
        if reference.ids is None:
            log_p, log_q = kept - full, rows - lse[part, None]
            kld[part] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        else:
            ids = reference.ids[part].astype(np.int64)
            log_q = np.take_along_axis(rows, ids, axis=1) - lse[part, None]
            lowest = rows.min(axis=1) - lse[part]
            rounding = _ROUNDING * np.maximum(1.0, np.abs(lse[part]) / _ROUNDING_AT)
            kld[part], slack[part] = compact_divergence(kept - full, log_q, lowest, rounding)
    np.maximum(kld, 0.0, out=kld)
    change = np.exp(-nll) - np.exp(-reference.target_nll)
    return ChunkScore(
        **{name: getattr(score, name) for name in ("chunk", "n_tokens", "nll", "nll2", "tempered")},
        kld=float(kld.sum()),
        kld2=float((kld**2).sum()),
        kld_slack=float(slack.sum()),
        same_top=int((top == reference.top).sum()),
        dp=float(change.sum()),
        dp2=float((change**2).sum()),
        dp4=float((change**4).sum()),
        kld_tokens=kld.astype(np.float32).tobytes(),
    )


def compact_divergence(log_p: Doubles, log_q: Doubles, lowest: Doubles, rounding: Doubles) -> tuple[Doubles, Doubles]:
    """KL divergence from the k kept tokens and the rest as one event: value and slack, float64 [n] each.

    ``log_p``, ``log_q`` [n, k] are the kept tokens' log-probabilities under reference and trial, ``lowest`` [n] the trial's smallest
    log-probability of any token. With P and Q the rest's masses, the rest adds at least P log(P/Q); since each of the rest's
    reference probabilities is at most the smallest kept one (and P), it adds at most P (log min(p_k, P) − lowest). Q is a difference
    from 1, so it is taken ``rounding`` [n] larger: the value stays a lower bound where a peaked trial leaves the rest next to nothing.
    """
    p = np.exp(log_p)
    rest_p = np.maximum(1.0 - p.sum(axis=1), 0.0)
    rest_q = np.maximum(1.0 - np.exp(log_q).sum(axis=1), 0.0) + rounding
    some = rest_p > 0
    log_rest = np.log(np.where(some, rest_p, 1.0))
    least = np.where(some, rest_p * (log_rest - np.log(rest_q)), 0.0)
    most = np.where(some, rest_p * (np.minimum(log_p[:, -1], log_rest) - lowest), 0.0)
    return (p * (log_p - log_q)).sum(axis=1) + least, np.maximum(most - least, 0.0)


def _blocks(n: int, width: int) -> list[slice]:
    rows = max(1, _BLOCK_VALUES // width)
    return [slice(first, min(first + rows, n)) for first in range(0, n, rows)]
