"""Pools of threads that say what they were given."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Counting(ThreadPoolExecutor):
    """Counts the pieces of work."""

    count = 0

    def submit(self, work: Any, /, *args: Any, **named: Any) -> Future[Any]:
        self.count += 1
        return super().submit(work, *args, **named)
