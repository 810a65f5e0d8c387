"""The training curve as an SVG, drawn with no library: ``svg(log, baselines)`` is a function of its arguments only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 44, 56
TICKS_NATS = (0.4, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 6, 7)
INK, GRID, TRAIN, HELD_OUT, BASELINE = "#333333", "#e4e4e4", "#8fb3d9", "#b03a2e", "#777777"
Point = tuple[float, float]


class Scale:
    """Steps (linear) and nats (logarithmic) to pixels."""

    def __init__(self, last_step: int, low: float, high: float) -> None:
        self.last_step, self.low, self.high = last_step, low, high

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.last_step

    def y(self, nats: float) -> float:
        share = math.log(nats / self.low) / math.log(self.high / self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def svg(log: Sequence[dict[str, Any]], baselines: dict[str, float]) -> str:
    """The curve of a log of `testbed.train`; ``baselines`` are horizontal lines, name → nats a token."""
    train = [(row["step"], row["loss"]) for row in log]
    held = [(row["step"], row["held_out"]) for row in log if "held_out" in row]
    values = [nats for _, nats in train + held] + list(baselines.values())
    scale = Scale(max(step for step, _ in train), 0.9 * min(values), 1.1 * max(values))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(scale),
        *(part for name, nats in baselines.items() for part in _baseline(scale, name, nats)),
        _line(scale, train, TRAIN, 1.2),
        _line(scale, held, HELD_OUT, 2),
        *(f'<circle cx="{scale.x(s):.1f}" cy="{scale.y(n):.1f}" r="3" fill="{HELD_OUT}"/>' for s, n in held),
        *_legend([("training batch", TRAIN), ("held out (search split)", HELD_OUT)]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, words: str, *, anchor: str = "middle", more: str = "", ink: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}"{more}>{words}</text>'


def _path(x1: float, y1: float, x2: float, y2: float, ink: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}"{more}/>'


def _axes(scale: Scale) -> Iterable[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for nats in (tick for tick in TICKS_NATS if scale.low <= tick <= scale.high):
        yield _path(LEFT, scale.y(nats), right, scale.y(nats), GRID)
        yield _text(LEFT - 8, scale.y(nats) + 4, f"{nats:g}", anchor="end")
    for step in range(0, scale.last_step + 1, 200):
        yield _path(scale.x(step), bottom, scale.x(step), bottom + 5, INK)
        yield _text(scale.x(step), bottom + 20, str(step))
    yield _path(LEFT, TOP, LEFT, bottom, INK)
    yield _path(LEFT, bottom, right, bottom, INK)
    yield _text((LEFT + right) / 2, HEIGHT - 14, "training step")
    middle = (TOP + bottom) / 2
    yield _text(18, middle, "loss, nats a token (log scale)", more=f' transform="rotate(-90 18 {middle:.1f})"')


def _baseline(scale: Scale, name: str, nats: float) -> Iterable[str]:
    yield _path(LEFT, scale.y(nats), WIDTH - RIGHT, scale.y(nats), BASELINE, ' stroke-dasharray="5 4"')
    yield _text(WIDTH - RIGHT, scale.y(nats) - 5, f"{name} {nats:.2f}", anchor="end", ink=BASELINE)


def _line(scale: Scale, points: Sequence[Point], ink: str, width: float) -> str:
    path = " ".join(f"{scale.x(step):.1f},{scale.y(nats):.1f}" for step, nats in points)
    return f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="{width}"/>'


def _legend(entries: Sequence[tuple[str, str]]) -> Iterable[str]:
    for number, (name, ink) in enumerate(entries):
        x = LEFT + 8 + 170 * number
        yield _path(x, TOP - 20, x + 24, TOP - 20, ink, ' stroke-width="3"')
        yield _text(x + 30, TOP - 16, name, anchor="start")
