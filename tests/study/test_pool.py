"""Work spread over engines: every result once, errors raised, nothing depends on who did what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from cerebellum.study.pool import Again, WorkerLost, fan_out


def squares(worker: int, group: range) -> Iterator[tuple[int, int]]:
    for number in group:
        if worker:
            time.sleep(0.0005 * (number % 3))
        yield number, number * number


GROUPS = [range(i, i + 5) for i in range(0, 50, 5)]


@pytest.mark.parametrize("n_workers", [1, 2, 3, 20])
def test_every_result_arrives_once(n_workers: int) -> None:
    """One worker or many, more workers than groups: the same results."""
    results = list(fan_out(range(n_workers), GROUPS, squares))
    assert sorted(results) == [(i, i * i) for i in range(50)]


def test_a_group_stays_with_one_worker_and_in_order() -> None:
    """All trials of one chunk run on the engine that holds that chunk's caches."""
    seen: dict[int, list[int]] = {}

    def work(worker: int, group: range) -> Iterator[int]:
        for number in group:
            seen.setdefault(group.start, []).append(worker)
            yield number

    results = list(fan_out(range(3), GROUPS, work))
    assert all(len(set(workers)) == 1 for workers in seen.values())
    for group in GROUPS:
        assert [r for r in results if r in group] == list(group)


def test_no_groups_give_no_results() -> None:
    """Nothing missing: nothing done."""
    for n in (1, 3):
        assert list(fan_out(range(n), [], squares)) == []


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_first_error_is_raised_after_what_came_before_it(n_workers: int) -> None:
    """The error itself comes out, unchanged, and the results its worker gave before it are there."""

    def work(worker: int, group: range) -> Iterator[int]:
        for number in group:
            if number == 12:
                raise KeyError("twelve")
            yield number

    results = []
    with pytest.raises(KeyError, match="twelve"):
        for result in fan_out(range(n_workers), GROUPS, work):
            results.append(result)
    assert {10, 11} <= set(results) and 12 not in results and len(results) == len(set(results))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_closing_the_iterator_stops_the_work(n_workers: int) -> None:
    """Ctrl-C in the caller: no worker goes on to the next group."""
    done, lock = [], threading.Lock()

    def work(worker: int, group: range) -> Iterator[int]:
        for number in group:
            with lock:
                done.append(number)
            time.sleep(0.01)
            yield number

    results = fan_out(range(n_workers), GROUPS, work)
    next(results)
    results.close()  # type: ignore[attr-defined]  # a generator
    time.sleep(0.1)
    after = len(done)
    time.sleep(0.1)
    assert len(done) == after <= 4 * n_workers


def test_what_others_had_when_one_failed_is_not_lost() -> None:
    """The result a second worker is computing when the first one fails is measured, so it must be handed over."""
    failed = threading.Event()

    def work(worker: int, group: str) -> Iterator[str]:
        if group == "fails":
            failed.set()
            raise KeyError(group)
        failed.wait(5)
        time.sleep(0.1)
        yield group

    results = []
    with pytest.raises(KeyError, match="fails"):
        for result in fan_out(range(2), ["slow", "fails"], work):
            results.append(result)
    assert results == ["slow"]


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_a_group_handed_back_goes_to_another_worker_after_the_others(n_workers: int) -> None:
    """With one worker to the same, at the end."""
    tried: list[tuple[int, str]] = []

    def work(worker: int, group: str) -> Iterator[str | Again[str]]:
        tried.append((worker, group))
        if group == "a" and [g for _, g in tried].count("a") == 1:
            yield Again("a")
        else:
            yield group

    assert sorted(fan_out(range(n_workers), ["a", "b", "c"], work)) == ["a", "b", "c"]
    first, second = (worker for worker, group in tried if group == "a")
    assert (first == second) == (n_workers == 1)
    if n_workers == 1:
        assert [group for _, group in tried] == ["a", "b", "c", "a"]


def test_what_a_lost_worker_had_is_done_by_the_others() -> None:
    """Also what it has handed back before, when everybody else has ended."""
    lost = threading.Event()

    def work(worker: int, group: int) -> Iterator[int | Again[int]]:
        if worker == 0:
            time.sleep(0.05)  # the other is through by then
            lost.set()
            raise WorkerLost(OSError("gone"), [group])
        yield group

    assert sorted(fan_out(range(2), range(6), work)) == list(range(6)) and lost.is_set()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_when_all_workers_are_lost_the_reason_is_raised(n_workers: int) -> None:
    def work(worker: int, group: int) -> Iterator[int]:
        raise WorkerLost(OSError(f"card {worker} fell off the bus"), [group])
        yield group

    with pytest.raises(OSError, match="fell off the bus"):
        list(fan_out(range(n_workers), range(6), work))
