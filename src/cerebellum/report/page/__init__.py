"""The report as one page, ``report.html``: a file that opens without a network, made from ``report.json`` alone.

With the `report` extra its charts are interactive (Vega, whose JavaScript lies in the page); without it they are plain SVG. Tables, words
and order are the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cerebellum import __version__
from cerebellum.errors import InputError
from cerebellum.files import write_text
from cerebellum.quoting import name, strict_json
from cerebellum.report.page import vega
from cerebellum.report.page.html import data, document, text
from cerebellum.report.page.parts import Section
from cerebellum.report.page.pictures import pictures
from cerebellum.report.page.sections import is_folder, navigation, sections
from cerebellum.report.reading import view_of
from cerebellum.report.views import View
from cerebellum.text.untrusted import open_regular

#: Names of the data and the page: of a run or a comparison, and of a sweep, which may lie beside a run's.
REPORT, SWEEP = "report", "sweep"
#: The largest ``report.json`` that is read.
MOST_BYTES = 1 << 30
#: A picture is kept beside a chart, for browsers without scripts and for print, up to this many characters.
MOST_PICTURE = 200_000


def write_page(summary: dict[str, Any], out: Path, stem: str = REPORT) -> None:
    """``report.html`` (or ``sweep.html``) of what the JSON beside it holds, into ``out``. Raises `OutputError`."""
    write_text(out / f"{stem}.html", page_of(view_of(json.loads(strict_json(summary)))))


def redraw(folder: Path) -> tuple[Path, ...]:
    """The page of a finished folder, made anew from its ``report.json``, of a ladder the page of each size, and of a sweep its page.
    Returns their paths, the folder's own first. Raises `InputError` or `OutputError`."""
    swept = (folder / f"{SWEEP}.json").is_file()
    if swept and not (folder / f"{REPORT}.json").exists():
        return (_redraw_sweep(folder),)
    view = read_view(folder)
    below = [folder / size.label for size in view.sizes if is_folder(size.label)]
    sized = [(one, read_view(one)) for one in below if (one / "report.json").is_file()]
    for where, what in [(folder, view), *sized]:
        write_text(where / f"{REPORT}.html", page_of(what))
    pages = tuple(where / f"{REPORT}.html" for where in (folder, *(one for one, _ in sized)))
    return (*pages, _redraw_sweep(folder)) if swept else pages


def _redraw_sweep(folder: Path) -> Path:
    page = folder / f"{SWEEP}.html"
    write_text(page, page_of(read_view(folder, SWEEP)))
    return page


def read_view(folder: Path, stem: str = REPORT) -> View:
    """What the ``report.json`` (or ``sweep.json``) of a folder says. Raises `InputError`."""
    path = folder / f"{stem}.json"
    try:
        with open_regular(path) as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(
            f"can't read {path}: {why}; give the folder that `run`, `sweep` or `compare` wrote (--out)"
        ) from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is too large to be a report ({MOST_BYTES:,} bytes or more)")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {name(str(error))}") from error
    return view_of(value, str(path))


def page_of(view: View, *, interactive: bool | None = None) -> str:
    """The page. ``interactive`` None: where the `report` extra is installed."""
    interactive = vega.is_available() if interactive is None else interactive
    specs, script, trouble = charts_of(view) if interactive else ({}, "", "")
    drawn, listed = pictures(view), sections(view)
    body = [
        f'<header><h1>{text(view.title)}</h1><p class="quiet">{text(view.subtitle)}</p></header>',
        *(f'<p class="warning"><b>Warning.</b> {text(warning)}</p>' for warning in view.warnings),
        f'<ul class="verdict">{"".join(map(_verdict_line, view.verdict))}</ul>',
        navigation(listed),
        *(_section(section, specs, drawn) for section in listed),
        f'<footer class="quiet">Made by Cerebellum {text(__version__)} from the JSON file beside it. {_credit(specs, trouble)}</footer>',
        *(f'<script type="application/json" id="spec-{key}">{data(spec)}</script>' for key, spec in specs.items()),
    ]
    return document(view.title, "\n".join(body), vega=script)


def charts_of(view: View) -> tuple[dict[str, Any], str, str]:
    """The charts' specifications, their JavaScript, and what went wrong. A page is written at the end of hours: whatever a library for
    charts raises, plain pictures take their place, and the page says so."""
    try:
        from cerebellum.report.page.charts import charts

        return charts(view), vega.javascript(), ""
    except Exception as error:
        return (
            {},
            "",
            f"Charts could not be drawn ({type(error).__name__}: {name(str(error))}), so these are plain pictures.",
        )


def _verdict_line(line: str) -> str:
    head, colon, rest = line.partition(": ")
    return f"<li><b>{text(head)}:</b> {text(rest)}</li>" if colon and len(head) < 30 else f"<li>{text(line)}</li>"


def _section(section: Section, specs: dict[str, Any], drawn: dict[str, str]) -> str:
    figures = "".join(_figure(key, section, specs, drawn) for key in section.charts)
    intro = f"<p>{text(section.intro)}</p>" if section.intro else ""
    return f'<section id="{section.key}"><h2>{text(section.title)}</h2>{intro}{figures}{section.html}</section>'


def _figure(key: str, section: Section, specs: dict[str, Any], drawn: dict[str, str]) -> str:
    picture = f'<div class="plain scroll">{drawn[key]}</div>' if key in drawn else ""
    if key not in specs:
        return f"<figure>{picture}</figure>" if picture else ""
    kept = f"<noscript>{picture}</noscript>" if picture and len(picture) <= MOST_PICTURE else ""
    label, width = text(f"chart: {section.title}"), f"--least:{section.least:.4g}rem"
    holder = f'<div class="chart" data-spec="spec-{key}" style="{width}"></div>'
    return f'<figure aria-label="{label}"><div class="scroll">{holder}</div>{kept}</figure>'


def _credit(specs: dict[str, Any], trouble: str) -> str:
    if specs:
        return "Charts: Vega and Vega-Lite (BSD 3-Clause), which lie in this file; nothing is fetched."
    return text(trouble or "Install cerebellum[report] for charts that answer to the pointer.")
