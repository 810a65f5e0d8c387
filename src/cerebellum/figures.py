"""Numbers as people read them: no ``1.19e+03``, no ``-0.00``, no "1 chunks"."""

from __future__ import annotations

import math


def significant(x: float, digits: int = 3, *, sign: bool = False) -> str:
    """``x`` with so many significant digits and no exponent; ``<0.0001`` for less than that, ``?`` for what is no finite number."""
    if not math.isfinite(x):
        return "?"
    plus = "+" if sign else ""
    if 0.0 < abs(x) < 1e-4:
        return f"{'-' if x < 0 else plus}<0.0001" if sign else "<0.0001" if x > 0 else ">-0.0001"
    text = f"{x:{plus}.{digits}g}"
    return f"{x:{plus},.0f}" if "e" in text else positive_zero(text)


def fixed(x: float, digits: int = 2, *, sign: bool = False) -> str:
    """``x`` with so many decimals; ``?`` for what is no finite number. What rounds to zero is zero, without a minus."""
    if not math.isfinite(x):
        return "?"
    return positive_zero(f"{x:{'+' if sign else ''}.{digits}f}")


def positive_zero(text: str) -> str:
    """``text``, a number as it is printed, without the minus where all its digits are zero."""
    return (
        text.replace("-", "+" if text.startswith("+") else "", 1)
        if text.startswith("-") and not text.strip("-0.")
        else text
    )


def counted(n: int, one: str, many: str = "") -> str:
    """``1 chunk``, ``2,000 chunks``; ``many`` where the plural isn't an s."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
