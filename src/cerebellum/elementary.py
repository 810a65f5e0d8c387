"""Exponential and logarithm for compiled functions, from additions, multiplications and fused multiply-adds alone.

No function of a libm is called but fma, and that only where the processor has none: its bits are the same. The exponential takes eight
values at a time. Method: range reduction by multiples of log 2 in two pieces (Cody & Waite 1980; with fused multiply-add as in Muller,
Handbook of Floating-Point Arithmetic, ch. 10), and 1 + r + r² Q(r) on |r| ≤ log(2)/2, Q of degree 10 being (exp(r) − 1 − r)/r²
interpolated at Chebyshev's eleven nodes, within 3e-19 of exp(r) but for its coefficients' rounding; Q by Estrin's scheme, whose terms
don't wait for each other.
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

#: Coefficients of r, r², … r¹² in exp(r), and in exp(r / 10).
_OF_EXP = (
    1.0,
    *map(
        float.fromhex,
        (
            "0x1.0000000000000p-1 0x1.5555555555557p-3 0x1.5555555555556p-5 0x1.11111111100dfp-7 "
            "0x1.6c16c16c162d6p-10 0x1.a01a01abe62ddp-13 0x1.a01a01a6d7808p-16 0x1.71de02375656cp-19 "
            "0x1.27e4db67b4303p-22 0x1.af4ddd84882fep-26 0x1.1f72fc730b4ffp-29"
        ).split(),
    ),
)
_OF_TENTH = tuple(c / 10**n for n, c in enumerate(_OF_EXP, 1))
_ROOT_HALF = math.sqrt(0.5)

#: Below these the functions give exactly zero.
LEAST, LEAST_TENTH = -700.0, -590.0


@inlined
def _scaled(r: Any, power: Any, coefficients: Any) -> Any:
    """exp × 2^power from the ``coefficients`` of the first twelve powers of ``r``."""
    c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12 = coefficients
    r2 = r * r
    r4 = r2 * r2
    low = fma(fma(splat(c5), r, splat(c4)), r2, fma(splat(c3), r, splat(c2)))
    high = fma(fma(splat(c9), r, splat(c8)), r2, fma(splat(c7), r, splat(c6)))
    last = fma(splat(c12), r2, fma(splat(c11), r, splat(c10)))
    q = fma(fma(last, r4, high), r4, low)
    return times_power_of_two(fma(fma(q, r, splat(c1)), r, splat(1.0)), power)


@inlined
def exp(x: Any) -> Any:
    """Lanes → their exponentials, within 1 ulp; zero below `LEAST`. For x ≤ 700."""
    power = fma(x, splat(_PER_LOG2), splat(_TO_INTEGER))
    k = power - splat(_TO_INTEGER)
    r = fma(k, splat(-_LOG2_LOW), fma(k, splat(-_LOG2_HIGH), x))
    return where_less(x, splat(LEAST), splat(0.0), _scaled(r, power, _OF_EXP))


@inlined
def exp_tenth(x: Any) -> Any:
    """Lanes → exp(x / 10), within 1.2 ulp; zero below `LEAST_TENTH`, so that up to its 12th power no value is subnormal."""
    power = fma(x, splat(_TENTH_PER_LOG2), splat(_TO_INTEGER))
    k = power - splat(_TO_INTEGER)
    r = fma(k, splat(-_TEN_LOG2_LOW), fma(k, splat(-_TEN_LOG2_HIGH), x))
    return where_less(x, splat(LEAST_TENTH), splat(0.0), _scaled(r, power, _OF_TENTH))


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
