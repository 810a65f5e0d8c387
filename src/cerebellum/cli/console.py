"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere.

rich is imported when something is printed: `--help` does without.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cerebellum.quoting import name, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from cerebellum.report.grids import Grid

#: Seconds between plain lines where there is no terminal.
PLAIN_EVERY = 10.0
#: Columns that any table finds room in, and columns of prose, where there is no terminal.
WIDE, PROSE = 1000, 140
#: Columns that every terminal has.
NARROW = 80


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

    @property
    def shows(self) -> bool:
        """Whether bars are drawn."""
        return self._live

    def note(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        what = name(what)
        self._what, self._total, self._done, self._first = what, total, done, done
        self._started = self._last = time.monotonic()
        self._times = [self._started]
        if self._live:
            self._bar = _bar(self._console)
            self._task = self._bar.add_task(what, total=total, completed=done, now="")
            self._bar.start()
        elif done:
            self.note(f"{what}: {done} of {total} done before")

    def step(self, what: str = "") -> None:
        self._done += 1
        self._times.append(time.monotonic())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, now=name(what))
        elif time.monotonic() - self._last > PLAIN_EVERY:
            self._last = time.monotonic()
            self.note(f"{self._what}: {self._done} of {self._total}{time_left(self._times, self._total - self._done)}")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if self._done > self._first:
            self.note(f"{self._what}: {self._done} of {self._total} in {clock(time.monotonic() - self._started)}")


#: Steps by which a rate is told: what the first ones took says little, since files are opened and loops compiled in them.
LEAST_STEPS = 4


def time_left(times: Sequence[float], n_left: int) -> str:
    """``, 1 h 5 min left``: by the rate of the later half of the steps that ended at ``times[1:]`` (seconds; work began at ``times[0]``).
    Empty while there are too few to tell."""
    n = len(times) - 1
    if n < LEAST_STEPS:
        return ""
    late = n - n // 2
    return f", {clock((times[-1] - times[late]) / (n - late) * n_left, whole=True)} left"


def clock(seconds: float, *, whole: bool = False) -> str:
    """A span of time as people say it: ``12.3 s`` (``12 s`` where ``whole``), ``4 min``, ``1 h 5 min``, ``2 d 3 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if whole else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _bar(console: Console) -> Progress:
    """A live bar that goes when it is done."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
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
    console.print(table)
    for note in grid.notes:
        print_lines(console, [note], style="dim")
    console.print()


def print_table(grid: Grid, *, wide: bool = False) -> None:
    """A table within 80 columns; as wide as it is where ``wide``."""
    (print_grid if wide else print_narrow)(grid)


def print_narrow(grid: Grid, width: int = NARROW) -> None:
    """A table within ``width`` columns, its notes beneath: cells wrap between words, and no line ends in blanks."""
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in grid.columns:
        short = column is grid.columns[0] and all(len(row[0]) < width // 2 for row in grid.rows)
        table.add_column(Text(name(column)), overflow="fold", no_wrap=short)
    for row in grid.rows:
        table.add_row(*(Text(name(cell)) for cell in row))
    drawn = io.StringIO()
    Console(file=drawn, width=width).print(table)
    print(printable(grid.title))
    for line in drawn.getvalue().splitlines():
        print(line.rstrip())
    for note in grid.notes:
        print_folded(f"  {note}", width, "    ")
    print()


def print_folded(text: str, width: int = NARROW, indent: str = "  ") -> None:
    """A line of prose within ``width`` columns; a name that is longer stays whole."""
    lead = text[: len(text) - len(text.lstrip())]
    print(textwrap.fill(printable(text.strip()), width, initial_indent=lead, subsequent_indent=indent, break_long_words=False,
                        break_on_hyphens=False))  # fmt: skip


def print_lines(console: Console, lines: Iterable[str], style: str | None = None) -> None:
    """Lines of prose, indented; wrapped to the terminal, or to `PROSE` where there is none."""
    width = console.width if console.is_terminal else PROSE
    for line in lines:
        wrapped = textwrap.fill(printable(line), max(width, 40), initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                                break_on_hyphens=False)  # fmt: skip
        console.print(wrapped, highlight=False, markup=False, style=style, soft_wrap=True)
