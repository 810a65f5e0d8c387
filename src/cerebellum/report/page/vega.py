"""Vega without a browser: its JavaScript in one text, and a specification as PNG. Needs the `report` extra."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cerebellum.cached import cache_folder
from cerebellum.errors import InputError, OutputError
from cerebellum.files import write_text
from cerebellum.keys import sha256_file
from cerebellum.text.untrusted import open_regular

#: The light colours of ``page.css``, for pictures outside of a page.
LIGHT = {
    "ink": "#1b1f24", "quiet": "#59636e", "line": "#d9dee3", "back": "#ffffff", "ours": "#0072b2", "stock": "#d55e00", "control": "#009e73",
    "shuffled": "#7a828b", "pink": "#cc79a7", "yellow": "#b58900",
}  # fmt: skip
#: Vega-Lite that the specifications are of.
VEGA_LITE = "6.4"
NOTICE = (
    "/* Vega, Vega-Lite, Vega-Embed and Vega-Tooltip, (c) University of Washington Interactive Data Lab and contributors, and D3, (c) Mike "
    "Bostock. BSD 3-Clause and ISC licences. */\n"
)
#: The last line of a whole script, and more bytes than one has.
END, LARGEST = "/* end */\n", 1 << 23


def is_available() -> bool:
    """Whether charts can be drawn."""
    return all(importlib.util.find_spec(module) is not None for module in ("altair", "vl_convert"))


@lru_cache(maxsize=1)
def javascript() -> str:
    """Vega and Vega-Embed as one script that defines ``vegaEmbed``; made once a machine, in a second or two, without any network."""
    source = Path(__file__)
    name = f"vega-{version('vl-convert-python')}-{sha256_file(source)[:16]}"
    folder = cache_folder(name, source.parent)
    if folder is None:
        return _bundle()
    kept = folder / "vega.js"
    with contextlib.suppress(InputError, OSError, UnicodeDecodeError):
        with open_regular(kept) as stream:
            text = stream.read(LARGEST).decode()
        if text.startswith(NOTICE) and text.endswith(END):
            return text
    text = _bundle()
    with contextlib.suppress(OutputError):
        write_text(kept, text)
    return text


def _bundle() -> str:
    import vl_convert

    text = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE))
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as a reader of HTML hands it to the check of its hash
    return NOTICE + re.sub("<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE) + END


def plain(spec: dict[str, Any], width: int) -> dict[str, Any]:
    """The specification in light colours on white, of a fixed width."""
    text = re.sub(r"var\(--([a-z]+)\)", lambda match: LIGHT[match[1]], json.dumps(spec))
    return {**json.loads(text), "width": width, "background": LIGHT["back"]}


def png(spec: dict[str, Any], width: int = 640, scale: float = 2.0) -> bytes:
    """The chart as PNG, ``scale`` pixels a point."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(plain(spec, width), vl_version=VEGA_LITE, scale=scale))
