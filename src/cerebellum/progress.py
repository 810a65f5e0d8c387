"""Progress of long work. The library is silent by default; the command line passes a progress that draws on standard error."""

from __future__ import annotations

from typing import Protocol


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
