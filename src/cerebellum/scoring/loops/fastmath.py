"""Exponential and logarithm for compiled functions, from additions, multiplications and fused multiply-adds alone.

No function of a libm is called but those that are exact: frexp, and fma and rint where the processor has none. The exponential takes eight
values at a time. Method: exp(x) = 2^(n/16) exp(r), range reduction by multiples of log(2)/16 (Cody & Waite 1980; with a table of roots of
two: Tang 1989; with fused multiply-add as in Muller, Handbook of Floating-Point Arithmetic, ch. 10), and 1 + r Q(r) on |r| ≤ log(2)/32,
Q of degree 5 being (exp(r) − 1)/r interpolated at Chebyshev's six nodes, within 1.5e-17 of exp(r).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cerebellum.scoring.loops.compiled import inlined
from cerebellum.scoring.loops.simd import fma, look_up, splat, where_less, with_sixteenths

#: 1.5 × 2^52: added to a number, rounds it to an integer and leaves that in the last bits.
_TO_INTEGER = 6755399441055744.0
# Of exp(x / 10): beyond, logits are 512 apart as float32.
_LARGEST_POWER = 2.0**30

# log(2) / 16 as the nearest float64 and the nearest to what is then missing; log 2 is 16 of each. Ten times it is so near its float64,
# 1e-17 for 10 log 2, that nothing is added.
_STEP_HIGH, _STEP_LOW = float.fromhex("0x1.62e42fefa39efp-5"), float.fromhex("0x1.abc9e3b39803fp-60")
_TEN_STEPS = float.fromhex("0x1.bb9d3beb8c86bp-2")
# log 2 with its first 32 bits alone, so that small multiples of it are exact, and the rest.
_LOG2_SHORT, _LOG2_REST = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_PER_STEP, _TENTH_PER_STEP = 1.0 / _STEP_HIGH, 1.0 / _TEN_STEPS

#: 2^(j/16) for j = 0 … 15.
_ROOTS = tuple(
    map(
        float.fromhex,
        (
            "0x1.0000000000000p+0 0x1.0b5586cf9890fp+0 0x1.172b83c7d517bp+0 0x1.2387a6e756238p+0 0x1.306fe0a31b715p+0 "
            "0x1.3dea64c123422p+0 0x1.4bfdad5362a27p+0 0x1.5ab07dd485429p+0 0x1.6a09e667f3bcdp+0 0x1.7a11473eb0187p+0 "
            "0x1.8ace5422aa0dbp+0 0x1.9c49182a3f090p+0 0x1.ae89f995ad3adp+0 0x1.c199bdd85529cp+0 0x1.d5818dcfba487p+0 "
            "0x1.ea4afa2a490dap+0"
        ).split(),
    )
)
#: The same with j taken off the 16ths of its exponent: n = 16k + j added there makes 2^(n/16) of entry j.
_TABLE = (np.array(_ROOTS).view(np.int64) - (np.arange(16) << 48)).view(np.float64)

#: Coefficients of r, r², … r⁶ in exp(r), and in exp(r / 10).
_OF_EXP = tuple(
    map(
        float.fromhex,
        (
            "0x1.0000000000003p+0 0x1.0000000000001p-1 0x1.555555547d378p-3 0x1.55555554e9468p-5 0x1.11123cf1dba3ap-7 "
            "0x1.6c17ed4cc4834p-10"
        ).split(),
    )
)
_OF_TENTH = tuple(c / 10**n for n, c in enumerate(_OF_EXP, 1))
_ROOT_HALF = math.sqrt(0.5)

#: Below `LEAST`, `exp` is exactly zero. `exp_tenth` takes no x below `least_tenth`, which is about 580 below a row's largest logit.
LEAST, _LEAST_TENTH = -700.0, -580.0


@inlined
def _scaled(r: Any, power: Any, coefficients: Any) -> Any:
    """exp × 2^(n/16), n in ``power``, from the ``coefficients`` of the first six powers of ``r``."""
    c1, c2, c3, c4, c5, c6 = coefficients
    series = fma(fma(fma(fma(fma(splat(c6), r, splat(c5)), r, splat(c4)), r, splat(c3)), r, splat(c2)), r, splat(c1))
    root = with_sixteenths(look_up(_TABLE, power), power)
    return fma(root, r * series, root)


@inlined
def exp(x: Any) -> Any:
    """Lanes → their exponentials, within 1.2 ulp; zero below `LEAST`. For x ≤ 700."""
    power = fma(x, splat(_PER_STEP), splat(_TO_INTEGER))
    n = power - splat(_TO_INTEGER)
    r = fma(n, splat(-_STEP_LOW), fma(n, splat(-_STEP_HIGH), x))
    return where_less(x, splat(LEAST), splat(0.0), _scaled(r, power, _OF_EXP))


@inlined
def power_in_tenth(x: float) -> float:
    """The integer k that brings exp(x / 10) / 2^k nearest to 1; NaN where it is above 2^30."""
    k = float(np.rint(x * (_TENTH_PER_STEP / 16)))
    return k if abs(k) <= _LARGEST_POWER else math.nan


@inlined
def least_tenth(taken: float) -> float:
    """The least x for `exp_tenth`: up to the 12th power of what it gives, no value is subnormal."""
    return taken * (16 * _TEN_STEPS) + _LEAST_TENTH


@inlined
def exp_tenth(x: Any, taken: float) -> Any:
    """Lanes → exp(x / 10) / 2^``taken``, an integer of at most 2^30, within 1.2 ulp and 2e-19 |x| of it; NaN where either is NaN. For x
    from `least_tenth` to 7000 above it."""
    to_integer = splat(_TO_INTEGER - 16 * taken)
    power = fma(x, splat(_TENTH_PER_STEP), to_integer)
    return _scaled(fma(power - to_integer, splat(-_TEN_STEPS), x), power, _OF_TENTH)


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
