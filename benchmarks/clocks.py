"""Clocks hung on functions from outside: how long each takes, what it calls under another clock not counted.

Nothing stays in the product: functions are wrapped for a while and put back. A function that this version doesn't have gets no clock.
"""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Label from the arguments of a call.
Label = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Clocked:
    """A function by module and dotted name within it, and its label: fixed, or made of the call's arguments."""

    module: str
    name: str
    label: str | Label


class Clocks:
    """Seconds and calls by (thread is the main one, label)."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds: dict[tuple[bool, str], float] = defaultdict(float)
        self.calls: dict[tuple[bool, str], int] = defaultdict(int)
        self._open = threading.local()

    def reset(self) -> None:
        self.seconds.clear()
        self.calls.clear()

    def call(self, label: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it under a clock; the clock of the caller stands still meanwhile."""
        key = threading.current_thread() is threading.main_thread(), label
        stack: list[float] = getattr(self._open, "stack", [])
        self._open.stack = stack
        started = self.now()
        stack.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            took = self.now() - started
            self.seconds[key] += took - stack.pop()
            self.calls[key] += 1
            if stack:
                stack[-1] += took

    @contextmanager
    def on(self, functions: Sequence[Clocked]) -> Iterator[list[Clocked]]:
        """Hang clocks on those of the functions that there are; yields them."""
        hung: list[tuple[Any, str, Any]] = []
        found = []
        try:
            for clocked in functions:
                if (place := owner(clocked)) is not None:
                    holder, name = place
                    original = holder.__dict__[name]
                    setattr(holder, name, self._wrapped(original, clocked.label))
                    hung.append((holder, name, original))
                    found.append(clocked)
            yield found
        finally:
            for holder, name, original in reversed(hung):
                setattr(holder, name, original)

    def _wrapped(self, original: Callable[..., Any], label: str | Label) -> Callable[..., Any]:
        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.call(label if isinstance(label, str) else label(*args, **kwargs), original, *args, **kwargs)

        return timed


def owner(clocked: Clocked) -> tuple[Any, str] | None:
    """The module or class that holds the function itself, and its name there; None where this version has no such thing."""
    try:
        holder = importlib.import_module(clocked.module)
        *path, name = clocked.name.split(".")
        for part in path:
            holder = getattr(holder, part)
    except (ImportError, AttributeError):
        return None
    return (holder, name) if callable(holder.__dict__.get(name)) else None


def by_label(seconds: Mapping[tuple[bool, str], float], main: bool) -> dict[str, float]:
    """Label → seconds in the main thread, or in all others together."""
    return {label: value for (is_main, label), value in seconds.items() if is_main == main}
