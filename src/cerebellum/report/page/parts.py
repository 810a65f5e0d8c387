"""What sections of the page are made of: numbers as cells, tables that fold, notes."""

from __future__ import annotations

from dataclasses import dataclass

from cerebellum.report.page.html import Number, Table, folded, table, text
from cerebellum.report.page.words import figure, short, with_range
from cerebellum.report.views import Mean
from cerebellum.stats.verdicts import MILLI


@dataclass(frozen=True, slots=True)
class Section:
    """``charts``: names of charts. ``least``: the width that they need, in rem. ``html`` stands below them."""

    key: str
    title: str
    intro: str
    charts: tuple[str, ...]
    html: str
    least: float = 17.0


def number(value: float | None, shown: str | None = None) -> Number:
    """A number, ``?`` where it isn't known."""
    return Number("?" if value is None else shown if shown is not None else figure(value), value)


def nats(value: float | None) -> Number:
    """Nats as thousandths."""
    return Number(short(value), None if value is None else value * MILLI)


def whole(value: int) -> Number:
    """A count."""
    return Number(f"{value:,}", value)


def block_cell(block: int | None) -> Number:
    """A block's number, ``–`` outside the blocks."""
    return Number("–" if block is None else str(block), block)


def mean_cell(mean: Mean) -> Number:
    """A KL divergence with its interval."""
    return Number(with_range(mean), mean.estimate * MILLI)


def open_table(content: Table, label: str) -> str:
    """A table that is seen at once where it is short, and opened by a click where it is long."""
    drawn = table(content, label)
    return drawn if len(content.rows) <= 12 else folded(f"Table: {label} ({len(content.rows):,} rows)", drawn)


def quiet(*lines: str) -> str:
    """Notes in small print."""
    return "".join(f'<p class="quiet">{text(line)}</p>' for line in lines if line)
