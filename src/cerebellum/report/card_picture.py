"""The picture that a model card shows: KL divergence against bytes, as PNG with the `report` extra (hubs show it as it is), else as SVG."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cerebellum.files import write_bytes
from cerebellum.quoting import strict_json
from cerebellum.report.page import vega
from cerebellum.report.page.pictures import pictures
from cerebellum.report.reading import view_of

#: The chart of the page that the card has too.
CHART = "frontier"


def write_picture(summary: dict[str, Any], folder: Path, stem: str) -> list[str]:
    """Draw what ``report.json`` holds beside the card. Returns the card's lines that show it; none where nothing was measured together.

    Raises `OutputError`. Whatever the library for charts raises, the plain picture is taken: a card comes at the end of hours.
    """
    view = view_of(json.loads(strict_json(summary)))
    drawn = pictures(view).get(CHART)
    if drawn is None:
        return []
    png, svg = (folder / f"{stem}.kld.{kind}" for kind in ("png", "svg"))
    image = None
    if vega.is_available():
        with contextlib.suppress(Exception):
            from cerebellum.report.page.charts import charts

            image = vega.png(charts(view, only=CHART)[CHART])
    path, other = (svg, png) if image is None else (png, svg)
    write_bytes(path, drawn.encode("utf-8") if image is None else image)
    with contextlib.suppress(OSError):  # of an earlier card
        other.unlink(missing_ok=True)
    return [f"![KL divergence against bytes](<{quote(path.name)}>)", ""]
