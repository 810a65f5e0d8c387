"""The sweep as a picture: each trial's change of KL divergence (or perplexity) with its interval. Plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from cerebellum.domain import TensorTypes
from cerebellum.quoting import name, printable
from cerebellum.report.grids import measured_on
from cerebellum.stats.intervals import Interval

if TYPE_CHECKING:
    from cerebellum.results import Sweep

ROW, LEFT, WIDTH, TOP, RIGHT = 18, 230, 420, 46, 150
#: Rows of a picture at most: more than these fit on no screen, and on no page.
MOST_ROWS = 60
KLD_UNIT, PPL_UNIT = "change of KL divergence, thousandths of a nat a token", "change of perplexity, %"
COLOURS = {
    "improves": "#0a7d4f",
    "damages": "#b3261e",
    "drift": "#b26a00",
    "undecided": "#777777",
    "no detectable difference": "#777777",
}


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``; always holds zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        high = low + 1.0
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Mark:
    """A row of the picture: its label, its value with limits (equal to the value where not known), its verdict; a ring for the chosen."""

    label: str
    value: tuple[float, float, float]
    word: str
    chosen: bool

    @property
    def group(self) -> str:
        """Role and type: the label without the block."""
        parts = self.label.split(".")
        return ".".join(parts[2:]) if len(parts) > 2 and parts[0] == "blk" and parts[1].isdigit() else self.label


def sweep_chart(sweep: Sweep, facts: dict[str, Any], chosen: TensorTypes) -> str:
    """SVG of the sweep in the order of blocks, with what it was measured on; a ring marks the chosen."""
    by_kld = all(row.contrast.kld for row in sweep.rows)
    marks = []
    for row in sweep.rows:
        value = _finite(row.contrast.kld or row.contrast.ppl, 1e3) if by_kld else _finite(row.contrast.percent, 1.0)
        label = f"{row.effect.tensor.removesuffix('.weight')} → {row.effect.to_type}"
        marks.append(Mark(label, value, str(row.contrast.judgement.verdict), row.effect.swap in chosen))
    return marks_chart(marks, by_kld, f"{measured_on(facts, 'search')}{'; rings: chosen' if chosen else ''}")


def marks_chart(marks: Sequence[Mark], by_kld: bool, note: str) -> str:
    """SVG of trials, one a row: change of KL divergence in thousandths of a nat, or of perplexity in percent. Of more than `MOST_ROWS`
    trials a row for each role and type, with a dot a block."""
    if len(marks) > MOST_ROWS:
        return strips_chart(marks, by_kld, note)
    unit = KLD_UNIT if by_kld else PPL_UNIT
    axis = ticks(
        min((mark.value[1] for mark in marks), default=0.0), max((mark.value[2] for mark in marks), default=0.0)
    )
    height = TOP + ROW * len(marks) + 40
    body = [
        _axis(axis, height - 40, unit),
        f'<text x="12" y="{height - 14}" font-size="9" fill="#555">{escape(printable(note))}</text>',
    ]
    for i, mark in enumerate(marks):
        xs = [_x(v, axis) for v in mark.value]
        body.append(_row(TOP + ROW * (i + 0.5), mark.label, mark.word, xs, mark.chosen))
    return _whole(height, body)


def _whole(height: float, body: Sequence[str]) -> str:
    total = LEFT + WIDTH + RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" width="{total}" height="{height}" '
        'font-family="sans-serif" font-size="11">'
        f'<title>Sweep</title><rect width="{total}" height="{height}" fill="white"/>{"".join(body)}</svg>\n'
    )


def strips_chart(marks: Sequence[Mark], by_kld: bool, note: str) -> str:
    """SVG of many trials, of bounded height: a row for each role and type, a dot for each trial of it; where there are more than
    `MOST_ROWS` of these, the ones with the largest changes."""
    groups: dict[str, list[Mark]] = {}
    for mark in marks:
        groups.setdefault(mark.group, []).append(mark)
    largest = sorted(groups, key=lambda g: -max(abs(mark.value[0]) for mark in groups[g]))[:MOST_ROWS]
    shown = [group for group in groups if group in set(largest)]
    values = [mark.value[0] for group in shown for mark in groups[group]]
    axis, unit = ticks(min(values), max(values)), KLD_UNIT if by_kld else PPL_UNIT
    height = TOP + ROW * len(shown) + 54
    left = (
        f"; {len(groups) - len(shown)} rows of smaller changes are in the table alone"
        if len(groups) > len(shown)
        else ""
    )
    body = [
        _axis(axis, height - 54, unit, "a dot a trial; limits are in the table"),
        f'<text x="12" y="{height - 30}" font-size="9" fill="#555">{len(marks)} trials, a row for each role and type{left}</text>',
        f'<text x="12" y="{height - 14}" font-size="9" fill="#555">{escape(printable(note))}</text>',
    ]
    for i, group in enumerate(shown):
        body.append(_strip(TOP + ROW * (i + 0.5), group, groups[group], axis))
    return _whole(height, body)


def _strip(y: float, label: str, marks: Sequence[Mark], axis: Sequence[float]) -> str:
    """A row of dots, the chosen with a ring, and how many are clearly better or worse."""
    dots = []
    for mark in marks:
        x = _x(mark.value[0], axis)
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS.get(mark.word, "#777777")}" fill-opacity="0.6"/>'
        )
        if mark.chosen:
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#111"/>')
    better, worse = (sum(mark.word == word for mark in marks) for word in ("improves", "damages"))
    counts = f"{len(marks)}: {better} better, {worse} worse"
    return (
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name(label))}</text>{"".join(dots)}'
        f'<text x="{LEFT + WIDTH + 8}" y="{y + 4:.1f}" fill="#555">{counts}</text>'
    )


def _finite(x: Interval, scale: float) -> tuple[float, float, float]:
    low, high = (v if math.isfinite(v) else x.estimate for v in (x.low, x.high))
    return x.estimate * scale, low * scale, high * scale


def _x(value: float, axis: Sequence[float]) -> float:
    return LEFT + WIDTH * (value - axis[0]) / (axis[-1] - axis[0])


def _axis(axis: Sequence[float], bottom: float, unit: str, what: str = "with 95 % interval") -> str:
    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{escape(printable(unit))}, {what}</text>']
    for value in axis:
        x, zero = _x(value, axis), abs(value) < 1e-12
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="{"#333" if zero else "#ddd"}"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="middle" fill="#555">{value:g}</text>')
    return "".join(parts)


def _row(y: float, label: str, word: str, xs: Sequence[float], chosen: bool) -> str:
    colour = COLOURS.get(word, "#777777")
    middle, low, high = xs
    ring = f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="6.5" fill="none" stroke="#111"/>' if chosen else ""
    return (
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name(label))}</text>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
        f"{ring}"
        f'<text x="{LEFT + WIDTH + 8}" y="{y + 4:.1f}" fill="{colour}">{escape(word)}</text>'
    )
