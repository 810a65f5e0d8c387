"""Exponential and logarithm for compiled functions, from additions, multiplications and fused multiply-adds alone.

No library function is called, so their bits depend on no libm. The exponential takes eight values at a time. Method: range reduction by
multiples of log 2 in two pieces (Cody & Waite 1980; with fused multiply-add as in Muller, Handbook of Floating-Point Arithmetic, ch. 10)
and the Taylor polynomial of degree 13 on |r| ≤ log(2)/2, whose remainder is below 5e-18 of the value.
"""

from __future__ import annotations

import math
from typing import Any

from cerebellum.compiled import inlined
from cerebellum.lanes import fma, splat, times_power_of_two, where_less

#: 1.5 × 2^52: added to a number, rounds it to an integer and leaves that in the last bits.
_TO_INTEGER = 6755399441055744.0

# log 2 and 10 log 2 as the nearest float64 and the nearest to what is then missing.
_LOG2_HIGH, _LOG2_LOW = float.fromhex("0x1.62e42fefa39efp-1"), float.fromhex("0x1.abc9e3b39803fp-56")
_TEN_LOG2_HIGH, _TEN_LOG2_LOW = float.fromhex("0x1.bb9d3beb8c86bp+2"), float.fromhex("0x1.6bc5ca07e04f0p-57")
# log 2 with its first 32 bits alone, so that small multiples of it are exact, and the rest.
_LOG2_SHORT, _LOG2_REST = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_PER_LOG2, _TENTH_PER_LOG2 = 1.0 / _LOG2_HIGH, 1.0 / _TEN_LOG2_HIGH

_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (1.0 / math.factorial(n) for n in range(2, 14))
_ROOT_HALF = math.sqrt(0.5)

#: Below these the functions give exactly zero.
LEAST, LEAST_TENTH = -700.0, -590.0


@inlined
def _scaled(r: Any, power: Any) -> Any:
    """exp(r) × 2^power for |r| ≤ log(2)/2."""
    sum_ = fma(splat(_C13), r, splat(_C12))
    sum_ = fma(sum_, r, splat(_C11))
    sum_ = fma(sum_, r, splat(_C10))
    sum_ = fma(sum_, r, splat(_C9))
    sum_ = fma(sum_, r, splat(_C8))
    sum_ = fma(sum_, r, splat(_C7))
    sum_ = fma(sum_, r, splat(_C6))
    sum_ = fma(sum_, r, splat(_C5))
    sum_ = fma(sum_, r, splat(_C4))
    sum_ = fma(sum_, r, splat(_C3))
    sum_ = fma(sum_, r, splat(_C2))
    sum_ = fma(sum_, r, splat(1.0))
    sum_ = fma(sum_, r, splat(1.0))
    return times_power_of_two(sum_, power)


@inlined
def exp(x: Any) -> Any:
    """Lanes → their exponentials, within 1 ulp; zero below `LEAST`. For x ≤ 700."""
    power = fma(x, splat(_PER_LOG2), splat(_TO_INTEGER))
    k = power - splat(_TO_INTEGER)
    r = fma(k, splat(-_LOG2_LOW), fma(k, splat(-_LOG2_HIGH), x))
    return where_less(x, splat(LEAST), splat(0.0), _scaled(r, power))


@inlined
def exp_tenth(x: Any) -> Any:
    """Lanes → exp(x / 10), within 1 ulp; zero below `LEAST_TENTH`, so that up to its 12th power no value is subnormal."""
    power = fma(x, splat(_TENTH_PER_LOG2), splat(_TO_INTEGER))
    k = power - splat(_TO_INTEGER)
    r = fma(k, splat(-_TEN_LOG2_LOW), fma(k, splat(-_TEN_LOG2_HIGH), x)) * splat(0.1)
    return where_less(x, splat(LEAST_TENTH), splat(0.0), _scaled(r, power))


@inlined
def log(x: float) -> float:
    """Natural logarithm of a positive, finite, normal float64, within 2 ulp: 2 artanh((m − 1)/(m + 1)) by its series, and k log 2."""
    m, k = math.frexp(x)
    if m < _ROOT_HALF:
        m, k = 2.0 * m, k - 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 0.0
    for n in range(23, 1, -2):
        series = (series + 1.0 / n) * z
    return k * _LOG2_SHORT + (k * _LOG2_REST + 2.0 * (s + s * series))
