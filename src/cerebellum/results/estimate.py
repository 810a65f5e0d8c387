"""What an allocation will take and what it can show, known before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """``n_trials``: anchors, of ``n_tensors`` tensors; ``trial_chunks``: every chunk of every trial; ``passes``: whole passes over a chunk
    that these are worth. ``seconds``: of one whole pass, timed. ``detectable``: the smallest change, as a share of the stock file's KL
    divergence, that so many chunks show four times in five where chunks differ as much as ``spread`` (standard deviation, as a share)."""

    model: str
    base: str
    limit: int
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
    chunks_for_a_twentieth: int
    notes: tuple[str, ...] = ()

    @property
    def minutes(self) -> float:
        """How long, about."""
        return self.passes * self.seconds / 60.0 if math.isfinite(self.seconds) else math.nan
