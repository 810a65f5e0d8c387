"""Pieces of plain SVG that the pictures share: a frame, axes, marks. Colours are told apart by colour-blind readers too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from cerebellum.quoting import name, printable

#: Where a value lies on an axis.
Place = Callable[[float], float]

#: Blue and vermilion of the palette of Okabe and Ito (2008), and a grey.
OURS, STOCK, QUIET = "#0072B2", "#D55E00", "#666666"
#: Dark blue to yellow, evenly spaced to colour-blind eyes too (after cividis: Nuñez, Anderton and Renslow 2018).
SCALE = ((0, 34, 78), (35, 62, 108), (87, 92, 109), (124, 123, 120), (166, 157, 117), (212, 193, 94), (254, 232, 56))


def picture(title: str, width: float, height: float, body: Sequence[str]) -> str:
    """The whole SVG on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" font-family="sans-serif" font-size="12"><title>{escape(printable(title))}</title>'
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>{"".join(body)}</svg>\n'
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = "#222", size: int = 12, bold: bool = False
) -> str:
    """Words at a point."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}"{weight}>{escape(name(words))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1.0, dash: str = "") -> str:
    """A straight line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width:g}"{dashes}/>'


def circle(x: float, y: float, fill: str, r: float = 5.0) -> str:
    """A disc."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" fill="{fill}"/>'


def square(x: float, y: float, fill: str, half: float = 4.5) -> str:
    """A square around a point: told from a disc without its colour."""
    return f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{2 * half:g}" height="{2 * half:g}" fill="{fill}"/>'


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from at most ``low`` to at least ``high`` (both over 0)."""
    steps = [
        m * 10.0**p for p in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2) for m in (1, 2, 5)
    ]
    first = max((i for i, v in enumerate(steps) if v <= low * (1 + 1e-9)), default=0)
    last = min((i for i, v in enumerate(steps) if v >= high * (1 - 1e-9)), default=len(steps) - 1)
    return steps[first : last + 1]


def even_ticks(low: float, high: float, n: int = 6) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``."""
    if high <= low:
        high = low + max(abs(low), 1.0) * 0.1
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    return [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def shade(value: float, low: float, high: float) -> tuple[str, str]:
    """(fill, colour of words on it) of a value on `SCALE`."""
    position = (len(SCALE) - 1) * min(max((value - low) / (high - low or 1.0), 0.0), 1.0)
    i = min(int(position), len(SCALE) - 2)
    mixed = [round(a + (position - i) * (b - a)) for a, b in zip(SCALE[i], SCALE[i + 1], strict=True)]
    light = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2]
    return "#{:02x}{:02x}{:02x}".format(*mixed), "#000" if light > 140 else "#fff"


def free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The place for a label at (x, y) or above it, where none of ``taken`` overlaps it (60 by 13 points)."""
    while any(abs(x - a) < 60.0 and abs(y - b) < 13.0 for a, b in taken):
        y -= 13.0
    return x, y


def even_place(axis: Sequence[float], first: float, last: float) -> Place:
    """Ticks at even steps between the points ``first`` and ``last``."""
    return lambda v: first + (last - first) * (v - axis[0]) / ((axis[-1] - axis[0]) or 1.0)


def log_place(axis: Sequence[float], first: float, last: float) -> Place:
    """As `even_place`, by logarithm; all values are over 0."""
    width = math.log(axis[-1] / axis[0]) or 1.0
    return lambda v: first + (last - first) * math.log(v / axis[0]) / width
