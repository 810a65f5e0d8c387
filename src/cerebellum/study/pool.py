"""Spread groups of work over engines; results come back to the one caller that owns the database.

Each engine takes the next group whole (all trials of one chunk, so what it caches for that chunk is used). Which engine takes which
group, and in what order results arrive, changes no number: that is the engine's promise.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Worker = TypeVar("Worker")
Group = TypeVar("Group")
Result = TypeVar("Result")


class _End:
    """A worker has finished, with the error that ended it if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def fan_out(
    workers: Sequence[Worker], groups: Iterable[Group], work: Callable[[Worker, Group], Iterator[Result]]
) -> Iterator[Result]:
    """Yield every result of ``work(worker, group)`` over all groups, as they arrive.

    The first error stops the others after the result they are computing; what they had is still yielded, then it is raised. Closing
    the iterator stops them too.
    """
    if len(workers) == 1:
        for group in groups:
            yield from work(workers[0], group)
        return
    waiting: queue.Queue[Group] = queue.Queue()
    for group in groups:
        waiting.put(group)
    results: queue.Queue[Result | _End] = queue.Queue()
    stop = threading.Event()

    def loop(worker: Worker) -> None:
        error: BaseException | None = None
        try:
            while not stop.is_set():
                for result in work(worker, waiting.get_nowait()):
                    results.put(result)
                    if stop.is_set():
                        break
        except queue.Empty:
            pass
        except BaseException as caught:
            error = caught
        results.put(_End(error))

    threads = [threading.Thread(target=loop, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield from _collect(results, len(threads), stop)
    finally:
        stop.set()


def _collect(results: queue.Queue[Result | _End], running: int, stop: threading.Event) -> Iterator[Result]:
    first: BaseException | None = None
    while running:
        item = results.get()
        if not isinstance(item, _End):
            yield item
            continue
        running -= 1
        if item.error is not None:
            stop.set()
            first = first or item.error
    if first is not None:
        raise first
