"""Rows shared among threads, by work that lets go of the interpreter: native code, compiled kernels."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass


def pieces_of(n: int, least: int, threads: int) -> Iterator[tuple[int, int]]:
    """Rows 0 … n − 1 as (first, last + 1), large pieces first, each a share of what is left: few are handed over, and all end together."""
    first = 0
    while first < n:
        last = min(n, first + max(least, (n - first) // (2 * threads)))
        yield first, last
        first = last


@dataclass(frozen=True, slots=True)
class Threads:
    """Threads that share rows among them: the calling one and ``n`` − 1 of ``pool``."""

    pool: Executor | None = None
    n: int = 1

    def run(self, work: Callable[[int, int], None], n: int, least: int) -> None:
        """``work(first, last + 1)`` for all of ``n`` rows, in pieces of at least ``least``: who is free takes the next. A thread that the
        system wakes late takes fewer, and is not waited for where none is left. Sleeps while it waits, and until no thread works on the
        rows, raise who may."""
        pieces = collections.deque(pieces_of(n, max(1, least), self.n))

        def take() -> None:
            while True:
                try:
                    first, last = pieces.popleft()
                except IndexError:
                    return
                work(first, last)

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
