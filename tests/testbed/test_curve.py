"""The drawing of the training curve."""

from __future__ import annotations

from xml.etree import ElementTree

from testbed.curve import HEIGHT, WIDTH, svg

LOG = [
    {"step": 20, "tokens": 81920, "loss": 6.4, "tokens_per_second": 1500},
    {"step": 100, "tokens": 409600, "loss": 2.1, "tokens_per_second": 1500, "held_out": 2.2},
    {"step": 200, "tokens": 819200, "loss": 0.6, "tokens_per_second": 1500, "held_out": 0.7},
]


def test_curve_is_well_formed_and_inside() -> None:
    """Valid XML; every point of both lines lies in the picture; axes and lines have their names."""
    root = ElementTree.fromstring(svg(LOG, {"unigram": 5.5, "trigram": 1.35}))
    lines = [child.attrib["points"] for child in root if child.tag.endswith("polyline")]
    points = [tuple(map(float, point.split(","))) for line in lines for point in line.split()]
    assert [len(line.split()) for line in lines] == [3, 2]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    words = " ".join(child.text or "" for child in root)
    for name in ("training step", "nats a token", "held out", "trigram 1.35", "unigram 5.50"):
        assert name in words


def test_lower_loss_is_drawn_lower() -> None:
    """Up is more nats, right is later."""
    root = ElementTree.fromstring(svg(LOG, {}))
    line = next(child.attrib["points"] for child in root if child.tag.endswith("polyline"))
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert points == sorted(points) and [y for _, y in points] == sorted(y for _, y in points)
