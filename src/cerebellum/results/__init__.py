"""What verbs find: frozen, without behaviour that touches files or llama.cpp. `cerebellum.report` reads these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum.allocation.effects import Prediction, SingleEffect
from cerebellum.allocation.plan import SweepPlan
from cerebellum.allocation.policies import Choice
from cerebellum.domain import Model, Trial, TrialKind
from cerebellum.evals.score import BenchResult
from cerebellum.gguf.mix import Mix
from cerebellum.gguf.overrides import Hit, Overrides
from cerebellum.quoting import shell_file, shell_word
from cerebellum.results.stock import BesideStock
from cerebellum.scoring.summary import (
    Contrast,
    Summary,
)
from cerebellum.stats.classes import Class
from cerebellum.stats.intervals import Interval
from cerebellum.stats.ladder import Rung, ValidityReport
from cerebellum.stats.pareto import ParetoRank, standings
from cerebellum.study.runner import FailedTrial, Scores


@dataclass(frozen=True, slots=True)
class Base:
    """The file that a recipe starts from. ``twice``: its source was quantized already. ``mix``: what it is made of beside its file type."""

    model: Model
    ftype: str
    twice: bool
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True, slots=True)
class Race:
    """How a race went: chunks decoded for trials, what the full text would have taken, rounds, and whether the budget ended it."""

    n_chunks: int
    n_chunks_full: int
    n_rounds: int
    exhausted: bool
    looks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One tensor at one type: its figures, the base's on the same chunks, its difference from the base, its class by perplexity, its
    adjusted p-value."""

    effect: SingleEffect
    summary: Summary
    base: Summary
    contrast: Contrast
    word: Class
    p_adjusted: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """The plan, the base on the search split, a row per trial in the order of blocks, and how the race went, if it was one.

    ``failed``: trials that could not be measured. They have no row, and the plan doesn't hold them.
    """

    plan: SweepPlan
    base: Summary
    base_scores: Scores
    rows: tuple[SweepRow, ...]
    race: Race | None = None
    failed: tuple[FailedTrial, ...] = ()

    @property
    def effects(self) -> tuple[SingleEffect, ...]:
        return tuple(row.effect for row in self.rows)


@dataclass(frozen=True, slots=True)
class Harmless:
    """One change that should not matter. ``reference``: the reference's mean KL divergence to itself; ``base``: the absolute change of
    the base's; nats a token, None where not measured."""

    change: str
    reference: float | None
    base: float | None


@dataclass(frozen=True, slots=True)
class Noise:
    """What was tried on how many chunks; ``floor`` is the largest of it, nats a token."""

    changes: tuple[Harmless, ...]
    n_chunks: int

    @property
    def floor(self) -> float:
        values = (v for change in self.changes for v in (change.reference, change.base))
        return max((v for v in values if v is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class LadderResult:
    """The verdict, the rungs it rests on (the reference not among them), and on what they were measured."""

    report: ValidityReport
    rungs: tuple[Rung, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A whole set of types on one split; ``from_base`` and ``from_recipe`` are None for the set compared with itself."""

    trial: Trial
    delta_bytes: int
    summary: Summary
    from_base: Contrast | None
    from_recipe: Contrast | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base, recipe and controls on one split. The first row is the base, the second the recipe. ``failed``: controls that could not be
    measured; they have no row."""

    split: str
    rows: tuple[Row, ...]
    failed: tuple[FailedTrial, ...] = ()

    def row(self, kind: TrialKind) -> Row | None:
        """The first row of a kind."""
        return next((row for row in self.rows if row.trial.kind is kind), None)


@dataclass(frozen=True, slots=True)
class Combination:
    """The choice, its additive prediction, and what was measured on both splits."""

    choice: Choice
    recipe: Trial
    prediction: Prediction
    search: Comparison
    report: Comparison


@dataclass(frozen=True, slots=True)
class Written:
    """The proven file, or the first one of the set that it is. ``file_bytes``: of all, ``split_bytes`` of them for being split.
    ``files``: (name, bytes, sha256) of each. ``equal_chunks`` of the report split gave, bit for bit, the sums measured in memory."""

    path: Path
    overrides_path: Path
    source: str
    ftype: str
    twice: bool
    imatrix: str | None
    sha256: str
    file_bytes: int
    base_bytes: int
    overrides: Overrides
    proof: tuple[Hit, ...]
    summary: Summary
    from_base: Contrast
    equal_chunks: int
    split_bytes: int = 0
    files: tuple[tuple[str, int, str], ...] = ()

    @property
    def reproduce(self) -> str:
        """The stock command that makes the same tensors."""
        words = ["llama-quantize", *(["--allow-requantize"] if self.twice else [])]
        words += ["--imatrix", shell_file(self.imatrix)] if self.imatrix else []
        words += ["--tensor-type-file", shell_file(self.overrides_path.name), shell_file(self.source)]
        return " ".join([*words, "OUT.gguf", shell_word(self.ftype)])


@dataclass(frozen=True, slots=True)
class Measured:
    """One file. ``log_ratio``: its mean NLL less the reference's, nats a token, paired by chunk (the log of the perplexity ratio).

    ``from_first``: its difference from the first file measured, None for that one.
    """

    name: str
    sha256: str
    file_bytes: int
    bits_per_weight: float
    summary: Summary
    log_ratio: Interval
    from_first: Contrast | None


@dataclass(frozen=True, slots=True)
class FilePair:
    """Two files by their numbers among those measured: ``second`` less ``first``, paired by chunk. The intervals of all pairs hold together
    at 95 %: each has the level of `stats.pareto.pair_level`."""

    first: int
    second: int
    contrast: Contrast


@dataclass(frozen=True, slots=True)
class Measurement:
    """Files against one reference on one text; ``reference_nll`` is the reference's own mean NLL, nats a token.

    ``pairs``: each two files.
    """

    files: tuple[Measured, ...]
    reference_nll: Interval
    facts: dict[str, Any] = field(default_factory=dict)
    pairs: tuple[FilePair, ...] = ()

    @property
    def standings(self) -> tuple[ParetoRank, ...]:
        """Rank and dominance of each file, by mean KL divergence and bytes."""
        limits = {(p.first, p.second): (p.contrast.kld or p.contrast.ppl) for p in self.pairs}
        return standings([f.file_bytes for f in self.files], {pair: (x.low, x.high) for pair, x in limits.items()})


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run found. ``written`` is None where the policy chose nothing: then the base is the recipe. ``validity`` is the ladder, where
    perplexity chose; ``bench`` what the written file, the base and the reference answered, where tasks were named. ``beside``: the written
    file among stock files."""

    model: str
    base: Base
    sweep: Sweep
    choice: Choice
    alternatives: tuple[Choice, ...]
    combination: Combination | None
    written: Written | None
    noise: Noise
    validity: LadderResult | None
    bench: BenchResult | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    beside: BesideStock | None = None


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep found, without a choice."""

    model: str
    base: Base
    sweep: Sweep
    noise: Noise
    facts: dict[str, Any] = field(default_factory=dict)
