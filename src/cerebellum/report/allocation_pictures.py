"""Pictures of allocations: types by role and block, predicted against measured, and the ladder. Plain SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cerebellum.gguf.types import STORED
from cerebellum.report.allocation_tables import own_mean
from cerebellum.report.grids import measured_on
from cerebellum.report.kld_bytes import sizes_picture
from cerebellum.report.svg import OURS, QUIET, STOCK, circle, line, log_place, log_ticks, picture, shade, square, text
from cerebellum.report.views import Recipe
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results.allocation import Allocation, AllocationLadder

#: Letters of a note that the width of the picture of predictions has room for.
_NOTE_WIDTH = 116

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
    across = log_place(axis, 90.0, 430.0)
    up = log_place(axis, 400.0, 60.0)
    body = [text(12, 20, "Predicted and measured KL divergence of whole recipes", bold=True, size=13)]
    for value in axis:
        body.append(line(across(value), 60, across(value), 400, "#e3e3e3"))
        body.append(line(90, up(value), 430, up(value), "#e3e3e3"))
        body.append(text(across(value), 418, f"{value:g}", anchor="middle", fill=QUIET, size=10))
        body.append(text(84, up(value) + 4, f"{value:g}", anchor="end", fill=QUIET, size=10))
    body.append(line(across(axis[0]), up(axis[0]), across(axis[-1]), up(axis[-1]), QUIET, 1.2, "5 4"))
    body.append(text(260, 438, "predicted, thousandths of a nat a token", anchor="middle"))
    body.append(text(12, 48, "measured", fill="#222"))
    for i, one in enumerate(sorted(tried, key=lambda t: -t.measured), start=1):
        x, y = across(one.predicted * MILLI), up(one.measured * MILLI)
        mark, colour = (circle, OURS) if one.kept else (square, STOCK)
        for at in ((x, y), (456.0, 62.0 + 22 * i)):
            body.append(mark(*at, colour, 8.0))
            body.append(text(at[0], at[1] + 4, str(i), anchor="middle", fill="#fff", size=10, bold=True))
        words = one.name + (" (kept)" if one.kept else "")
        body.append(text(472, 66 + 22 * i, words, size=11, bold=one.kept))
    notes = textwrap.wrap(note, _NOTE_WIDTH)
    body += [text(12, 460 + 13 * i, words, fill=QUIET, size=10) for i, words in enumerate(notes)]
    return picture("Predicted and measured", 720, 459 + 13 * len(notes), body)


# -- the ladder --------------------------------------------------------------------------------------------------------


def ladder_picture(ladder: AllocationLadder) -> str:
    """`sizes_picture` of all sizes."""
    ours = [(r.written.file_bytes, own_mean(r), label) for label, r in zip(ladder.labels, ladder.results, strict=True)]
    stock = [(r.file_bytes, r.mean, r.ftype) for r in ladder.stock]
    return sizes_picture(ours, stock, measured_on(ladder.results[0].facts, "report").partition("; ")[2])
