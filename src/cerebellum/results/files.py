"""Files beside each other: what `compare` finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from cerebellum.results import Measured, Measurement


@dataclass(frozen=True, slots=True)
class SpeedTest:
    """``n_tokens`` computed again and again; ``seconds`` of each time."""

    n_tokens: int
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Tokens a second: the mean over the times."""
        return fmean(self.n_tokens / s for s in self.seconds)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the tokens a second over the times; None for one."""
        return stdev(self.n_tokens / s for s in self.seconds) if len(self.seconds) > 1 else None


@dataclass(frozen=True, slots=True)
class Speed:
    """``prompt``: tokens read together; ``generation``: tokens one by one, as when a text is written."""

    prompt: SpeedTest
    generation: SpeedTest


@dataclass(frozen=True, slots=True)
class ComparedFile:
    """``types``: role → type → number of tensors. ``speed`` None: not asked for."""

    measured: Measured
    types: Mapping[str, Mapping[str, int]]
    speed: Speed | None = None


@dataclass(frozen=True, slots=True)
class FileComparison:
    """``files`` in the order in which they were given; ``facts``: on what and with what the speed was measured."""

    measurement: Measurement
    files: tuple[ComparedFile, ...]
    facts: dict[str, Any] = field(default_factory=dict)
