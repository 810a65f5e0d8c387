"""Stock files beside a recipe: a ladder of them, and the one that is as good."""

from __future__ import annotations

from dataclasses import dataclass

from cerebellum.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class Equivalent:
    """The stock file as good as the recipe: its bytes, with the limits that the recipe's interval gives; None beyond the ladder."""

    n_bytes: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class StockRung:
    """A stock mix: bytes of its file and mean KL divergence on the report text, nats a token; ``mean`` has its interval."""

    ftype: str
    file_bytes: int
    kld: float
    mean: Interval | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """The best stock file among those measured that are no larger than asked: its bytes, and the recipe's KL divergence as a share of
    its (no number where it has none)."""

    ftype: str
    file_bytes: int
    ratio: Interval


@dataclass(frozen=True, slots=True)
class BesideStock:
    """A recipe on the report text. ``ratio``: its KL divergence as a share of the base's (its estimate is no number where the base has
    none); ``ladder``: stock files on the same text; ``equivalent``: the one that is as good; ``rival``: the best one within the bytes, None
    where its tensors have the base's types, or there is none."""

    ratio: Interval
    ladder: tuple[StockRung, ...]
    equivalent: Equivalent
    rival: Rival | None = None
