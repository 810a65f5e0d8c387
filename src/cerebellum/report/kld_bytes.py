"""KL divergence against bytes as plain SVG: the frame, a mark with its interval, a line of marks; for ladders and comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cerebellum.report.svg import (
    OURS,
    QUIET,
    STOCK,
    Place,
    circle,
    even_place,
    even_ticks,
    free_place,
    line,
    log_place,
    log_ticks,
    picture,
    square,
    text,
)
from cerebellum.report.views import DOMINATED, UNPROVEN, WORTH
from cerebellum.stats.intervals import Interval
from cerebellum.stats.verdicts import MILLI

X0, X1, Y0, Y1 = 80.0, 640.0, 400.0, 78.0
WIDTH, HEIGHT, LETTER = 720.0, 482.0, 6.5
#: A limit further down than this share of its estimate is drawn to the edge of the picture.
LEAST = 0.3

#: Bytes of a file, its mean KL divergence (nats a token), its label.
Sized = tuple[float, Interval | None, str]
#: How a mark is drawn, and its colour.
Look = tuple[Callable[[float, float, str], str], str]
_LOOKS: dict[str, Look] = {WORTH: (circle, OURS), UNPROVEN: (circle, QUIET), DOMINATED: (square, STOCK)}


@dataclass(frozen=True, slots=True)
class Axes:
    """Ticks (MB, thousandths of a nat a token) and where a value lies."""

    x_ticks: list[float]
    y_ticks: list[float]
    x: Place
    y: Place


def sizes_picture(ours: Sequence[Sized], stock: Sequence[Sized], note: str) -> str:
    """Stock files and ours, each with its 95 % interval. Files without any divergence are left out: they have no place on the axis."""
    shown = [[p for p in points if p[1] is not None and p[1].estimate > 0.0] for points in (ours, stock)]
    axes = _axes([n for n, *_ in (*ours, *stock)], [x for points in shown for _, x, _ in points if x is not None])
    body = _frame(axes, [("recipe (this label's bytes)", (circle, OURS)), ("stock file", (square, STOCK))])
    body += _line([(p, (square, STOCK)) for p in shown[1]], axes, "5 4")
    body += _line([(p, (circle, OURS)) for p in shown[0]], axes, "", bold=True, below=True)
    return _whole("Ladder", body, note)


def files_picture(files: Sequence[tuple[Sized, str]], note: str) -> str:
    """Files that were compared, each with whether it is worth having (the series of `cerebellum.report.views`); these are joined."""
    known = [(point, series) for point, series in files if point[1] is not None]
    axes = _axes([n for (n, *_), _ in files], [point[1] for point, _ in known if point[1] is not None])
    body = _frame(axes, list(_LOOKS.items()))
    body += _line([(point, _LOOKS[series]) for point, series in known], axes, "5 4", joined=OURS)
    return _whole("Files compared", body, note)


def _whole(title: str, body: Sequence[str], note: str) -> str:
    return picture(title, WIDTH, HEIGHT, [*body, text(12, 470, note, fill=QUIET, size=10)])


def _axes(sizes: Sequence[float], means: Sequence[Interval]) -> Axes:
    """Logarithmic upwards, but even where a file has no divergence at all."""
    x_ticks = even_ticks(min(sizes) / 1e6, max(sizes) / 1e6)
    limits = [v * MILLI for m in means for v in (m.low, m.estimate, m.high) if math.isfinite(v)]
    least, top = min((m.estimate * MILLI for m in means), default=1.0), max(limits, default=1.0)
    if least > 0.0:
        y_ticks = log_ticks(max(min((v for v in limits if v > 0.0), default=1.0), LEAST * least), top)
        return Axes(x_ticks, y_ticks, even_place(x_ticks, X0, X1), log_place(y_ticks, Y0, Y1))
    y_ticks = even_ticks(0.0, top)
    return Axes(x_ticks, y_ticks, even_place(x_ticks, X0, X1), even_place(y_ticks, Y0, Y1))


def _frame(axes: Axes, key: Sequence[tuple[str, Look]]) -> list[str]:
    parts = [text(12, 20, "KL divergence to the reference against the size of the file", bold=True, size=13)]
    for value in axes.x_ticks:
        parts.append(line(axes.x(value), Y1, axes.x(value), Y0, "#e3e3e3"))
        parts.append(text(axes.x(value), Y0 + 18, f"{value:g}", anchor="middle", fill=QUIET, size=11))
    for value in axes.y_ticks:
        parts.append(line(X0, axes.y(value), X1, axes.y(value), "#e3e3e3"))
        parts.append(text(X0 - 6, axes.y(value) + 4, f"{value:g}", anchor="end", fill=QUIET, size=11))
    parts.append(text((X0 + X1) / 2, Y0 + 38, "MB of the file", anchor="middle"))
    parts.append(text(12, 40, "thousandths of a nat a token, 95 % intervals (lower is better)"))
    at = 16.0
    for words, (mark, colour) in key:
        parts += [mark(at, 58, colour), text(at + 10, 62, words, size=11)]
        at += 40 + 6.0 * len(words)
    return parts


def _line(
    points: Sequence[tuple[Sized, Look]], axes: Axes, dash: str, *, joined: str = "", bold: bool = False, below: bool = False
) -> list[str]:  # fmt: skip
    """Marks with intervals and labels, smallest file first, joined by a line; ``joined``: only those of that colour, in bold."""
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    last: tuple[float, float] | None = None
    for (n_bytes, mean, label), (mark, colour) in sorted(points, key=lambda p: p[0][0]):
        assert mean is not None
        at = (axes.x(n_bytes / 1e6), axes.y(mean.estimate * MILLI))
        if joined in ("", colour):
            parts += [line(*last, *at, colour, 1.0, dash)] if last else []
            last = at
        parts += [*_whisker(at, mean, axes, colour), mark(*at, colour)]
        is_left = below or at[0] + 9 + LETTER * len(label) > WIDTH
        corner = (at[0] - 9, at[1] + 16) if below else free_place(at[0] - 9 if is_left else at[0] + 9, at[1] - 7, taken)
        taken.append(corner)
        anchor, heavy = "end" if is_left else "start", bold or joined == colour
        parts.append(text(*corner, label, anchor=anchor, fill=colour, size=11, bold=heavy))
    return parts


def _whisker(at: tuple[float, float], mean: Interval, axes: Axes, colour: str) -> list[str]:
    """The interval of a mark; a limit that the axis can't show ends at its edge."""
    ends = [axes.y(v * MILLI) if math.isfinite(v) and v > 0.0 else Y0 for v in (mean.low, mean.high)]
    ends = [min(max(end, Y1 - 8), Y0) for end in ends]
    caps = [line(at[0] - 5, end, at[0] + 5, end, colour, 2.0) for end in ends]
    return [line(at[0], ends[0], at[0], ends[1], colour, 2.0), *caps]
