"""HTML that nothing in it can break: every text of others is escaped here, scripts are ours and named by their hashes.

The page's policy allows inline scripts with these hashes and inline styles, and no request of any kind: no script, picture, font, frame or
connection comes from elsewhere, and no text becomes code (there is no ``unsafe-eval``).
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cerebellum.quoting import printable, strict_json

#: Rows of a table that are written as HTML; the others lie in it as JSON and are shown by the script.
STATIC_ROWS = 200
#: The most characters of a line to copy.
MOST_LINE = 100_000


@dataclass(frozen=True, slots=True)
class Number:
    """A cell that sorts by ``value``; None comes last."""

    text: str
    value: float | None


Cell = str | Number


@dataclass(frozen=True, slots=True)
class Table:
    """``numbers``: titles of the columns that hold `Number`. ``best``: rows in bold, by index."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    best: frozenset[int] = frozenset()


def text(words: str) -> str:
    """Text of others as HTML: hidden characters are shown as escapes, nothing is a tag or an entity."""
    return html.escape(printable(words))


def data(value: Any) -> str:
    """JSON for a script element: no ``<``, ``>`` or ``&`` in it, so nothing in it ends the element."""
    return strict_json(value, None).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def asset(name: str) -> str:
    """A file beside this module, its lines ended as HTML ends them."""
    return (files("cerebellum.report.page") / name).read_text(encoding="utf-8").replace("\r\n", "\n")


# -- pieces ------------------------------------------------------------------------------------------------------------


def table(content: Table, label: str) -> str:
    """A table with its filter. It is whole without any script up to `STATIC_ROWS` rows."""
    rows, numeric = content.rows, [isinstance(cell, Number) for cell in (content.rows[0] if content.rows else ())]
    numeric = numeric or [False] * len(content.columns)
    head = "".join(
        f'<th scope="col"{_number_class(n)}><button type="button">{text(title)}</button></th>'
        for title, n in zip(content.columns, numeric, strict=True)
    )
    body = "".join(_row(row, i in content.best) for i, row in enumerate(rows[:STATIC_ROWS]))
    rest, note = "", ""
    if len(rows) > STATIC_ROWS:
        more = [
            [[c.text, c.value] if isinstance(c, Number) else [printable(c), None] for c in r]
            for r in rows[STATIC_ROWS:]
        ]
        rest = f'<script type="application/json">{data(more)}</script>'
        note = f'<noscript><p class="quiet">{len(rows) - STATIC_ROWS:,} more rows are in report.json.</p></noscript>'
    return (
        f'<div class="sortable"><div class="tools"><label>filter <input type="search" aria-label="filter: {text(label)}"></label>'
        f'<output class="quiet"></output></div><div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<button type="button" class="more" hidden></button>{rest}{note}</div>'
    )  # fmt: skip


def _row(row: Sequence[Cell], best: bool) -> str:
    head = '<tr class="best">' if best else "<tr>"
    return f"{head}{''.join(map(_cell, row))}</tr>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{text(cell)}</td>"
    value = "" if cell.value is None else f' data-v="{cell.value:.10g}"'
    return f'<td class="n"{value}>{text(cell.text)}</td>'


def _number_class(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def folded(title: str, body: str) -> str:
    """What is opened by a click."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def listed(lines: Sequence[str], *, ordered: bool = False) -> str:
    """A list of sentences."""
    tag = "ol" if ordered else "ul"
    return f"<{tag}>{''.join(f'<li>{text(line)}</li>' for line in lines)}</{tag}>" if lines else ""


def code(lines: Sequence[str]) -> str:
    """Lines to copy, each on one line whatever it holds."""
    return f"<pre><code>{chr(10).join(html.escape(printable(line, MOST_LINE)) for line in lines)}</code></pre>"


# -- the page ----------------------------------------------------------------------------------------------------------


def document(title: str, body: str, *, vega: str = "", refresh: int | None = None) -> str:
    """The whole file. ``vega``: the charts' JavaScript, or "". ``refresh``: seconds after which a browser reads the file again."""
    scripts = [script for script in (vega, asset("page.js")) if script]
    style = asset("page.css")
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n'
        f"{body}\n{''.join(f'<script>{script}</script>{chr(10)}' for script in scripts)}</body>\n</html>\n"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
