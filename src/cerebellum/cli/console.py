"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere.

rich is imported when something is printed: `--help` does without.
"""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cerebellum.figures import counted
from cerebellum.progress import clock, seconds_left, seconds_to_write
from cerebellum.quoting import name, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table
    from rich.text import Text

    from cerebellum.report.grids import Grid

#: Seconds between plain lines where there is no terminal.
PLAIN_EVERY = 10.0
#: Columns that any table finds room in, and columns of prose, where there is no terminal.
WIDE, PROSE = 1000, 140
#: Columns that every terminal has, and blanks between two columns of a table.
NARROW, GAP = 80, 2
#: Columns that messages take at least, however narrow the terminal.
LEAST_COLUMNS = 40


#: Columns of a bar, and of the words beside it at least.
BAR, LEAST_WORDS = 12, 10


class ConsoleProgress:
    """See `cerebellum.progress.Progress`."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._total, self._done, self._started, self._first, self._last = "", 0, 0, 0.0, 0, 0.0
        self._times: list[float] = []
        self._told: list[tuple[float, int]] = []
        self._ended, self._now = 0, ""

    @property
    def shows(self) -> bool:
        """Whether bars are drawn."""
        return self._live

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is said."""
        return self._console.quiet

    def note(self, text: str) -> None:
        text = printable(text)
        if self._console.is_terminal:  # else a note is one line, for programs
            text = folded(text, max(self._console.width, LEAST_COLUMNS))
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        what = name(what)
        self._what, self._total, self._done, self._first = what, total, done, done
        self._started = self._last = time.monotonic()
        self._times, self._told, self._ended = [self._started], [(self._started, 0)], 0
        self._now = ""
        if self._live:
            self._bar = _bar(self._console)
            shown, _ = bar_words(what, f"{total}/{total}", "", "", self._console.width)
            self._task = self._bar.add_task(shown, total=total, completed=done, now="", left="")
            self._bar.start()
        elif done:
            self.note(f"{what}: {done} of {total} done before")

    def step(self, what: str = "") -> None:
        self._done += 1
        self._times.append(time.monotonic())
        self._show(name(what))

    def written(self, n_tokens: int, n_ended: int) -> None:
        self._told.append((time.monotonic(), n_tokens))
        self._ended = n_ended
        self._show("")

    def _show(self, now: str) -> None:
        """The bar as it is now; without a terminal a line, where the last one is `PLAIN_EVERY` ago."""
        if self._bar is not None and self._task is not None:
            self._now = now or self._now
            left = self._left().removeprefix(", ").replace(" written", "")
            what, now = bar_words(self._what, f"{self._total}/{self._total}", left, self._now, self._console.width)
            self._bar.update(self._task, description=what, completed=self._done, left=left, now=now)
        elif time.monotonic() - self._last > PLAIN_EVERY:
            self._last = time.monotonic()
            self.note(f"{self._what}: {self._done} of {self._total}{self._left()}")

    def _left(self) -> str:
        """Tokens written, where answers are, and the time left, where it can be told."""
        n_left, n_tokens = self._total - self._done, self._told[-1][1]
        if n_tokens:
            seconds = seconds_to_write(self._told, self._ended, self._done - self._first, n_left)
        else:
            seconds = seconds_left(self._times, n_left)
        tokens = f", {counted(n_tokens, 'token')} written" if n_tokens else ""
        return tokens + ("" if seconds is None else f", {clock(seconds, whole=True)} left")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if self._done > self._first:  # called in a `finally`: an error or Ctrl-C is on its way out there
            stopped = ", stopped" if self._done < self._total and sys.exc_info()[0] is not None else ""
            seconds = clock(time.monotonic() - self._started)
            self.note(f"{self._what}: {self._done} of {self._total} in {seconds}{stopped}")


def bar_words(what: str, count: str, left: str, now: str, width: int) -> tuple[str, str]:
    """What work is and what is under way, cut so that bar, count and times stand whole in a line of ``width`` columns."""
    room = width - sum(n + 1 for n in (BAR, len(count), len("0:00:00"), len(left))) - 1
    what = _cut(what, max(room, LEAST_WORDS))
    room -= len(what)
    return what, _cut(now, room) if room >= LEAST_WORDS else ""


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _bar(console: Console) -> Progress:
    """A live bar that goes when it is done."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        BarColumn(BAR),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    what, now = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[now]"))
    return Progress(what, *columns, now, console=console, transient=True)


