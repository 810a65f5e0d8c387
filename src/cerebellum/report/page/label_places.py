"""Where the names of marks stand in a chart, so that none lies on another name or on another mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Width of the narrowest chart, a phone's, in points: names that are apart there are apart wherever the chart is wider.
NARROWEST = 270.0
#: Of a letter, of a line, and from the middle of a mark to its edge, in points.
LETTER, LINE, RADIUS = 7.0, 14.0, 6.0
#: From a mark to the beginning of its name.
BESIDE = 9.0
#: From a mark to the middle of its name, downwards: beside and above it, beside and below it, then further off.
STEPS = (-8, 8, -22, 22, -36, 36, -50, 50)


@dataclass(frozen=True, slots=True)
class Named:
    """A mark: points from the left and from the top, its name, whether that ends at the mark instead of beginning there."""

    x: float
    y: float
    name: str
    at_right: bool = False

    def box(self, step: float) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the name, ``step`` points below the mark."""
        begin, end = BESIDE, BESIDE + LETTER * len(self.name)
        sides = (self.x - end, self.x - begin) if self.at_right else (self.x + begin, self.x + end)
        return (*sides, self.y + step - LINE / 2, self.y + step + LINE / 2)


def name_steps(marks: Sequence[Named]) -> list[int]:
    """For each mark how many points below it its name stands; `STEPS` [0] where there is no free one."""
    taken = [(m.x - RADIUS, m.x + RADIUS, m.y - RADIUS, m.y + RADIUS) for m in marks]
    steps: list[int] = []
    for mark in marks:
        step = next((s for s in STEPS if not any(overlap(mark.box(s), other) for other in taken)), STEPS[0])
        steps.append(step)
        taken.append(mark.box(step))
    return steps


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes have a common area."""
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
