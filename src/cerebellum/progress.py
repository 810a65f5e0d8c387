"""Progress of long work. The library is silent by default; the command line passes a progress that draws on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class Progress(Protocol):
    """Told what is going on; draws it or not."""

    def note(self, text: str) -> None:
        """One line worth keeping."""
        ...

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Work of ``total`` steps starts, ``done`` of them done in an earlier run."""
        ...

    def step(self, what: str = "") -> None:
        """One step is done; ``what`` says which."""
        ...

    def end(self) -> None:
        """The work that began last has ended."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A `Progress` that wants to know how much of answers is written while they are."""

    def written(self, n_tokens: int, n_ended: int) -> None:
        """Tokens written since the work began, and those of them in answers that ended: between the steps of such work, now and then."""
        ...


def tell_written(progress: Progress, n_tokens: int, n_ended: int) -> None:
    """Tell a progress that counts tokens."""
    if isinstance(progress, CountsTokens):
        progress.written(n_tokens, n_ended)


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        pass

    def begin(self, what: str, total: int, done: int = 0) -> None:
        pass

    def step(self, what: str = "") -> None:
        pass

    def end(self) -> None:
        pass


#: Steps by which a rate is told: what the first ones took says little, since files are opened and loops compiled in them.
LEAST_STEPS = 4


def seconds_left(times: Sequence[float], n_left: float) -> float | None:
    """Seconds that ``n_left`` more steps take, by the rate of the later half of the steps that ended at ``times[1:]`` (seconds; work began
    at ``times[0]``). None while there are too few to tell."""
    n = len(times) - 1
    if n < LEAST_STEPS:
        return None
    late = n - n // 2
    return (times[-1] - times[late]) / (n - late) * n_left


def seconds_to_write(told: Sequence[tuple[float, int]], n_ended: int, n_steps: int, n_left: int) -> float | None:
    """Seconds that ``n_left`` more answers take, by tokens: ``told`` are (time, tokens written by then), of which ``n_ended`` are in the
    ``n_steps`` answers that ended; the others are of answers under way. None while no answer has ended, or too little was told."""
    if n_steps < 1 or len(told) <= LEAST_STEPS:
        return None
    (then, before), (now, n_tokens) = told[len(told) // 2 - 1], told[-1]
    if n_tokens <= before:
        return None
    to_write = max(n_ended / n_steps * n_left - (n_tokens - n_ended), 0.0)
    return (now - then) / (n_tokens - before) * to_write


def clock(seconds: float, *, whole: bool = False) -> str:
    """A span of time as people say it: ``12.3 s`` (``12 s`` where ``whole``), ``4 min``, ``1 h 5 min``, ``2 d 3 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if whole else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
