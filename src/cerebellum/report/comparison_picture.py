"""Files as points: KL divergence against bytes. Plain SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cerebellum.report.grids import chunks_of
from cerebellum.report.kld_bytes import files_picture
from cerebellum.report.short_names import short_names
from cerebellum.report.views import DOMINATED, UNPROVEN, WORTH

if TYPE_CHECKING:
    from cerebellum.results import Measured, Measurement
    from cerebellum.stats.intervals import Interval
    from cerebellum.stats.pareto import ParetoRank


def comparison_picture(measurement: Measurement) -> str:
    """A point a file with its 95 % interval, the front joined by a line."""
    names = short_names([f.name for f in measurement.files])
    files = [
        ((f.file_bytes, _mean(f), name), series_of(standing))
        for f, name, standing in zip(measurement.files, names, measurement.standings, strict=True)
    ]
    return files_picture(files, f"Text {chunks_of(measurement.facts['text'])}")


def series_of(standing: ParetoRank) -> str:
    """Whether a file is worth having, as pictures and the page call it."""
    return DOMINATED if standing.dominated_by else UNPROVEN if standing.unproven_against else WORTH


def _mean(file: Measured) -> Interval | None:
    return None if file.summary.divergence is None else file.summary.divergence.mean
