"""The loops over a row of logits, compiled: normalizer, tempered normalizers, divergence, the largest, a draw from the rest.

Each kernel takes the rows ``first`` … ``last`` − 1 of a matrix where it lies and fills the same rows of its results; no row depends on
another, so rows may be shared among threads in any way. Sums over a whole row run in the eight lanes of `cerebellum.scoring.loops.simd`, in
parts of `_PART` values: a sum of v positive values is rounded by at most (v / `_PART` + `_PART` / 8 + 8) × 2⁻⁵³ of it, 5e-14 for 262,144.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cerebellum.scoring.loops.compiled import compiled, inlined
from cerebellum.scoring.loops.fastmath import exp, exp_tenth, least_tenth, log, power_in_tenth
from cerebellum.scoring.loops.simd import fma, half, lane, load, load_floats, prefetch, splat, store, where_less

#: `normalize` sums exp(βz) for β = 0.4, 0.5, … 1.2.
FIRST_POWER, N_POWERS = 4, 9
_PLAIN = 10 - FIRST_POWER

#: Values added up before they join a row's total.
_PART = 2048
#: Words of the rest whose probabilities are added up before one among them is looked for.
_BLOCK = 64
#: The trial's mass of the rest, a difference from one, is used where it is more than this share of the reference's.
_KNOWN = 1e-4

_ROWS, _VALUES = "Array(float32, 2, 'C', readonly=True)", "Array(float64, 1, 'C', readonly=True)"
_IDS = "Array(uint32, 2, 'C', readonly=True)"
_OUT = "float64[::1]"


@inlined
def _whole(n: int) -> int:
    return n - n % 8


@inlined
def _tail(row: Any, filling: float) -> Any:
    """The last values of a row that fill no eight lanes, and ``filling`` behind them: float32 [8]."""
    out = np.full(8, filling, np.float32)
    n = len(row) % 8
    out[:n] = row[len(row) - n :]
    return out


@inlined
def _space(n: int) -> Any:
    """float64 [n] at a multiple of 64 bytes, so that no eight of them that belong together lie in two lines of the cache."""
    space = np.empty(n + 7, np.float64)
    first = -(space.ctypes.data // 8) % 8
    return space[first : first + n]


@inlined
def _total(x: Any) -> Any:
    pairs = (lane(x, 0) + lane(x, 4)) + (lane(x, 2) + lane(x, 6)), (lane(x, 1) + lane(x, 5)) + (lane(x, 3) + lane(x, 7))
    return pairs[0] + pairs[1]


@inlined
def _smallest(x: Any) -> Any:
    a, b = min(lane(x, 0), lane(x, 4)), min(lane(x, 2), lane(x, 6))
    c, d = min(lane(x, 1), lane(x, 5)), min(lane(x, 3), lane(x, 7))
    return min(a, b, c, d)


@inlined
def _greatest(x: Any) -> Any:
    return -_smallest(splat(0.0) - x)


@inlined
def _one(x: float) -> Any:
    return lane(exp(splat(x)), 0)


@inlined
def _higher(a: Any, b: Any) -> Any:
    return where_less(a, b, b, a)


@inlined
def _lower(a: Any, b: Any) -> Any:
    return where_less(b, a, b, a)


@inlined
def _high_and_low(row: Any, start: int, end: int) -> tuple[float, float]:
    """The largest and the smallest of ``row[start:end]``: 32 values, or a multiple of that; every other sixteen apart, so that they don't
    wait for each other."""
    high = low = load_floats(row, start)
    other_high = other_low = load_floats(row, start + 16)
    for i in range(start + 32, end, 32):
        x, other = load_floats(row, i), load_floats(row, i + 16)
        high, low = _higher(high, x), _lower(low, x)
        other_high, other_low = _higher(other_high, other), _lower(other_low, other)
    high, low = _higher(high, other_high), _lower(low, other_low)
    return _greatest(_higher(half(high, 0), half(high, 1))), _smallest(_lower(half(low, 0), half(low, 1)))


@inlined
def _extremes(row: Any) -> tuple[float, float, int]:
    """The largest value, the smallest, and the place of the first that is the largest (any, where a value is NaN)."""
    n = len(row) - len(row) % 32
    top, bottom, index = -np.inf, np.inf, 0
    for start in range(0, n, _PART):
        high, low = _high_and_low(row, start, min(start + _PART, n))
        bottom = min(bottom, low)
        if high > top:
            top, index = high, start
    for i in range(n, len(row)):
        bottom = min(bottom, row[i])
        if row[i] > top:
            top, index = row[i], i
    while index < len(row) - 1 and row[index] != top:
        index += 1
    return top, bottom, index


@inlined
def _powers(sums: Any, s: Any) -> Any:
    """Adds s⁴ … s¹² to nine sums."""
    s2 = s * s
    s3, s4 = s2 * s, s2 * s2
    s8 = s4 * s4
    a, b, c, d, e, f, g, h, i = sums
    return (
        a + s4,
        fma(s4, s, b),
        fma(s4, s2, c),
        fma(s4, s3, d),
        e + s8,
        fma(s8, s, f),
        fma(s8, s2, g),
        fma(s8, s3, h),
        fma(s8, s4, i),
    )


@inlined
def _joined(a: Any, b: Any) -> Any:
    return (
        a[0] + b[0],
        a[1] + b[1],
        a[2] + b[2],
        a[3] + b[3],
        a[4] + b[4],
        a[5] + b[5],
        a[6] + b[6],
        a[7] + b[7],
        a[8] + b[8],
    )


@inlined
def _fill(space: Any, row: Any, start: int, end: int, taken: float, is_spread: bool) -> None:
    """``space`` from its beginning: exp(z / 10) / 2^``taken`` of ``row[start:end]``; ``is_spread``: some may lie below what that takes."""
    least = splat(least_tenth(taken))
    if is_spread:
        for i in range(start, end, 8):
            store(space, i - start, exp_tenth(_higher(load(row, i), least), taken))
    else:
        for i in range(start, end, 8):
            store(space, i - start, exp_tenth(load(row, i), taken))


@inlined
def _row_powers(row: Any, lowest: float, taken: float, sums: Any, space: Any) -> None:
    """Fills ``sums`` [`N_POWERS`] with Σ (exp(z / 10) / 2^``taken``)^(10 β). ``space`` [`_PART`] holds exponentials, in a loop of their
    own: what a loop has to remember is little then, and many rounds of it are under way at once. The next row is fetched meanwhile."""
    zero = splat(0.0)
    none = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    total, n, is_spread = none, _whole(len(row)), lowest < least_tenth(taken)
    for start in range(0, n, _PART):
        partial, end = none, min(start + _PART, n)
        _fill(space, row, start, end, taken, is_spread)
        for i in range(0, end - start, 8):
            prefetch(row, len(row) + start + i)
            partial = _powers(partial, load(space, i))
        total = _joined(total, partial)
    if n < len(row):
        rest = _higher(load(_tail(row, -np.inf), 0), splat(least_tenth(taken)))
        total = _powers(total, exp_tenth(rest, taken))
    for i, each in enumerate(total):
        sums[i] = _total(each)


@compiled(f"void({_ROWS}, int64, int64, {_OUT}, float64[:, ::1], int64[::1], {_OUT})")
def normalize(logits: Any, first: int, last: int, lse: Any, tempered: Any, top: Any, lowest: Any) -> None:
    """float32 [n, v] → log Σ exp(z) [n]; log Σ exp(βz) [n, `N_POWERS`]; place of the first largest [n]; smallest logit [n]."""
    sums, space = np.empty(N_POWERS, np.float64), _space(_PART)
    for r in range(first, last):
        row = logits[r]
        high, lowest[r], top[r] = _extremes(row)
        taken = power_in_tenth(high)
        _row_powers(row, lowest[r], taken, sums, space)
        for i in range(N_POWERS):
            tempered[r, i] = log(sums[i], (FIRST_POWER + i) * taken)
        lse[r] = tempered[r, _PLAIN]


@inlined
def _term(p: Any, log_p: Any, log_q: Any) -> Any:
    """p log(p/q) in lanes, nothing where p is nothing."""
    return where_less(splat(0.0), p, p * (log_p - log_q), p)


@inlined
def _divergence(reference: Any, trial: Any, lse_a: float, lse_b: float) -> Any:
    """Σ p log(p/q) over two rows of all tokens."""
    a, b, n = splat(lse_a), splat(lse_b), _whole(len(trial))
    total = splat(0.0)
    for start in range(0, n, _PART):
        partial = splat(0.0)
        for i in range(start, min(start + _PART, n), 8):
            log_p = load(reference, i) - a
            partial = partial + _term(exp(log_p), log_p, load(trial, i) - b)
        total = total + partial
    if n < len(trial):
        log_p = load(_tail(reference, -np.inf), 0) - a
        total = total + _term(exp(log_p), log_p, load(_tail(trial, 0.0), 0) - b)
    return _total(total)


@compiled(f"void({_ROWS}, int64, int64, {_VALUES}, {_ROWS}, {_VALUES}, {_OUT})")
def complete(logits: Any, first: int, last: int, lse: Any, reference: Any, reference_lse: Any, kld: Any) -> None:
    """KL(reference ‖ trial) [n] from all logits of both, float32 [n, v], and their normalizers."""
    for r in range(first, last):
        kld[r] = _divergence(reference[r], logits[r], reference_lse[r], lse[r])


@inlined
def _kept_terms(log_p: Any, log_q: Any) -> Any:
    p = exp(log_p)
    return _term(p, log_p, log_q), p, exp(log_q)


@inlined
def _added(a: Any, b: Any) -> Any:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@inlined
def _kept_sums(reference: Any, trial: Any, lse_a: float, lse_b: float) -> Any:
    """Σ p log(p/q), Σ p, Σ q over a row of kept tokens; ``trial`` is filled up with -inf to a multiple of eight."""
    a, b, n = splat(lse_a), splat(lse_b), _whole(len(reference))
    none = splat(0.0), splat(0.0), splat(0.0)
    total = none
    for start in range(0, n, _PART):
        partial = none
        for i in range(start, min(start + _PART, n), 8):
            partial = _added(partial, _kept_terms(load(reference, i) - a, load(trial, i) - b))
        total = _added(total, partial)
    if n < len(reference):
        total = _added(total, _kept_terms(load(_tail(reference, -np.inf), 0) - a, load(trial, n) - b))
    return _total(total[0]), _total(total[1]), _total(total[2])


@inlined
def _coefficient(reference: Any, trial: Any, lse_a: float, lse_b: float) -> float:
    """s² / (exp(s²) − 1) of the variance s² of log(p/q) over the largest words: the best weight of a control q/p − 1 for log(p/q) where
    q/p is log-normal (minus their covariance by the control's variance). 1 where the two rows agree, 0 where nothing is finite."""
    n, mean, variance = 0, 0.0, 0.0
    for i in range(len(reference)):
        if reference[i] > -np.inf:
            mean += (reference[i] - lse_a) - (trial[i] - lse_b)
            n += 1
    mean /= max(n, 1)
    for i in range(len(reference)):
        if reference[i] > -np.inf:
            away = (reference[i] - lse_a) - (trial[i] - lse_b) - mean
            variance += away * away
    variance /= max(n, 1)
    if variance < 1e-4:
        return 1.0 / (1.0 + variance / 2 + variance * variance / 6)
    return float(variance / (_one(variance) - 1.0)) if variance < 700 else 0.0


@inlined
def _drawn_mean(
    reference: Any, trial: Any, lse_a: float, lse_b: float, space: Any, control: Any
) -> tuple[float, float]:
    """Mean over m drawn words of log(p/q) + c (f q/p − 1) and that mean's variance; ``control`` is (c, f). ``reference`` and ``trial``
    are filled up to a multiple of eight, ``space`` [2, that] holds log(p/q) and q/p."""
    m = len(reference)
    a, b = splat(lse_a), splat(lse_b)
    for i in range(0, len(trial), 8):
        rest = load(reference, i) if i + 8 <= m else load(_tail(reference, 0.0), 0)
        ratio = (rest - a) - (load(trial, i) - b)
        store(space[0], i, ratio)
        store(space[1], i, exp(splat(0.0) - ratio))
    weight, factor = control
    mean = 0.0
    for i in range(m):
        space[0, i] += weight * (factor * space[1, i] - 1.0) if weight > 0.0 else 0.0
        mean += space[0, i]
    mean /= m
    squares = 0.0
    for i in range(m):
        squares += (space[0, i] - mean) ** 2
    return mean, squares / (m * max(m - 1, 1))


@compiled(f"void({_ROWS}, int64, int64, {_VALUES}, {_ROWS}, {_IDS}, {_VALUES}, int64, float64[:, ::1])")
def compact(
    logits: Any, first: int, last: int, lse: Any, reference: Any, ids: Any, reference_lse: Any, drawn: int, out: Any
) -> None:
    """KL(reference ‖ trial) and the variance that drawing adds to it: float64 [n, 2]. ``reference``, ``ids`` [n, k]: the logits and tokens
    that are kept; the last ``drawn`` of them stand for all that are not among the first, see `cerebellum.scoring.metrics`."""
    k = ids.shape[1] - drawn
    of_trial, of_drawn = np.full(k + -k % 8, -np.inf, np.float32), np.zeros(drawn + -drawn % 8, np.float32)
    space = np.empty((2, len(of_drawn)), np.float64)
    for r in range(first, last):
        row, places, a, b = logits[r], ids[r], reference_lse[r], lse[r]
        for i in range(k):
            of_trial[i] = row[places[i]]
        for i in range(drawn):
            of_drawn[i] = row[places[k + i]]
        kept = reference[r, :k]
        known, p, q = _kept_sums(kept, of_trial, a, b)
        rest_p, rest_q = 1.0 - p, 1.0 - q
        out[r, 0], out[r, 1] = known, 0.0
        if rest_p > 0.0:
            weight = _coefficient(kept, of_trial, a, b) if rest_q > _KNOWN * rest_p else 0.0
            factor = rest_p / rest_q if weight > 0.0 else 0.0
            mean, variance = _drawn_mean(reference[r, k:], of_drawn, a, b, space, (weight, factor))
            out[r, 0], out[r, 1] = known + rest_p * mean, rest_p * rest_p * variance


@compiled("void(float64[::1], float64[::1])")
def exponentials(x: Any, out: Any) -> None:
    """exp(x) [n]; x ≤ 700."""
    for i in range(len(x)):
        out[i] = _one(x[i])


@compiled("void(float64[::1], float64[::1])")
def logarithms(x: Any, out: Any) -> None:
    """log(x) [n] of positive normal values."""
    for i in range(len(x)):
        out[i] = log(x[i])


@inlined
def _comes_after(values: Any, places: Any, a: int, b: int) -> bool:
    """Whether entry a comes after entry b: smaller, or equal and of a later place."""
    return bool(values[a] < values[b] or (values[a] == values[b] and places[a] > places[b]))


@inlined
def _sink(values: Any, places: Any, root: int, n: int) -> None:
    """Restore the heap (the entry that comes last is its root) after the root has changed."""
    while True:
        child = 2 * root + 1
        if child >= n:
            return
        if child + 1 < n and _comes_after(values, places, child + 1, child):
            child += 1
        if not _comes_after(values, places, child, root):
            return
        values[child], values[root] = values[root], values[child]
        places[child], places[root] = places[root], places[child]
        root = child


@compiled(f"void({_ROWS}, int64, int64, int64, float32[:, ::1], uint32[:, ::1])")
def largest(logits: Any, first: int, last: int, k: int, kept: Any, ids: Any) -> None:
    """The k largest of each row with their places into the first k columns of ``kept`` and ``ids``: largest first, of equals the earlier; a
    heap of the best so far."""
    for r in range(first, last):
        row, values, places = logits[r], kept[r, :k], ids[r, :k]
        values[:], places[:] = row[:k], np.arange(k)
        for root in range(k // 2 - 1, -1, -1):
            _sink(values, places, root, k)
        for i in range(k, len(row)):
            if row[i] > values[0]:
                values[0], places[0] = row[i], i
                _sink(values, places, 0, k)
        for n in range(k - 1, 0, -1):
            values[0], values[n] = values[n], values[0]
            places[0], places[n] = places[n], places[0]
            _sink(values, places, 0, n)


@inlined
def _rest_of(row: Any, lse: float, ids: Any, space: Any) -> float:
    """Fills ``space`` with the probabilities of a row's words, zero for those of ``ids`` and behind the last; their sum, block by block."""
    n, away = _whole(len(row)), splat(lse)
    for i in range(0, n, 8):
        store(space, i, exp(load(row, i) - away))
    if n < len(row):
        store(space, n, exp(load(_tail(row, -np.inf), 0) - away))
    for i in ids:
        space[i] = 0.0
    total = 0.0
    for start in range(0, len(space), _BLOCK):
        total += _block(space, start)
    return total


@inlined
def _block(space: Any, start: int) -> float:
    total = splat(0.0)
    for i in range(start, start + _BLOCK, 8):
        total = total + load(space, i)
    return float(_total(total))


@inlined
def _draw(space: Any, step: float, offset: float, places: Any) -> None:
    """Fills ``places`` with the words under the marks (``offset`` + j) ``step`` on the line of all probabilities laid end to end."""
    j, m, before, last = 0, len(places), 0.0, -1
    for start in range(0, len(space), _BLOCK):
        after = before + _block(space, start)
        if j < m and (offset + j) * step < after:
            here = before
            for i in range(start, start + _BLOCK):
                if space[i] > 0.0:
                    here, last = here + space[i], i
                    while j < m and (offset + j) * step < here:
                        places[j] = i
                        j += 1
            while j < m and (offset + j) * step < after:
                places[j] = last
                j += 1
        before = after
    for i in range(j, m):
        if last >= 0:
            places[i] = last


@compiled(f"void({_ROWS}, int64, int64, {_VALUES}, {_VALUES}, int64, float32[:, ::1], uint32[:, ::1])")
def draw(logits: Any, first: int, last: int, lse: Any, offsets: Any, drawn: int, kept: Any, ids: Any) -> None:
    """Fills the last ``drawn`` columns of ``kept`` and ``ids`` [n, k] with words drawn from all but those of the first columns, in
    proportion to their probability: systematic sampling (Madow 1949) with one offset in [0, 1) a row. In the order of the vocabulary."""
    k, v = ids.shape[1] - drawn, logits.shape[1]
    space = _space(v + -v % _BLOCK)
    space[:] = 0.0
    for r in range(first, last):
        row, places = logits[r], ids[r, k:]
        total = _rest_of(row, lse[r], ids[r, :k], space)
        places[:] = ids[r, 0]  # where there is no rest
        if total > 0.0:
            _draw(space, total / drawn, offsets[r], places)
        for i in range(drawn):
            kept[r, k + i] = row[places[i]]
