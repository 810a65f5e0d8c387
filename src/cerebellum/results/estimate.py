"""What a job will take and what it can show, known before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: What an estimate is of: the best file of a size, a sweep, a sweep and its choice.
Job = Literal["allocation", "sweep", "choice"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """``limit``: bytes of an allocation's file, of a ladder's largest (None: of another job), ``is_exact``: not to a few bytes of its
    header. ``sizes``: of a ladder the stock mix and the bytes of every file, smallest first. ``n_trials``:
    single trials, of ``n_tensors`` tensors; ``trial_chunks``: every chunk of every trial; ``passes``: whole passes over a chunk that
    these are worth. ``seconds``: of one whole pass, timed; ``quantizing``: seconds in which one engine makes all tensors that trials need;
    ``n_engines`` share both. ``report_chunks``: 0 where nothing is
    measured on the report text. ``detectable``: the smallest change, as a share of the base's KL divergence, that so many chunks show
    four times in five where chunks differ as much as ``spread`` (standard deviation, as a share); of a sweep, a change by one tensor.
    ``useful``: a share worth showing, which takes ``chunks_for_useful`` chunks."""

    model: str
    base: str
    limit: int | None
    n_tensors: int
    n_trials: int
    search_chunks: int
    report_chunks: int
    trial_chunks: int
    passes: float
    seconds: float
    disk_bytes: int
    memory_bytes: int
    spread: float
    detectable: float
    useful: float
    chunks_for_useful: int
    notes: tuple[str, ...] = ()
    job: Job = "allocation"
    n_engines: int = 1
    is_exact: bool = True
    quantizing: float = 0.0
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def minutes(self) -> float:
        """How long, about."""
        seconds = self.passes * self.seconds + self.quantizing
        return seconds / (60.0 * self.n_engines) if math.isfinite(seconds) else math.nan

    @property
    def shown_by(self) -> int:
        """Chunks that a difference rests on."""
        return min(self.search_chunks, self.report_chunks) if self.report_chunks else self.search_chunks
