"""The result of an allocation: everything that the report, the terminal and a program show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cerebellum.allocation.damage import Anchor, DamageModel
from cerebellum.allocation.floor import Floor
from cerebellum.allocation.recipes import Candidate
from cerebellum.allocation.sensitivity import CheckedRecipe, SensitivityMap
from cerebellum.allocation.sizes import Target
from cerebellum.allocation.table import Table
from cerebellum.domain import Trial
from cerebellum.evals.score import BenchResult
from cerebellum.profiles.check import CarryVerdict
from cerebellum.profiles.layout import kinds_of
from cerebellum.profiles.roles import Probe
from cerebellum.results import Base, Comparison, Noise, Written
from cerebellum.results.stock import Equivalent, Rival, StockRung
from cerebellum.stats.intervals import Interval
from cerebellum.study.runner import FailedTrial


@dataclass(frozen=True, slots=True)
class Shuffled:
    """KL divergence of the recipe and of its shuffled compositions as shares of the base's, on ``n_chunks`` chunks of the report text.
    Not ``of_stock``: the base has none, and the shares are of the recipe's."""

    recipe: float
    others: tuple[float, ...]
    n_chunks: int
    of_stock: bool = True

    @property
    def n_worse(self) -> int:
        return sum(ratio > self.recipe for ratio in self.others)


@dataclass(frozen=True, slots=True)
class Anchors:
    """What was measured, the model of it, and how much text it took. ``n_chunks`` counts each chunk of each trial;
    ``failed``: (tensor, type) of trials that could not be measured; ``floor``: what was subtracted from the effects."""

    anchors: tuple[Anchor, ...]
    model: DamageModel
    n_trials: int
    n_chunks: int
    failed: tuple[tuple[str, str], ...] = ()
    floor: Floor = field(default_factory=Floor)


@dataclass(frozen=True, slots=True)
class RoleTransfer:
    """A role's profile carried over and probed. ``agreement``: rank correlation that the probes leave possible, with its 90 % interval;
    ``odds``: that the quarter of its tensors that the profile calls least sensitive keeps 80 % of what the best quarter would;
    ``n_measured``: tensors measured in the end, the probes among them."""

    role: str
    verdict: CarryVerdict
    agreement: float
    low: float
    high: float
    odds: float
    n_tensors: int
    n_measured: int
    probes: tuple[Probe, ...]

    @property
    def n_hits(self) -> int:
        return sum(p.is_hit for p in self.probes)


@dataclass(frozen=True, slots=True)
class Transferred:
    """What was carried over from ``origin`` (a ``form``: map or recipe) and what the probes said. ``families`` and ``blocks``: the origin's
    and the model's. ``whole``: role → why all its tensors were measured without a prediction. ``agreement``: of all judged roles, by their
    tensors, with its 90 % interval. ``n_full``: trials that full anchors begin with; ``n_measured``: those that were made."""

    origin: str
    form: str
    families: tuple[str, str]
    blocks: tuple[int, int]
    roles: tuple[RoleTransfer, ...]
    whole: Mapping[str, str]
    verdict: CarryVerdict
    agreement: float
    low: float
    high: float
    n_full: int
    n_measured: int

    @property
    def n_saved(self) -> int:
        return self.n_full - self.n_measured

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(p for r in self.roles for p in r.probes)


@dataclass(frozen=True, slots=True)
class Tried:
    """A recipe that was measured: ``predicted`` and ``measured`` are mean KL divergence on ``n_chunks`` chunks of the search text, nats
    a token; ``ratio`` is the measured one as a share of the base's."""

    candidate: Candidate
    predicted: float
    measured: float
    ratio: Interval
    file_bytes: int
    kept: bool
    n_chunks: int = 0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of a recipe: ``n_changed`` tensors at other types. ``predicted`` and ``change``: of mean KL divergence, nats a token, the
    latter measured on chunks that had no part in the proposal (None: it could not be measured)."""

    n_changed: int
    predicted: float
    change: Interval | None
    taken: bool


@dataclass(frozen=True, slots=True)
class Round:
    """One round of refinement: ``n_steps`` single changes measured from the recipe on ``look`` chunks each, and what was made of them.
    ``n_chunks`` counts each chunk of each trial."""

    n_steps: int
    look: int
    proposals: tuple[Proposal, ...]
    n_chunks: int


@dataclass(frozen=True, slots=True)
class Refined:
    """The types of the table's tensors after refinement, and the rounds that led there. ``ratio``: KL divergence on the report text as a
    share of that of the recipe before; None where nothing was taken."""

    types: Mapping[str, str]
    rounds: tuple[Round, ...]
    ratio: Interval | None = None

    @property
    def n_taken(self) -> int:
        """How many proposals were taken."""
        return sum(p.taken for r in self.rounds for p in r.proposals)


@dataclass(frozen=True, slots=True)
class Controls:
    """``comparison``: base, recipe, weight error alone, uniform types, on the report text. ``ratio``: KL divergence of the recipe as a
    share of the base's (its estimate is no number where the base has none); ``from_weight_error`` as a share of weight error alone's, 1
    where they are the same recipe, no number where that can't be measured. ``failed``: controls that could not be measured.
    ``better``: labels of controls, no larger than asked, that are nearer to the reference beyond the interval. ``rival``: the best stock
    file no larger than asked; None where that is the base, or there is none."""

    comparison: Comparison
    ratio: Interval
    from_weight_error: Interval
    shuffled: Shuffled
    ladder: tuple[StockRung, ...]
    equivalent: Equivalent
    failed: tuple[FailedTrial, ...] = ()
    better: tuple[str, ...] = ()
    rival: Rival | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """A finished allocation. ``limit`` is the most bytes that the file may have. ``tried``: the candidate recipes on the search text,
    the kept one marked; ``refined``: what measuring made of it (None: not asked for); ``recipe`` is what was written, ``controls``
    what stands beside it on the report text. ``stock_bytes``: bytes of each stock mix's file.
    ``transferred``: what was taken over from another model, and whether it held (None: nothing)."""

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
    stock_bytes: Mapping[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    refined: Refined | None = None
    transferred: Transferred | None = None

    @property
    def kept(self) -> Tried:
        """The candidate that was kept."""
        return next(tried for tried in self.tried if tried.kept)

    @property
    def sensitivity(self) -> SensitivityMap:
        """What was measured of the model, for other sizes."""
        checks = tuple(CheckedRecipe(t.candidate.name, t.file_bytes, t.predicted, t.measured) for t in self.tried)
        facts = {**self.facts, "text": self.facts["splits"]["search"]}
        return SensitivityMap(
            self.table,
            self.anchors.model,
            self.anchors.anchors,
            facts,
            self.stock_bytes,
            checks,
            kinds_of(self.table.base),
            self.anchors.failed,
        )


@dataclass(frozen=True, slots=True)
class AllocationLadder:
    """Allocations of several sizes from one study, smallest file first, each with its label. ``missed``: label → why there is no file of
    its size."""

    labels: tuple[str, ...]
    results: tuple[Allocation, ...]
    missed: Mapping[str, str] = field(default_factory=dict)

    @property
    def stock(self) -> tuple[StockRung, ...]:
        """The stock mixes that were measured for any of them, smallest first."""
        rungs = {rung.ftype: rung for result in self.results for rung in result.controls.ladder}
        return tuple(sorted(rungs.values(), key=lambda rung: rung.file_bytes))
