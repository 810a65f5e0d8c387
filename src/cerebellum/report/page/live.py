"""The page of a run that goes on: steps with time left, what was said, what was measured so far. Rewritten now and then, read again by the
browser, and replaced by the report at the end.

It never costs a run anything but time (about a fiftieth at most): what goes wrong with it is passed over.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cerebellum.errors import CerebellumError
from cerebellum.files import STUDY_FILE, write_text
from cerebellum.progress import Progress, seconds_left, tell_written
from cerebellum.report.page.html import Number, Table, document, listed, table, text
from cerebellum.report.page.parts import nats, number, whole
from cerebellum.study.store import Study

#: Seconds between two versions at least, how many times as long as writing one takes, and the trials shown at most.
EVERY, TIMES, MOST_TRIALS = 10.0, 50.0, 2000
#: Versions that may fail to come before a page says that its run may have ended.
PATIENCE = 12


@dataclass(slots=True)
class Step:
    """A step of the work: done of total, ``first`` of them known before; seconds of the clock."""

    what: str
    total: int
    done: int
    first: int
    began: float
    ended: float | None = None
    times: list[float] = field(default_factory=list)

    def left(self, now: float) -> float | None:
        """Seconds that the rest takes at the later steps' pace, from ``now`` on; None where nothing is known yet."""
        seconds = seconds_left((self.began, *self.times), self.total - self.done)
        return None if seconds is None else max(seconds - (now - self.times[-1]), 0.0)


class LivePage:
    """A `Progress` that hands everything on and keeps ``page`` (report.html, say) in ``out`` up to date.

    A finished page that was there before comes back if the run ends without a report of its own; one that is published while the run
    goes on stays."""

    def __init__(
        self, inner: Progress, out: Path, model: str, clock: Callable[[], float] = time.monotonic, page: str = "report.html"
    ) -> None:  # fmt: skip
        self._inner, self._out, self._model, self._clock, self._page = inner, out, model, clock, out / page
        self._steps: list[Step] = []
        self._notes: deque[str] = deque(maxlen=30)
        self._before: bytes | None = None
        self._written: bytes | None = None
        self._began, self._next, self._every, self._given_up = clock(), 0.0, EVERY, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._written is None or self._given_up or self._now_there() != self._written:
            return
        with contextlib.suppress(CerebellumError, OSError):
            if self._before is not None:
                write_text(self._page, self._before.decode("utf-8"))
            else:
                how = "It was stopped" if kind is KeyboardInterrupt else "It ended"
                reason = f": {error}" if isinstance(error, CerebellumError) else "."
                self._write(f"{how} before there was a report{reason}", refresh=None)

    # -- Progress ------------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        self._notes.append(text)
        self._inner.note(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._steps.append(Step(what, total, done, done, self._clock()))
        self._inner.begin(what, total, done)
        self._update()

    def step(self, what: str = "") -> None:
        if self._steps:
            self._steps[-1].done += 1
            self._steps[-1].times.append(self._clock())
        self._inner.step(what)
        self._update()

    def written(self, n_tokens: int, n_ended: int) -> None:
        tell_written(self._inner, n_tokens, n_ended)

    def end(self) -> None:
        if self._steps:
            self._steps[-1].ended = self._clock()
        self._inner.end()

    # -- the file ------------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Another version, where it is time for one."""
        now = self._clock()
        if self._given_up or now < self._next or not self._out.is_dir():
            return
        try:
            there = self._now_there()
            if self._written is None:
                self._before = None if there is None or is_live(there) else there
            elif there != self._written:
                self._given_up = True  # a report was published
                return
            self._write("", refresh=round(max(EVERY, self._every)))
        except (CerebellumError, OSError, UnicodeError):
            self._given_up = True
        self._every = max(EVERY, TIMES * (self._clock() - now))
        self._next = self._clock() + self._every

    def _now_there(self) -> bytes | None:
        try:
            return self._page.read_bytes()
        except OSError:
            return None

    def _write(self, ended: str, refresh: int | None) -> None:
        page = self.page(ended, refresh)
        write_text(self._page, page)
        self._written = page.encode("utf-8")

    def page(self, ended: str, refresh: int | None) -> str:
        """The page now. ``ended``: why it is the last version, or ""."""
        now, written = self._clock(), datetime.now().astimezone()
        if ended:
            head = (
                f'<p class="warning">{text(ended)} What was measured is kept: the same command goes on from there.</p>'
            )
        else:
            patience = round(PATIENCE * max(EVERY, self._every))
            marks = f'data-written="{written.timestamp():.0f}" data-patience="{patience}"'
            sentence = f"This page is rewritten while the work goes on, and read again every {refresh} seconds."
            head = f'<p class="quiet" {marks}>{sentence} As of {written:%Y-%m-%d %H:%M:%S %Z}.</p>'
        body = [
            LIVE,
            f"<h1>{text(self._model)}: {'not finished' if ended else 'being measured'}</h1>",
            head,
            self._step_now(now),
        ]
        body += ["<h2>Steps</h2>", self._step_table(now)]
        if self._notes:
            body += ["<h2>What was said</h2>", listed(list(self._notes))]
        return document(f"{self._model}: being measured", "\n".join([*body, *self._measured()]), refresh=refresh)

    def _step_now(self, now: float) -> str:
        """The step that goes on, with its bar."""
        if not self._steps or self._steps[-1].ended is not None:
            return f'<p class="quiet">{duration(now - self._began)} so far.</p>'
        step = self._steps[-1]
        left = "" if (seconds := step.left(now)) is None else f", {duration(seconds)} left in this step"
        bar = f'<progress max="{max(step.total, 1)}" value="{min(step.done, step.total)}"></progress>'
        return f"<p><b>{text(step.what)}</b>: {step.done:,} of {step.total:,}{left}; {duration(now - self._began)} so far.</p>{bar}"

    def _step_table(self, now: float) -> str:
        rows = [
            (
                s.what,
                whole(s.done),
                whole(s.total),
                time_cell((s.ended or now) - s.began),
                "done" if s.ended is not None else "goes on",
            )
            for s in self._steps
        ]
        return table(Table(("step", "done", "of", "time", ""), rows), "steps")

    def _measured(self) -> list[str]:
        """The newest trials of the study with their figures so far."""
        try:
            with Study.open(self._out / STUDY_FILE, read_only=True) as study:
                trials = study.progressed(MOST_TRIALS)
        except (CerebellumError, OSError, sqlite3.Error):
            return []
        if not trials:
            return []
        rows = [(t.label, t.kind, t.series, whole(t.n_chunks), number(t.perplexity), nats(t.kld)) for t in trials]
        note = "Means over the chunks measured so far, newest trials first, without intervals: what they show is said at the end."
        content = Table(("trial", "kind", "text", "chunks", "PPL", "KLD"), rows)
        return [
            "<h2>Measured so far</h2>",
            table(content, "trials"),
            f'<p class="quiet">{note} KLD: thousandths of a nat a token.</p>',
        ]


#: The mark of a page that isn't a report.
LIVE = "<!-- a run that goes on -->"


def is_live(page: bytes) -> bool:
    """Whether a page is one of a run that went on, not a report."""
    return LIVE.encode() in page


def duration(seconds: float) -> str:
    """A time in the largest units that say enough."""
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def time_cell(seconds: float) -> Number:
    """A time that sorts."""
    return Number(duration(seconds), seconds)
