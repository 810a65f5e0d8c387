"""Pictures of allocations: types by role and block, predicted against measured, and the ladder. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cerebellum.gguf.types import TYPES
from cerebellum.report.allocation_tables import own_mean
from cerebellum.report.grids import measured_on
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
    shade,
    square,
    text,
)
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation, AllocationLadder
    from cerebellum.stats.intervals import Interval


# -- types by role and block -------------------------------------------------------------------------------------------

CELL_W, CELL_H, LEFT, TOP = 26, 20, 170, 70


def allocation_picture(result: Allocation) -> str:
    """A cell for each tensor, by role and block, coloured by the bits a weight of its type, and below it the single tensors."""
    table, types = result.table, result.recipe.types(result.base.model.types)
    blocks = sorted({t.block for t in table.tensors.values() if t.block is not None})
    roles = sorted({t.role for t in table.tensors.values() if t.block is not None})
    single = [n for n in table.names if table.tensors[n].block is None]
    at = {(t.role, t.block): n for n, t in table.tensors.items()}
    bits = [TYPES[types[n]].bits_per_weight for n in table.names]
    low, high = min(bits), max(bits)
    body = [text(12, 20, f"Bits a weight, role by block: {result.written.path.name}", bold=True, size=13)]
    body += _key(sorted({types[n] for n in table.names}, key=lambda k: (TYPES[k].bits_per_weight, k)), low, high)
    for row, role in enumerate(roles):
        y = TOP + row * CELL_H
        body.append(text(LEFT - 8, y + 14, role, anchor="end"))
        for column, block in enumerate(blocks):
            if name := at.get((role, block)):
                body.append(_cell(LEFT + column * CELL_W, y, types[name], low, high, CELL_W))
    y = TOP + len(roles) * CELL_H
    body += [
        text(LEFT + (i + 0.5) * CELL_W, y + 14, str(b), anchor="middle", fill=QUIET, size=10)
        for i, b in enumerate(blocks)
    ]
    body.append(text(LEFT - 8, y + 14, "block", anchor="end", fill=QUIET, size=10))
    for row, name in enumerate(single):
        body.append(text(LEFT - 8, y + 38 + row * CELL_H, name.removesuffix(".weight"), anchor="end"))
        body.append(_cell(LEFT, y + 24 + row * CELL_H, types[name], low, high, CELL_W))
        body.append(text(LEFT + CELL_W + 8, y + 38 + row * CELL_H, types[name], fill=QUIET))
    return picture(
        "Types of the recipe", max(LEFT + len(blocks) * CELL_W + 20, 640), y + 40 + len(single) * CELL_H, body
    )


def _key(kinds: Sequence[str], low: float, high: float) -> list[str]:
    """The types with their colours, in one line."""
    parts, x = [], 12.0
    for kind in kinds:
        parts.append(_cell(x, 32, kind, low, high, 30))
        parts.append(text(x + 34, 46, kind, size=10))
        x += 44 + 6.5 * len(kind)
    return parts


def _cell(x: float, y: float, kind: str, low: float, high: float, width: float) -> str:
    bits = TYPES[kind].bits_per_weight
    fill, ink = shade(bits, low, high)
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:g}" height="{CELL_H - 1:g}" fill="{fill}"><title>{kind}</title></rect>'
    return box + text(x + (width - 1) / 2, y + 13, f"{bits:.2g}", anchor="middle", fill=ink, size=9)


# -- predicted against measured ----------------------------------------------------------------------------------------


def prediction_picture(result: Allocation) -> str:
    """Each measured recipe's KL divergence against the predicted one; on the line they are equal."""
    tried = [t for t in result.tried if t.predicted > 0.0 and t.measured > 0.0]
    values = [v * MILLI for t in tried for v in (t.predicted, t.measured)] or [1.0]
    axis = log_ticks(min(values), max(values))
    place = log_place(axis, 90.0, 430.0)
    up = log_place(axis, 400.0, 60.0)
    body = [text(12, 20, "Predicted and measured KL divergence of whole recipes", bold=True, size=13)]
    for value in axis:
        body.append(line(place(value), 60, place(value), 400, "#e3e3e3"))
        body.append(line(90, up(value), 430, up(value), "#e3e3e3"))
        body.append(text(place(value), 418, f"{value:g}", anchor="middle", fill=QUIET, size=10))
        body.append(text(84, up(value) + 4, f"{value:g}", anchor="end", fill=QUIET, size=10))
    body.append(line(place(axis[0]), up(axis[0]), place(axis[-1]), up(axis[-1]), QUIET, 1.2, "5 4"))
    body.append(text(260, 438, "predicted, thousandths of a nat a token", anchor="middle"))
    body.append(text(12, 48, "measured", fill="#222"))
    for i, one in enumerate(sorted(tried, key=lambda t: -t.measured), start=1):
        x, y = place(one.predicted * MILLI), up(one.measured * MILLI)
        mark, colour = (circle, OURS) if one.kept else (square, STOCK)
        for at in ((x, y), (456.0, 62.0 + 22 * i)):
            body.append(mark(*at, colour, 8.0))
            body.append(text(at[0], at[1] + 4, str(i), anchor="middle", fill="#fff", size=10, bold=True))
        words = one.candidate.name + (" (kept)" if one.kept else "")
        body.append(text(472, 66 + 22 * i, words, size=11, bold=one.kept))
    body.append(text(12, 460, measured_on(result.facts, "search"), fill=QUIET, size=10))
    return picture("Predicted and measured", 720, 472, body)


