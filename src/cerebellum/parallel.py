"""Rows shared among threads, for work that releases the interpreter's lock: native code, compiled loops."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass


def pieces_of(rows: int, threads: int, least: int, most: int = sys.maxsize) -> Iterator[tuple[int, int]]:
    """Rows 0 … ``rows`` − 1 as (first, last + 1), large pieces first, each a share of what is left: few are handed over, and all end
    together. None but the last has fewer than ``least`` rows, none more than ``most`` where that is no less."""
    first = 0
    while first < rows:
        last = min(rows, first + max(least, min(most, (rows - first) // (2 * threads))))
        yield first, last
        first = last


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads that share rows among them: the calling one and ``n`` − 1 of ``pool``."""

    pool: Executor | None = None
    n: int = 1

    @classmethod
    def of(cls, n: int) -> Threads:
        """With a pool of its own."""
        return cls(ThreadPoolExecutor(n - 1), n) if n > 1 else cls()

    def run(self, work: Callable[[int, int], None], rows: int, *, least: int, most: int = sys.maxsize) -> None:
        """``work(first, last + 1)`` for all ``rows``, in pieces of ``least`` to ``most`` (see `pieces_of`): who is free takes the next. A
        thread that the system wakes late takes fewer, and is not waited for where none is left. Sleeps while it waits, and until no thread
        works on the rows. What a piece raises ends all after the pieces under way, and is raised: the calling thread's first."""
        pieces = collections.deque(pieces_of(rows, self.n, max(1, least), most))

        def take() -> None:
            try:
                while True:
                    try:
                        first, last = pieces.popleft()
                    except IndexError:
                        return
                    work(first, last)
            finally:
                pieces.clear()

        helpers = min(self.n, len(pieces)) - 1
        running: list[Future[None]] = []
        try:
            if self.pool:
                for _ in range(helpers):
                    running.append(self.pool.submit(take))
            take()
        finally:
            pieces.clear()
            failed = [error for helper in running if not helper.cancel() and (error := helper.exception())]
        if failed:
            raise failed[0]

    def close(self) -> None:
        """End the pool's threads."""
        if self.pool:
            self.pool.shutdown()


ALONE = Threads()
