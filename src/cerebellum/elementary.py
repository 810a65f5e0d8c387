"""Exponential and logarithm for compiled functions, from additions, multiplications and fused multiply-adds alone.

No function of a libm is called but those that are exact: frexp, and fma and rint where the processor has none. The exponential takes eight
values at a time. Method: range reduction by multiples of log 2 (Cody & Waite 1980; with fused multiply-add as in Muller, Handbook of
Floating-Point Arithmetic, ch. 10), and 1 + r + r² Q(r) on |r| ≤ log(2)/2, Q of degree 9 being (exp(r) − 1 − r)/r² interpolated at
Chebyshev's ten nodes, within 2e-17 of exp(r) but for its coefficients' rounding; Q's even and odd powers apart, so that they don't wait
for each other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cerebellum.compiled import inlined
from cerebellum.lanes import fma, splat, times_power_of_two, where_less

#: 1.5 × 2^52: added to a number, rounds it to an integer and leaves that in the last bits.
_TO_INTEGER = 6755399441055744.0
# Of exp(x / 10): beyond, logits are 512 apart as float32.
_LARGEST_POWER = 2.0**30

# log 2 as the nearest float64 and the nearest to what is then missing. 10 log 2 is so near its float64, 1e-17, that nothing is added.
_LOG2_HIGH, _LOG2_LOW = float.fromhex("0x1.62e42fefa39efp-1"), float.fromhex("0x1.abc9e3b39803fp-56")
_TEN_LOG2 = float.fromhex("0x1.bb9d3beb8c86bp+2")
# log 2 with its first 32 bits alone, so that small multiples of it are exact, and the rest.
_LOG2_SHORT, _LOG2_REST = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_PER_LOG2, _TENTH_PER_LOG2 = 1.0 / _LOG2_HIGH, 1.0 / _TEN_LOG2

#: Coefficients of r, r², … r¹¹ in exp(r), and in exp(r / 10).
_OF_EXP = (
    1.0,
    *map(
        float.fromhex,
        (
            "0x1.0000000000001p-1 0x1.5555555555556p-3 0x1.5555555553d68p-5 0x1.11111111109b5p-7 0x1.6c16c17889ef1p-10 "
            "0x1.a01a01a7c2efep-13 0x1.a019b9149a41cp-16 0x1.71de0db2f6b19p-19 0x1.28917c89a43a7p-22 0x1.af389ecfc4b9cp-26"
        ).split(),
    ),
)
_OF_TENTH = tuple(c / 10**n for n, c in enumerate(_OF_EXP, 1))
_ROOT_HALF = math.sqrt(0.5)

#: Below `LEAST`, `exp` is exactly zero; `exp_tenth` takes x to be at least `LEAST_TENTH` + 10 log 2^``taken``.
LEAST, LEAST_TENTH = -700.0, -580.0


@inlined
def _scaled(r: Any, power: Any, coefficients: Any) -> Any:
    """exp × 2^power from the ``coefficients`` of the first eleven powers of ``r``."""
    c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = coefficients
    z = r * r
    even = fma(fma(fma(fma(splat(c10), z, splat(c8)), z, splat(c6)), z, splat(c4)), z, splat(c2))
    odd = fma(fma(fma(fma(splat(c11), z, splat(c9)), z, splat(c7)), z, splat(c5)), z, splat(c3))
    return times_power_of_two(fma(fma(fma(odd, r, even), r, splat(c1)), r, splat(1.0)), power)


@inlined
def exp(x: Any) -> Any:
    """Lanes → their exponentials, within 1.03 ulp; zero below `LEAST`. For x ≤ 700."""
    power = fma(x, splat(_PER_LOG2), splat(_TO_INTEGER))
    k = power - splat(_TO_INTEGER)
    r = fma(k, splat(-_LOG2_LOW), fma(k, splat(-_LOG2_HIGH), x))
    return where_less(x, splat(LEAST), splat(0.0), _scaled(r, power, _OF_EXP))


@inlined
def power_in_tenth(x: float) -> float:
    """The integer k that brings exp(x / 10) / 2^k nearest to 1; NaN where it is above 2^30."""
    k = float(np.rint(x * _TENTH_PER_LOG2))
    return k if abs(k) <= _LARGEST_POWER else math.nan


@inlined
def exp_tenth(x: Any, taken: float) -> Any:
    """Lanes → exp(x / 10) / 2^``taken``, an integer of at most 2^30, within 1.1 ulp and 2e-19 |x| of it; NaN where that is NaN. Not below
    exp(`LEAST_TENTH` / 10), so that up to its 12th power no value is subnormal."""
    least, to_integer = splat(taken * _TEN_LOG2 + LEAST_TENTH), splat(_TO_INTEGER - taken)
    x = where_less(x, least, least, x)
    power = fma(x, splat(_TENTH_PER_LOG2), to_integer)
    return _scaled(fma(power - to_integer, splat(-_TEN_LOG2), x), power, _OF_TENTH)


@inlined
def log(x: float, power: float = 0.0) -> float:
    """Natural logarithm of x × 2^``power``, an integer, within 2 ulp; x a positive, finite, normal float64: 2 artanh((m − 1)/(m + 1))
    by its series, and k log 2."""
    m, exponent = math.frexp(x)
    k = exponent + power
    if m < _ROOT_HALF:
        m, k = 2.0 * m, k - 1.0
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 0.0
    for n in range(23, 1, -2):
        series = (series + 1.0 / n) * z
    return k * _LOG2_SHORT + (k * _LOG2_REST + 2.0 * (s + s * series))
