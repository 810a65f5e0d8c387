"""What an allocation found: all that the report, the terminal and a program are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cerebellum.allocate.sizes import Target
from cerebellum.allocate.table import Table
from cerebellum.bench.score import BenchResult
from cerebellum.domain import Trial
from cerebellum.results import Base, Noise, Written
from cerebellum.verbs.allocation.anchors import Anchors
from cerebellum.verbs.allocation.choose import Tried
from cerebellum.verbs.allocation.controls import Controls


@dataclass(frozen=True, slots=True)
class Allocation:
    """A finished allocation. ``limit`` is the most bytes that the file may have. ``tried``: the candidate recipes on the search text,
    the kept one marked; ``recipe`` is what was written, ``controls`` what stands beside it on the report text."""

    model: str
    base: Base
    target: Target
    limit: int
    table: Table
    anchors: Anchors
    tried: tuple[Tried, ...]
    recipe: Trial
    controls: Controls
    written: Written
    noise: Noise
    bench: BenchResult | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> Tried:
        """The candidate that was kept."""
        return next(tried for tried in self.tried if tried.kept)
