"""Logits to per-chunk sums: NLL, KL divergence to a reference, agreement, tempered NLL. Pure; in float64.

Everything is a sum over scored tokens, in nats; nothing is divided here. Compiled loops (`cerebellum.scoring.loops.kernels`) read the
logits in place and give figures of each row, shared among threads. The sums over rows have one rounding (`math.fsum`), so neither threads
nor the order of rows change a bit.

KL divergence is KL(reference ‖ trial) of the next-token distributions, D = Σ p log(p/q). A reference row is either complete (all logits:
exact) or k words: the larger half of them are its most likely words, the others are drawn from the rest in proportion to p (systematic
sampling, see `kernels.draw`). With P and Q the rest's masses under reference and trial, both known exactly from the words that are kept
for sure and the two normalizers, the rest's share of D is estimated without bias by P times the mean, over the m words drawn, of

    log(p/q) + c (q/p · P/Q − 1),   whose second term has the mean 0 whatever c (a control variate).

c is computed from the words that are always kept, so it does not depend on the draw. Where the two distributions are close, nearly all of
log(p/q) is noise of the first order, and the control variate removes it. The draw's variance is estimated as that of m independent draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import ByValue, ChunkScore, Tokens
from cerebellum.parallel import ALONE, Threads

#: Raise it whenever a number computed here could change: it is part of the key of every measurement and of every answer.
METRIC_VERSION = 8

#: Inverse temperatures at which the NLL is summed, for the perplexity of a model at its own best temperature.
INVERSE_TEMPERATURES = tuple(round(0.1 * step, 1) for step in range(4, 13))

#: Which words are drawn for a text; raise it with `METRIC_VERSION`.
DRAW_VERSION = 1
#: The largest code of a row at 16 bits, and how many rows are decoded at a time.
_CODES, _DECODED = 65_535, 4
#: A value of a row that lies less than this below zero is zero but for rounding.
_ROUNDING = 1e-10

#: The fewest values handed to a thread at once: far more work than the handing over, and little enough that threads end together.
_PIECE = 1 << 16
#: What a kept token of a compact reference costs, in values of a whole row: two exponentials, and a read from anywhere in the row.
_KEPT_TOKEN = 8

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRows(ByValue):
    """The reference's view of the scored tokens of one chunk.

    ``lse`` float64 [n]: log of the sum of exponentials of each full row. Complete: ``logits`` float32 [n, vocabulary] and ``ids`` is
    None. Compact: ``logits`` float32 [n, k] and ``ids`` uint32 [n, k] are k words: the row's largest, largest first, and then ``drawn``
    that are drawn from all others. Coded: ``logits`` uint16 [n, vocabulary] and ``scale`` float32 [n, 2], see `coded_rows`.
    ``target_nll`` float64 [n] is the reference's NLL of the true token;
    ``top`` int64 [n] its most likely token.
    """

    logits: Floats | Codes
    lse: Doubles
    target_nll: Doubles
    top: Ids
    ids: npt.NDArray[np.uint32] | None = None
    drawn: int = 0
    scale: Floats | None = None

    @property
    def n_bytes(self) -> int:
        """What the rows take in memory."""
        arrays = (self.logits, self.lse, self.target_nll, self.top, self.ids, self.scale)
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


def draw_offsets(tokens: Tokens) -> Doubles:
    """A uniform number in [0, 1) for each position of a chunk, float64 [n]: it decides which words are drawn there. Of the tokens, the
    position and `DRAW_VERSION` alone, so they are the same for whatever is measured."""
    seed = hashlib.sha256(b"draw %d " % DRAW_VERSION + np.ascontiguousarray(tokens, "<i4").tobytes()).digest()
    bits = np.random.Philox(key=int.from_bytes(seed[:16], "little")).random_raw(len(tokens))
    return (np.asarray(bits, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def reference_rows(
    logits: Floats, targets: Ids, k: int | None, threads: Threads = ALONE, offsets: Doubles | None = None
) -> ReferenceRows:
    """What is kept of the reference's ``logits`` [n, v]: everything (``k`` None or at least v), or k words of each row, half of them drawn.

    ``offsets`` float64 [n]: see `draw_offsets`; by default those of the targets. Of equal logits those of earlier tokens are kept, and come
    first. Raises `ValueError` for a ``k`` below 2.
    """
    from cerebellum.scoring.loops import kernels

    if k is not None and k < 2:
        raise ValueError(f"of each row of the reference at least two words are kept, not {k}")
    logits = np.ascontiguousarray(logits)
    rows = _normalized(logits, threads)
    nll = rows.lse - logits[np.arange(len(logits)), targets]
    if k is None or k >= logits.shape[1]:
        return ReferenceRows(logits.copy(), rows.lse, nll, rows.top)
    drawn = k // 2
    if offsets is None:
        offsets = draw_offsets(targets.astype(np.int32))
    kept, ids = np.empty((len(logits), k), np.float32), np.empty((len(logits), k), np.uint32)
    _over_rows(threads, kernels.largest, logits.shape[1], logits, k - drawn, kept, ids)
    _over_rows(threads, kernels.draw, logits.shape[1], logits, rows.lse, offsets, drawn, kept, ids)
    return ReferenceRows(kept, rows.lse, nll, rows.top, ids, drawn)


def coded_rows(logits: Floats, targets: Ids, threads: Threads = ALONE) -> ReferenceRows:
    """All words of ``logits`` [n, v] at 16 bits: each row's range, however wide, in 65,534 equal steps; code 0 is a logit of -inf. The
    normalizers are those of the rows as they come back, so that these are distributions: of a row 40 wide a logit is 3e-4 away at most,
    to either side: a token's KL divergence is some 1e-5 nats away, the mean over a text far less."""
    logits = np.ascontiguousarray(logits)
    rows, n = _normalized(logits, threads), len(logits)
    codes, scale, lse = np.empty(logits.shape, np.uint16), np.empty((n, 2), np.float32), np.empty(n)

    def code(first: int, last: int) -> None:
        for r in range(first, last):
            finite = np.isfinite(logits[r])
            low, high = (logits[r][finite].min(), logits[r][finite].max()) if finite.any() else (0.0, 0.0)
            scale[r] = low, (float(high) - float(low)) / (_CODES - 1)
            steps = np.where(finite, (logits[r] - np.float64(low)) / (scale[r, 1] or 1.0), -1.0)
            codes[r] = np.minimum(np.rint(steps) + 1, _CODES).astype(np.uint16)
            lse[r] = log_sum_exp(_decoded(codes[r : r + 1], scale[r : r + 1]))[0]

    threads.run(code, n, least=_PIECE // max(1, logits.shape[1]))
    broken = ~np.isfinite(rows.lse)
    lse[broken] = rows.lse[broken]
    nll = rows.lse - logits[np.arange(n), targets]
    return ReferenceRows(codes, lse, nll, rows.top, scale=scale)


def _decoded(codes: Codes, scale: Floats) -> Floats:
    """uint16 [n, v] → float32 [n, v]."""
    out = (codes.astype(np.float32) - np.float32(1)) * scale[:, 1:] + scale[:, :1]
    out[codes == 0] = -np.inf
    return out


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
    kld, variance = _divergence(logits, rows, reference, threads)
    change = _exp(-nll) - _exp(-reference.target_nll)
    squares = change**2
    return replace(
        plain,
        kld=_sum(kld),
        kld2=_sum(kld**2),
        kld_var=_sum(variance),
        same_top=int((rows.top == reference.top).sum()),
        dp=_sum(change),
        dp2=_sum(squares),
        dp4=_sum(squares**2),
        kld_tokens=kld.astype(np.float32).tobytes(),
    )


def _divergence(
    logits: Floats, rows: _Normalized, reference: ReferenceRows, threads: Threads
) -> tuple[Doubles, Doubles]:
    """KL divergence of each row [n], and the variance that drawing words adds to it."""
    from cerebellum.scoring.loops import kernels

    n = len(logits)
    kept: Any = np.ascontiguousarray(reference.logits)
    _check_shapes(logits, reference)
    if reference.ids is None:
        kld = np.empty(n, np.float64)
        kernel = kernels.complete if reference.scale is None else _coded_kernel(reference.scale)
        _over_rows(threads, kernel, logits.shape[1], logits, rows.lse, kept, reference.lse, kld)
        return np.maximum(kld, 0.0), np.zeros(n)
    out = np.empty((n, 2), np.float64)
    ids, work = np.ascontiguousarray(reference.ids), _KEPT_TOKEN * kept.shape[1]
    _over_rows(threads, kernels.compact, work, logits, rows.lse, kept, ids, reference.lse, reference.drawn, out)
    kld, variance = out.T
    return np.where(np.abs(kld) < _ROUNDING, np.maximum(kld, 0.0), kld), variance


def _coded_kernel(scale: Floats) -> Callable[..., None]:
    """`kernels.complete` for a reference of codes, a few rows of which are decoded at a time."""
    from cerebellum.scoring.loops import kernels

    def complete(
        logits: Floats, first: int, last: int, lse: Doubles, codes: Codes, own_lse: Doubles, kld: Doubles
    ) -> None:
        for start in range(first, last, _DECODED):
            decoded = slice(start, min(last, start + _DECODED))
            rows = _decoded(codes[decoded], scale[decoded])
            kernels.complete(logits[decoded], 0, len(rows), lse[decoded], rows, own_lse[decoded], kld[decoded])

    return complete


def _check_shapes(logits: Floats, reference: ReferenceRows) -> None:
    """Kernels check no bounds. Raises `ValueError` where the reference is of other rows or of another vocabulary."""
    n, v = logits.shape
    ids = reference.ids
    kept = (n, v) if ids is None else (n, ids.shape[-1])
    same = reference.logits.shape == kept and reference.lse.shape == (n,) and (ids is None or ids.shape == kept)
    same = same and (ids is None or 0 < reference.drawn < kept[1])
    if not same or (ids is not None and ids.size and int(ids.max()) >= v):
        raise ValueError(f"the reference's rows are not of the {n} rows of {v} logits that they are compared with")


def _sum(values: Doubles) -> float:
    """Exact but for one rounding. Infinite where a value is, NaN where one is or infinities of both signs meet."""
    return math.fsum(values.tolist()) if np.isfinite(values).all() else float(values.sum())


def _exp(x: Doubles) -> Doubles:
    from cerebellum.scoring.loops import kernels

    out = np.empty_like(x)
    kernels.exponentials(x, out)
    return out