# -- the ladder --------------------------------------------------------------------------------------------------------

X0, X1, Y0, Y1 = 80.0, 640.0, 400.0, 60.0


def ladder_picture(ladder: AllocationLadder) -> str:
    """KL divergence against bytes on the report text: stock files and ours, each with its 95 % interval."""
    ours = [(r.written.file_bytes, own_mean(r)) for r in ladder.results]
    points = [*((n, x) for n, x in ours), *((r.file_bytes, r.mean) for r in ladder.stock)]
    limits = [v * MILLI for _, x in points if x for v in (x.low, x.estimate, x.high) if math.isfinite(v) and v > 0.0]
    least = min((x.estimate * MILLI for _, x in points if x and x.estimate > 0.0), default=1.0)
    up_axis = log_ticks(max(min(limits, default=1.0), 0.3 * least), max(limits, default=1.0))
    sizes = [n / 1e6 for n, _ in points]
    axis = even_ticks(min(sizes), max(sizes))
    x, y = even_place(axis, X0, X1), log_place(up_axis, Y0, Y1)
    body = [text(12, 20, "KL divergence to the reference against the size of the file", bold=True, size=13)]
    body += [*_frame(axis, up_axis, x, y), *_legend()]
    body += _series([(r.file_bytes, r.mean, r.ftype) for r in ladder.stock], x, y, STOCK, square, below=False)
    named = zip(ladder.labels, ours, strict=True)
    body += _series([(n, mean, label) for label, (n, mean) in named], x, y, OURS, circle, below=True)
    body.append(text(12, 470, measured_on(ladder.results[0].facts, "report").partition("; ")[2], fill=QUIET, size=10))
    return picture("Ladder", 720, 482, body)


def _frame(axis: Sequence[float], up_axis: Sequence[float], x: Place, y: Place) -> list[str]:
    parts = []
    for value in axis:
        parts.append(line(x(value), Y1, x(value), Y0, "#e3e3e3"))
        parts.append(text(x(value), Y0 + 18, f"{value:g}", anchor="middle", fill=QUIET, size=11))
    for value in up_axis:
        parts.append(line(X0, y(value), X1, y(value), "#e3e3e3"))
        parts.append(text(X0 - 6, y(value) + 4, f"{value:g}", anchor="end", fill=QUIET, size=11))
    parts.append(text((X0 + X1) / 2, Y0 + 38, "MB of the file", anchor="middle"))
    parts.append(
        text(12, 48, "thousandths of a nat a token, 95 % intervals (logarithmic; lower is better)", fill="#222")
    )
    return parts


def _legend() -> list[str]:
    return [
        circle(X1 - 150, Y1 + 16, OURS),
        text(X1 - 140, Y1 + 20, "recipe (this label's bytes)", size=11),
        square(X1 - 150, Y1 + 36, STOCK),
        text(X1 - 140, Y1 + 40, "stock file", size=11),
    ]


def _series(
    points: Iterable[tuple[int, Interval | None, str]],
    x: Place,
    y: Place,
    colour: str,
    mark: Callable[..., str],
    *,
    below: bool,
) -> list[str]:
    """Marks with their intervals and labels, joined by a line."""
    known = [(n / 1e6, mean, label) for n, mean, label in points if mean is not None and mean.estimate > 0.0]
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    last: tuple[float, float] | None = None
    for size, mean, label in sorted(known, key=lambda p: p[0]):
        at = (x(size), y(mean.estimate * MILLI))
        if last is not None:
            parts.append(line(*last, *at, colour, 1.0, "" if below else "5 4"))
        ends = [y(v * MILLI) if math.isfinite(v) and v > 0.0 else Y0 for v in (mean.low, mean.high)]
        ends = [min(max(end, Y1 - 8), Y0) for end in ends]
        parts += [line(at[0], ends[0], at[0], ends[1], colour, 2.0)]
        parts += [line(at[0] - 5, end, at[0] + 5, end, colour, 2.0) for end in ends]
        parts.append(mark(*at, colour))
        corner = (at[0] - 8, at[1] + 16) if below else free_place(at[0] + 9, at[1] - 7, taken)
        taken.append(corner)
        parts.append(text(*corner, label, fill=colour, size=11, bold=below, anchor="end" if below else "start"))
        last = at
    return parts
