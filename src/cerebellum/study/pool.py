"""Spread groups of work over workers; results come back to the one caller that owns the database.

Each worker takes the next group whole, so what it caches for its chunks and tensors is used. Which worker takes which group, and in what
order results arrive, changes no number: that is the engine's promise.

A worker may hand a group back (`Again`), for another one to try, and it may be lost (`WorkerLost`): then the others do its work. Where no
group waits, who is idle takes a part of what another has not begun (`Waiting`, ``split``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Worker = TypeVar("Worker")
Group = TypeVar("Group")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Again(Generic[Group]):
    """Yielded by work: do ``group`` again, on another worker where there is one, after what is waiting."""

    group: Group


class WorkerLost(Exception):
    """Raised by work: this worker does no more. ``left``: what it had begun and others are to do; ``error``: why."""

    def __init__(self, error: Exception, left: Sequence[Any]) -> None:
        super().__init__(str(error))
        self.error, self.left = error, tuple(left)


#: Seconds after which an idle worker looks again whether there is something to take from another.
LOOK_SECONDS = 0.5


class _End:
    """A worker has finished, with the error that ended it if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Waiting(Generic[Group]):
    """Groups that wait for a worker, in their order; numbers are the workers'. ``split``: takes a part of a running group from its worker
    and gives it, or None."""

    def __init__(
        self, groups: Iterable[Group], n_workers: int, split: Callable[[], Group | None] = lambda: None
    ) -> None:
        self._changed = threading.Condition()
        self._split = split
        self._waiting: list[tuple[Group, int | None]] = [(group, None) for group in groups]
        self._running = 0
        self._alive = n_workers
        self._stopped = False

    def take(self, worker: int) -> Group | None:
        """The next group that this worker hasn't handed back, or any where it is the last worker; None: all is done. Waits while other
        workers may still hand some back."""
        with self._changed:
            while not self._stopped:
                if (group := self.try_take(worker)) is not None:
                    return group
                if not self._running and not self._waiting:
                    return None
                self._changed.wait(LOOK_SECONDS)
            return None

    def try_take(self, worker: int) -> Group | None:
        """As `take`, without waiting: None where nothing is there for this worker now."""
        with self._changed:
            for at, (group, avoids) in enumerate(self._waiting):
                if avoids != worker or self._alive == 1:
                    del self._waiting[at]
                    self._running += 1
                    return group
            if self._running and (taken := self._split()) is not None:
                self._running += 1
                return taken
            return None

    def again(self, group: Group, worker: int) -> None:
        """Put a group back, for another worker."""
        with self._changed:
            self._waiting.append((group, worker))
            self._changed.notify_all()

    def done(self) -> None:
        """A group that was taken is done with."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def lost(self, left: Sequence[Group]) -> bool:
        """A worker is gone; what it had comes next. Whether any other is there."""
        with self._changed:
            self._alive -= 1
            self._waiting[:0] = [(group, None) for group in left]
            self._changed.notify_all()
            return self._alive > 0

    def stop(self) -> None:
        """Give out no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def is_stopped(self) -> bool:
        return self._stopped


def fan_out(
    workers: Sequence[Worker],
    groups: Iterable[Group] | Waiting[Group],
    work: Callable[[Worker, Group], Iterator[Result | Again[Group]]],
) -> Iterator[Result]:
    """Yield every result of ``work(worker, group)`` over all groups, as they arrive.

    The first error stops the others after the result they are computing; what they had is still yielded, then it is raised. Closing
    the iterator stops them too. Losing a worker is no error while another is there.
    """
    waiting = groups if isinstance(groups, Waiting) else Waiting(groups, len(workers))
    if len(workers) == 1:
        alone: Iterator[Result] = _run(workers[0], 0, waiting, work)
        yield from alone
        return
    results: queue.Queue[Result | _End] = queue.Queue()

    def loop(number: int, worker: Worker) -> None:
        error: BaseException | None = None
        try:
            stream: Iterator[Result] = _run(worker, number, waiting, work)
            for result in stream:
                results.put(result)
                if waiting.is_stopped:
                    break
        except BaseException as caught:
            error = caught
        results.put(_End(error))

    threads = [threading.Thread(target=loop, args=pair, daemon=True) for pair in enumerate(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from _collect(results, len(threads), waiting)
    finally:
        waiting.stop()


def _run(
    worker: Worker,
    number: int,
    waiting: Waiting[Group],
    work: Callable[[Worker, Group], Iterator[Result | Again[Group]]],
) -> Iterator[Result]:
    """What one worker does until nothing is left, or it is lost."""
    while (group := waiting.take(number)) is not None:
        try:
            for result in work(worker, group):
                if isinstance(result, Again):
                    waiting.again(result.group, number)
                else:
                    yield result
        except WorkerLost as lost:
            if not waiting.lost(lost.left):
                raise lost.error from lost
            return
        finally:
            waiting.done()


def _collect(results: queue.Queue[Result | _End], running: int, waiting: Waiting[Any]) -> Iterator[Result]:
    first: BaseException | None = None
    while running:
        item = results.get()
        if not isinstance(item, _End):
            yield item
            continue
        running -= 1
        if item.error is not None:
            waiting.stop()
            first = first or item.error
    if first is not None:
        raise first
