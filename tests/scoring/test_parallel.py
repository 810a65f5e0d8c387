"""Rows shared among threads: all of them, each once, by whoever is awake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.parallel import ALONE, Threads, pieces_of


@given(st.integers(0, 3000), st.integers(1, 40), st.integers(1, 90), st.integers(1, 200))
def test_pieces_are_all_rows_and_get_smaller(rows: int, threads: int, least: int, most: int) -> None:
    """In order, none twice; none but the last smaller than the least, none larger than a thread's share and what is allowed."""
    pieces = list(pieces_of(rows, threads, least, most))
    assert [row for first, last in pieces for row in range(first, last)] == list(range(rows))
    sizes = [last - first for first, last in pieces]
    assert sizes == sorted(sizes, reverse=True) and all(size >= least for size in sizes[:-1])
    assert not sizes or sizes[0] <= max(least, min(most, rows / (2 * threads)))


@pytest.mark.parametrize(("rows", "least", "n"), [(0, 1, 3), (1, 0, 1), (64, 1, 3), (65, 7, 2), (10, 100, 4)])
def test_every_row_is_worked_on_once(rows: int, least: int, n: int) -> None:
    """With a pool and without; a least of 0 is one row."""
    worked: list[int] = []
    for threads in (ALONE, Threads.of(n)):
        worked.clear()
        threads.run(lambda first, last: worked.extend(range(first, last)), rows, least=least)
        threads.close()
        assert sorted(worked) == list(range(rows))


class Asleep(Executor):
    """A pool whose threads never begin."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []

    def submit(self, _work: Callable[..., object], /, *_args: object, **_named: object) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


def test_a_thread_that_has_not_begun_is_not_waited_for() -> None:
    """The calling thread does what is left, and takes the work back."""
    pool, worked = Asleep(), list[int]()
    Threads(pool, 3).run(lambda first, last: worked.extend(range(first, last)), 5, least=1)
    assert worked == list(range(5))
    assert len(pool.futures) == 2 and all(future.cancelled() for future in pool.futures)


def test_no_thread_works_on_when_the_calling_one_has_failed() -> None:
    """What the rows are in may be overwritten, or freed, as soon as the call is over."""
    caller = threading.current_thread()
    begun, done = threading.Event(), threading.Event()
    pieces: list[int] = []

    def work(first: int, _last: int) -> None:
        pieces.append(first)
        if threading.current_thread() is caller:
            assert begun.wait(20)
            raise MemoryError("no room")
        begun.set()
        time.sleep(0.2)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(MemoryError, match="no room"):
            Threads(pool, 2).run(work, 64, least=16)
        assert done.is_set() and len(pieces) == 2


def test_no_thread_works_on_when_another_could_not_be_begun() -> None:
    """The pool takes one piece of work and no second."""
    running: list[int] = []

    class Full(ThreadPoolExecutor):
        taken = False

        def submit(self, work: Callable[..., Any], /, *_args: Any, **_named: Any) -> Future[Any]:
            if self.taken:
                raise RuntimeError("can't start new thread")
            self.taken = True
            return super().submit(work)

    def work(_first: int, _last: int) -> None:
        running.append(1)
        time.sleep(0.05)
        running.pop()

    with Full(4) as pool, pytest.raises(RuntimeError, match="new thread"):
        try:
            Threads(pool, 3).run(work, 64, least=16)
        finally:
            assert not running


def test_what_a_thread_raises_ends_the_others_and_is_raised() -> None:
    """An error in another thread than the calling one, which takes no further piece."""
    caller, begun, failing = threading.current_thread(), threading.Event(), threading.Event()
    pieces: list[int] = []

    def work(first: int, _last: int) -> None:
        pieces.append(first)
        if threading.current_thread() is not caller:
            assert begun.wait(20)
            failing.set()
            raise IndexError("row 7")
        begun.set()
        assert failing.wait(20)
        time.sleep(0.2)  # the other is through with it

    with ThreadPoolExecutor(1) as pool, pytest.raises(IndexError, match="row 7"):
        Threads(pool, 2).run(work, 64, least=1)
    assert len(pieces) == 2
