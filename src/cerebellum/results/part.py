"""What a part of a job measured, and what a merge took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cerebellum.study.merge import MergedPart

__all__ = ["Merged", "MergedPart", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the trials, measured into ``out``: part ``number`` of ``of``.

    ``what`` was measured: ``n_trials`` of this part on ``n_chunks`` chunks together, ``n_new`` of them now, ``n_failed`` trials failed.
    ``n_lacking`` chunks are other parts' and not in this folder; 0: everything that can be cut into parts is measured.
    """

    out: Path
    number: int
    of: int
    what: str = ""
    n_trials: int = 0
    n_chunks: int = 0
    n_new: int = 0
    n_failed: int = 0
    n_lacking: int = 0


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge took into the study in the folder ``out``, part by part."""

    out: Path
    parts: tuple[MergedPart, ...]

    @property
    def n_new(self) -> int:
        """Rows that the study didn't have."""
        return sum(each.n_new for each in self.parts)
