"""Files as points: KL divergence against bytes. Plain SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cerebellum.report.grids import chunks_of
from cerebellum.report.short_names import short_names
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
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results import Measured, Measurement
    from cerebellum.stats.pareto import Standing

X0, X1, Y0, Y1 = 80.0, 640.0, 400.0, 78.0
WIDTH, LETTER = 720.0, 6.5
#: A limit further down than this share of its estimate is drawn to the edge of the picture.
_LEAST = 0.3
_MARKS = {"yes": (circle, OURS), "not shown": (circle, QUIET), "no": (square, STOCK)}
_LEGEND = (
    ("yes", "worth having"),
    ("not shown", "not shown to be better than a smaller one"),
    ("no", "smaller ones are better"),
)


def comparison_picture(measurement: Measurement) -> str:
    """A point a file with its 95 % interval, the front joined by a line."""
    files = [f for f in measurement.files if f.summary.divergence is not None]
    up_axis, y = _scale(files)
    axis = even_ticks(
        min(f.file_bytes for f in measurement.files) / 1e6, max(f.file_bytes for f in measurement.files) / 1e6
    )
    x = even_place(axis, X0, X1)
    body = [text(12, 20, "KL divergence to the reference against the size of the file", bold=True, size=13)]
    body += _frame(axis, up_axis, x, y)
    body += _points(measurement, x, y)
    body.append(text(12, 470, f"Text {chunks_of(measurement.facts['text'])}", fill=QUIET, size=10))
    return picture("Files compared", WIDTH, 482, body)


def _scale(files: list[Measured]) -> tuple[list[float], Place]:
    """Ticks and places of KL divergence in thousandths: logarithmic, but even where a file has none."""
    means = [f.summary.divergence.mean for f in files if f.summary.divergence is not None]
    least = min((m.estimate * MILLI for m in means), default=1.0)
    limits = [v * MILLI for m in means for v in (m.low, m.estimate, m.high) if math.isfinite(v)]
    top = max(limits, default=1.0)
    if least > 0.0:
        axis = log_ticks(max(min(v for v in limits if v > 0.0), _LEAST * least), top)
        return axis, log_place(axis, Y0, Y1)
    axis = even_ticks(0.0, top)
    return axis, even_place(axis, Y0, Y1)


def _frame(axis: list[float], up_axis: list[float], x: Place, y: Place) -> list[str]:
    parts = []
    for value in axis:
        parts.append(line(x(value), Y1, x(value), Y0, "#e3e3e3"))
        parts.append(text(x(value), Y0 + 18, f"{value:g}", anchor="middle", fill=QUIET, size=11))
    for value in up_axis:
        parts.append(line(X0, y(value), X1, y(value), "#e3e3e3"))
        parts.append(text(X0 - 6, y(value) + 4, f"{value:g}", anchor="end", fill=QUIET, size=11))
    parts.append(text((X0 + X1) / 2, Y0 + 38, "MB of the file", anchor="middle"))
    parts.append(text(12, 40, "thousandths of a nat a token, 95 % intervals (lower is better)"))
    at = 16.0
    for key, words in _LEGEND:
        mark, colour = _MARKS[key]
        parts += [mark(at, 58, colour), text(at + 10, 62, words, size=11)]
        at += 40 + 6.0 * len(words)
    return parts


def _points(measurement: Measurement, x: Place, y: Place) -> list[str]:
    names = short_names([f.name for f in measurement.files])
    order = sorted(range(len(names)), key=lambda i: measurement.files[i].file_bytes)
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    last: tuple[float, float] | None = None
    for i in order:
        file, key = measurement.files[i], _key(measurement.standings[i])
        if file.summary.divergence is None:
            continue
        mark, colour = _MARKS[key]
        mean = file.summary.divergence.mean
        at = (x(file.file_bytes / 1e6), y(mean.estimate * MILLI))
        if key == "yes":
            parts += [line(*last, *at, OURS, 1.0, "5 4")] if last else []
            last = at
        ends = [y(v * MILLI) if math.isfinite(v) and v > 0.0 else Y0 for v in (mean.low, mean.high)]
        ends = [min(max(end, Y1 - 8), Y0) for end in ends]
        parts.append(line(at[0], ends[0], at[0], ends[1], colour, 2.0))
        parts += [line(at[0] - 5, end, at[0] + 5, end, colour, 2.0) for end in ends]
        parts.append(mark(*at, colour))
        is_left = at[0] + 9 + LETTER * len(names[i]) > WIDTH
        corner = free_place(at[0] - 9 if is_left else at[0] + 9, at[1] - 7, taken)
        taken.append(corner)
        anchor = "end" if is_left else "start"
        parts.append(text(*corner, names[i], anchor=anchor, fill=colour, size=11, bold=key == "yes"))
    return parts


def _key(standing: Standing) -> str:
    return "no" if standing.dominated_by else "not shown" if standing.unproven_against else "yes"
