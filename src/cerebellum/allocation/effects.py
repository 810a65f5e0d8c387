"""The effect of one tensor's type, and what single effects predict of several together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cerebellum.domain import TensorType, TensorTypes
from cerebellum.errors import InputError
from cerebellum.stats.classes import Class, Thresholds, classify

Objective = Literal["kld", "nll"]


@dataclass(frozen=True, slots=True)
class SingleEffect:
    """One tensor alone in another type, against the base on the same chunks.

    ``estimate``, ``low``, ``high``: change of mean NLL in nats per token, ln(PPL trial / PPL base), and its interval (None where
    unknown). ``kld`` and its limits: the same for mean KL divergence to the reference. ``delta_bytes``: trial - base.
    """

    tensor: str
    block: int | None
    role: str
    from_type: str
    to_type: str
    delta_bytes: int
    estimate: float
    low: float | None = None
    high: float | None = None
    kld: float | None = None
    kld_low: float | None = None
    kld_high: float | None = None

    @property
    def swap(self) -> TensorType:
        return TensorType(self.tensor, self.to_type)

    @property
    def percent(self) -> float:
        """Change of perplexity in percent."""
        return _percent(self.estimate)

    def classify(self, thresholds: Thresholds | None = None) -> Class:
        """The published word for it; the limits are transformed like the estimate, so their level is kept."""
        low, high = (None if x is None else _percent(x) for x in (self.low, self.high))
        return classify(self.percent, low, high, thresholds)

    def cost(self, objective: Objective, cautious: bool) -> float:
        """The change of the objective in nats per token, lower is better; ``cautious`` takes the interval's upper limit if known.

        Raises `InputError` where KL divergence was not measured.
        """
        value, high = (self.estimate, self.high) if objective == "nll" else (self.kld, self.kld_high)
        if value is None:
            raise InputError(
                f"{self.tensor} as {self.to_type} has no KL divergence: give a reference, or choose by perplexity"
            )
        return high if cautious and high is not None else value


Effects = Sequence[SingleEffect]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Singles added up, nats per token; limits are None where a single's are unknown, ``kld`` None where one wasn't measured."""

    nll: float
    nll_low: float | None
    nll_high: float | None
    kld: float | None = None
    kld_low: float | None = None
    kld_high: float | None = None
    delta_bytes: int = 0

    @property
    def percent(self) -> float:
        """Predicted change of perplexity in percent."""
        return _percent(self.nll)


def predict_additive(effects: Effects, chosen: TensorTypes) -> Prediction:
    """What the singles predict for ``chosen`` together if effects simply added, which they don't quite: measure it too.

    The interval is the conservative one: limits are added, not squared. The singles share their chunks and their base, so their
    errors are correlated and root-sum-square would be too narrow; a sum of half-widths is wide enough for any correlation (a
    standard deviation of a sum is at most the sum of the standard deviations). It covers chance, not interaction, and not the
    winner's curse. Raises `InputError` where a chosen swap has no single effect.
    """
    known = {e.swap: e for e in effects}
    if missing := [s for s in chosen if s not in known]:
        raise InputError(
            f"{missing[0].tensor} as {missing[0].type} was not measured alone, so nothing can be predicted; sweep it"
        )
    parts = [known[swap] for swap in chosen]
    return Prediction(
        nll=math.fsum(e.estimate for e in parts),
        nll_low=_total(e.low for e in parts),
        nll_high=_total(e.high for e in parts),
        kld=_total(e.kld for e in parts),
        kld_low=_total(e.kld_low for e in parts),
        kld_high=_total(e.kld_high for e in parts),
        delta_bytes=sum(e.delta_bytes for e in parts),
    )


def _total(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return math.fsum(v for v in known if v is not None) if None not in known else None


def _percent(nats: float) -> float:
    return 100.0 * math.expm1(nats) if nats < 700.0 else math.inf
