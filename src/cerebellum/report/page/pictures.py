"""Plain pictures for a page without the `report` extra, and for browsers that run no script."""

from __future__ import annotations

import math

from cerebellum.report.allocation_pictures import heat_picture, recipes_picture
from cerebellum.report.chart import Mark, marks_chart
from cerebellum.report.kld_bytes import files_picture, sizes_picture
from cerebellum.report.views import OURS, STOCK, Mean, Single, View
from cerebellum.stats.intervals import Interval
from cerebellum.stats.verdicts import MILLI

#: Rows of the sweep that a picture has room for.
MOST_ROWS = 400


def pictures(view: View) -> dict[str, str]:
    """SVG by the page's names of charts."""
    drawn: dict[str, str] = {}
    ours, stock = ([p for p in view.points if p.series == series and p.kld.estimate > 0.0] for series in (OURS, STOCK))
    if ours or stock:
        both = [[(p.file_bytes, interval(p.kld), p.label) for p in points] for points in (ours, stock)]
        drawn["frontier"] = sizes_picture(both[0], both[1], view.report_text.partition("; ")[2])
    if view.compared and view.points:
        files = [((p.file_bytes, interval(p.kld), p.label), p.series) for p in view.points]
        drawn["frontier"] = files_picture(files, view.report_text)
    sets = [(s.label, s.cells) for s in view.sizes] or [(view.subtitle.partition(":")[0], view.cells)]
    heats = [
        heat_picture(label, [(c.tensor, c.role, c.block, c.type) for c in cells]) for label, cells in sets if cells
    ]
    if heats:
        drawn["types"] = "".join(heats)
    if any(r.predicted > 0.0 and r.measured > 0.0 for r in view.recipes):
        drawn["prediction"] = recipes_picture(view.recipes, view.search_text)
    if 0 < len(view.singles) <= MOST_ROWS:
        by_kld = all(s.kld for s in view.singles)
        drawn["sweep"] = marks_chart([mark(s, by_kld) for s in view.singles], by_kld, view.search_text)
    return drawn


def interval(mean: Mean) -> Interval:
    """As an interval; a limit that isn't known is infinite."""
    low, high = -math.inf if mean.low is None else mean.low, math.inf if mean.high is None else mean.high
    return Interval(mean.estimate, low, high, math.nan, 0, 0.95)


def mark(single: Single, by_kld: bool) -> Mark:
    """A trial as a row of the picture."""
    change, scale = (single.kld, MILLI) if by_kld and single.kld else (single.percent, 1.0)
    values = (change.estimate, *(change.estimate if v is None else v for v in (change.low, change.high)))
    label = f"{single.tensor.removesuffix('.weight')} → {single.to_type}"
    return Mark(label, (values[0] * scale, values[1] * scale, values[2] * scale), single.verdict, single.chosen)