def stdout_console() -> Console:
    """For results: tables on standard output, as wide as they need where it's not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDE, file=sys.stdout)


def print_grid(grid: Grid) -> None:
    """A table of the report on standard output, its notes beneath. Where the terminal is narrower, cells are folded, never cut."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    table = Table(
        title=Text(printable(grid.title)),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in grid.columns:
        table.add_column(Text(name(column)), overflow="fold", no_wrap=not console.is_terminal)
    for row in grid.rows:
        table.add_row(*(Text(name(cell)) for cell in row))
    print_drawn(console, table)
    for note in grid.notes:
        print_lines(console, [note], style="dim")
    console.print()


def print_drawn(console: Console, drawn: Table | Text) -> None:
    """What rich draws; where it goes to no terminal, without blanks at the ends of lines."""
    if console.is_terminal:
        console.print(drawn)
        return
    with console.capture() as text:
        console.print(drawn)
    for line in text.get().splitlines():
        print(line.rstrip())


def print_table(grid: Grid, *, wide: bool = False) -> None:
    """A table within 80 columns; as wide as it is where ``wide``."""
    (print_grid if wide else print_narrow)(grid)


def print_narrow(grid: Grid, width: int = NARROW) -> None:
    """A table within ``width`` columns, its notes beneath: cells wrap between words, never inside one, and no line ends in blanks. Where
    the words are too long for that, names wrap after their hyphens too; where that isn't enough, each row is a few lines of prose."""
    cells = [[name(cell) for cell in row] for row in (grid.columns, *grid.rows)]
    print(printable(grid.title))
    for pieces in (WORDS, HYPHENED):
        least = [
            max(len(p) for cell in (*column, " ") for p in (*pieces.findall(cell), "")) or 1
            for column in zip(*cells, strict=True)
        ]
        if sum(least) + GAP * (len(least) - 1) <= width:
            print_columns(cells, least, width, pieces)
            break
    else:
        print_records(cells, width)
    for note in grid.notes:
        print_folded(f"  {note}", width, "    ")
    print()


#: What stays together where cells wrap: words, and words up to their hyphens.
WORDS, HYPHENED = re.compile(r"\S+"), re.compile(r"[^\s-]*-+|[^\s-]+")


def print_columns(cells: Sequence[Sequence[str]], least: Sequence[int], width: int, pieces: re.Pattern[str]) -> None:
    """A head and rows side by side. Where that is wider than ``width``, the widest column gives way, down to its longest piece."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    while sum(widths) + GAP * (len(widths) - 1) > width:
        widest = -max((w > few, w, -at) for at, (w, few) in enumerate(zip(widths, least, strict=True)))[2]
        widths[widest] -= 1
    for row in cells:
        wrapped = [wrapped_cell(cell, room, pieces) for cell, room in zip(row, widths, strict=True)]
        for lines in itertools.zip_longest(*wrapped, fillvalue=""):
            print((" " * GAP).join(text.ljust(room) for text, room in zip(lines, widths, strict=True)).rstrip())


def wrapped_cell(cell: str, room: int, pieces: re.Pattern[str]) -> list[str]:
    """The lines of a cell, each of at most ``room`` characters: as many ``pieces`` in a line as fit."""
    lines, end = [""], 0
    for piece in pieces.finditer(cell):
        gap = " " if piece.start() > end and lines[-1] else ""
        if len(lines[-1]) + len(gap) + len(piece[0]) <= room or not lines[-1]:
            lines[-1] += gap + piece[0]
        else:
            lines.append(piece[0])
        end = piece.end()
    return lines


def print_records(cells: Sequence[Sequence[str]], width: int) -> None:
    """Each row as its first cell and a line of the others, named."""
    head, *rows = cells
    previous = False
    for first, *others in rows:
        if first or not previous:  # a row without a name goes on with the one before
            print_folded(first or "-", width)
        previous = True
        named = (f"{column}: {cell}" if column else cell for column, cell in zip(head[1:], others, strict=True) if cell)
        print_folded(f"  {'; '.join(named)}", width, "    ")


def print_folded(text: str, width: int = NARROW, indent: str = "  ") -> None:
    """A line of prose within ``width`` columns; a name that is longer stays whole."""
    print(folded(printable(text), width, indent))


def folded(text: str, width: int = NARROW, indent: str = "  ") -> str:
    """A line of prose within ``width`` columns; a word that is longer stays whole."""
    lead = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(
        text.strip(),
        width,
        initial_indent=lead,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_lines(console: Console, lines: Iterable[str], style: str | None = None) -> None:
    """Lines of prose, indented; wrapped to the terminal, or to `PROSE` where there is none."""
    width = console.width if console.is_terminal else PROSE
    for line in lines:
        wrapped = textwrap.fill(printable(line), max(width, 40), initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                                break_on_hyphens=False)  # fmt: skip
        console.print(wrapped, highlight=False, markup=False, style=style, soft_wrap=True)
