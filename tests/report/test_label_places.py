"""Names in charts: each beside its mark, none on another name or mark."""

from __future__ import annotations

import random

import pytest

from cerebellum.report.page.label_places import BESIDE, STEPS, Named, name_steps, overlap


def boxes(marks: list[Named]) -> list[tuple[float, float, float, float]]:
    return [mark.box(step) for mark, step in zip(marks, name_steps(marks), strict=True)]


def test_a_name_alone_stands_beside_and_above_its_mark() -> None:
    """To the right of it, or where it would leave the chart to the left."""
    (right,), (left,) = (boxes([Named(100.0, 100.0, "Q8_0", at_right)]) for at_right in (False, True))
    assert right[0] == 100.0 + BESIDE and left[1] == 100.0 - BESIDE and right[2:] == left[2:] and right[3] < 100.0


@pytest.mark.parametrize("seed", range(20))
def test_no_name_lies_on_another_or_on_a_mark(seed: int) -> None:
    """Five files in a corner of a chart, as Q4_K_S and Q4_K_M lie in one of Q2_K to Q8_0."""
    draw = random.Random(seed)
    marks = [Named(draw.uniform(0, 40), draw.uniform(0, 60), f"Q{n}_K_M", draw.random() < 0.3) for n in range(5)]
    names = boxes(marks)
    assert not any(overlap(a, b) for i, a in enumerate(names) for b in names[:i])
    assert not any(box[0] < m.x < box[1] and box[2] < m.y < box[3] for box in names for m in marks)


def test_two_files_of_nearly_one_size_have_both_names() -> None:
    """The case that was seen: 0.17 MB apart, 0.09 thousandths apart."""
    marks = [Named(60.0, 162.0, "Q4_K_S"), Named(66.0, 173.0, "Q4_K_M")]
    assert not overlap(*boxes(marks))


def test_more_names_than_there_is_room_for_end() -> None:
    steps = name_steps([Named(0.0, 0.0, "name")] * 200)
    assert len(steps) == 200 and set(steps) <= set(STEPS)
