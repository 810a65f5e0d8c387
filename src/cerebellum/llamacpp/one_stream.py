"""One stream of an engine at a time: the rule that the real engine and the fake share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from cerebellum.errors import EngineError

Item = TypeVar("Item")


@contextlib.contextmanager
def closing(stream: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """``stream``, closed at the end where it can be: an error's traceback would else hold it open."""
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


class OneStream:
    """Which stream of an engine is open, if any. Not safe to share between threads."""

    def __init__(self) -> None:
        self._open: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether a stream has begun and has not ended."""
        return self._open is not None

    def check(self, label: str) -> None:
        """Raises `EngineError` where a stream is open: a call in between would take the stream's answers for its own."""
        if self._open is not None:
            raise EngineError(
                f"{label}: this engine is still answering {self._open!r}; read that stream to its end or close it first"
            )

    @contextlib.contextmanager
    def stream(self, label: str) -> Iterator[None]:
        """The stream called ``label`` is open inside. Raises as `check` does."""
        self.check(label)
        self._open = label
        try:
            yield
        finally:
            self._open = None
