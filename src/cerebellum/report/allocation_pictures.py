"""Pictures of allocations: types by role and block, predicted against measured, and the ladder. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cerebellum.gguf.types import STORED
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
from cerebellum.report.views import Recipe
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation, AllocationLadder
    from cerebellum.stats.intervals import Interval


# -- types by role and block -------------------------------------------------------------------------------------------

CELL_W, CELL_H, LEFT, TOP = 26, 20, 170, 70


def allocation_picture(result: Allocation) -> str:
    """`heat_picture` of the recipe."""
    types = result.recipe.types(result.base.model.types)
    tensors = [(n, t.role, t.block, types[n]) for n, t in result.table.tensors.items()]
    return heat_picture(result.written.path.name, tensors)


def heat_picture(file: str, tensors: Sequence[tuple[str, str, int | None, str]]) -> str:
    """A cell for each tensor (name, role, block, type), by role and block, coloured by the bits a weight of its type, and below it the
    single tensors."""
    blocks = sorted({block for _, _, block, _ in tensors if block is not None})
    roles = sorted({role for _, role, block, _ in tensors if block is not None})
    single = [(name, kind) for name, _, block, kind in tensors if block is None]
    at = {(role, block): kind for _, role, block, kind in tensors}
    kinds = {kind for *_, kind in tensors}
    bits = [STORED[kind].bits_per_weight for kind in kinds]
    low, high = min(bits, default=0.0), max(bits, default=0.0)
    body = [text(12, 20, f"Bits a weight, role by block: {file}", bold=True, size=13)]
    body += _key(sorted(kinds, key=lambda k: (STORED[k].bits_per_weight, k)), low, high)
    for row, role in enumerate(roles):
        y = TOP + row * CELL_H
        body.append(text(LEFT - 8, y + 14, role, anchor="end"))
        for column, block in enumerate(blocks):
            if kind := at.get((role, block)):
                body.append(_cell(LEFT + column * CELL_W, y, kind, low, high, CELL_W))
    y = TOP + len(roles) * CELL_H
    body += [
        text(LEFT + (i + 0.5) * CELL_W, y + 14, str(b), anchor="middle", fill=QUIET, size=10)
        for i, b in enumerate(blocks)
    ]
    body.append(text(LEFT - 8, y + 14, "block", anchor="end", fill=QUIET, size=10))
    for row, (name, kind) in enumerate(single):
        body.append(text(LEFT - 8, y + 38 + row * CELL_H, name.removesuffix(".weight"), anchor="end"))
        body.append(_cell(LEFT, y + 24 + row * CELL_H, kind, low, high, CELL_W))
        body.append(text(LEFT + CELL_W + 8, y + 38 + row * CELL_H, kind, fill=QUIET))
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
    bits = STORED[kind].bits_per_weight
    fill, ink = shade(bits, low, high)
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1:g}" height="{CELL_H - 1:g}" fill="{fill}"><title>{kind}</title></rect>'
    return box + text(x + (width - 1) / 2, y + 13, f"{bits:.2g}", anchor="middle", fill=ink, size=9)


# -- predicted against measured ----------------------------------------------------------------------------------------


def prediction_picture(result: Allocation) -> str:
    """`recipes_picture` of the candidate recipes."""
    recipes = [Recipe(t.candidate.name, t.file_bytes, t.predicted, t.measured, t.kept) for t in result.tried]
    return recipes_picture(recipes, measured_on(result.facts, "search"))


def recipes_picture(recipes: Sequence[Recipe], note: str) -> str:
    """Each measured recipe's KL divergence against the predicted one; on the line they are equal."""
    tried = [t for t in recipes if t.predicted > 0.0 and t.measured > 0.0]
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
        words = one.name + (" (kept)" if one.kept else "")
        body.append(text(472, 66 + 22 * i, words, size=11, bold=one.kept))
    body.append(text(12, 460, note, fill=QUIET, size=10))
    return picture("Predicted and measured", 720, 472, body)


# -- the ladder --------------------------------------------------------------------------------------------------------

X0, X1, Y0, Y1 = 80.0, 640.0, 400.0, 60.0


def ladder_picture(ladder: AllocationLadder) -> str:
    """`sizes_picture` of all sizes."""
    ours = [(r.written.file_bytes, own_mean(r), label) for label, r in zip(ladder.labels, ladder.results, strict=True)]
    stock = [(r.file_bytes, r.mean, r.ftype) for r in ladder.stock]
    return sizes_picture(ours, stock, measured_on(ladder.results[0].facts, "report").partition("; ")[2])


#: Bytes of a file, its mean KL divergence, its label.
Sized = tuple[float, "Interval | None", str]


def sizes_picture(ours: Sequence[Sized], stock: Sequence[Sized], note: str) -> str:
    """KL divergence against bytes on the report text: stock files and ours, each with its 95 % interval."""
    points = [(n, x) for n, x, _ in (*ours, *stock)]
    limits = [v * MILLI for _, x in points if x for v in (x.low, x.estimate, x.high) if math.isfinite(v) and v > 0.0]
    least = min((x.estimate * MILLI for _, x in points if x and x.estimate > 0.0), default=1.0)
    up_axis = log_ticks(max(min(limits, default=1.0), 0.3 * least), max(limits, default=1.0))
    sizes = [n / 1e6 for n, _ in points]
    axis = even_ticks(min(sizes), max(sizes))
    x, y = even_place(axis, X0, X1), log_place(up_axis, Y0, Y1)
    body = [text(12, 20, "KL divergence to the reference against the size of the file", bold=True, size=13)]
    body += [*_frame(axis, up_axis, x, y), *_legend()]
    body += _series(stock, x, y, STOCK, square, below=False)
    body += _series(ours, x, y, OURS, circle, below=True)
    body.append(text(12, 470, note, fill=QUIET, size=10))
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
    points: Iterable[Sized],
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
