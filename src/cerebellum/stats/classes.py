"""The published words for one tensor's effect on perplexity: regularization, mild benefit, neutral, damage.

Size and interval decide together. An effect whose interval holds zero is neutral: *shown* where the whole interval is small, else
undecided. An effect without an interval (a published figure) is judged by its size alone, and the result says so. The words are about
perplexity on one text. "Regularization" doesn't mean that the model is better: only KL divergence and tasks can show that.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from cerebellum.errors import InputError
from cerebellum.figures import fixed


class EffectClass(enum.StrEnum):
    """What a single tensor's effect is called."""

    REGULARIZATION = "regularization"
    MILD_BENEFIT = "mild benefit"
    NEUTRAL = "neutral"
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits in percent of perplexity; each belongs to the word on its far side.

    The published table calls -6.6 % regularization, -4.7 % mild benefit and +8 % damage; -5 lies between the first two.
    Nothing published lies near zero: ±1 % is our choice, and with an interval it only says which *shown* effects are small.
    """

    regularization: float = -5.0
    mild_benefit: float = -1.0
    damage: float = 1.0

    def __post_init__(self) -> None:
        if not self.regularization <= self.mild_benefit <= 0.0 <= self.damage:
            raise InputError(
                f"the thresholds {self.regularization}, {self.mild_benefit}, {self.damage} (percent) are out of order: "
                "they must rise from regularization over mild benefit and 0 to damage"
            )


@dataclass(frozen=True, slots=True)
class Class:
    """A word, whether it is decided, and why."""

    word: EffectClass
    decided: bool
    reason: str


def classify(
    effect_percent: float, low: float | None = None, high: float | None = None, thresholds: Thresholds | None = None
) -> Class:
    """The word for a change of perplexity of ``effect_percent`` with the interval ``low`` … ``high`` (percent; None: unknown).

    Raises `InputError` for numbers that aren't an estimate within its interval; infinite limits mean one chunk, so undecided.
    """
    limits = thresholds or Thresholds()
    word = _by_size(effect_percent, limits)
    if low is None or high is None:
        return Class(word, True, f"{fixed(effect_percent, 1, sign=True)} %, by size alone: no interval is known")
    if not (math.isfinite(effect_percent) and low <= effect_percent <= high):
        raise InputError(f"an effect of {effect_percent} % can't lie within {low} to {high} %; measure it again")
    change, least, most = (fixed(x, sign=True) for x in (effect_percent, low, high))
    change = f"{change} % ({least} to {most} %)"
    if low > 0.0 or high < 0.0:
        return Class(word, True, f"{change}: the interval excludes zero")
    if limits.mild_benefit <= low and high <= limits.damage:
        return Class(EffectClass.NEUTRAL, True, f"{change}: the whole interval is small")
    return Class(EffectClass.NEUTRAL, False, f"{change}: undecided, the interval holds zero; more text would tell")


def _by_size(percent: float, limits: Thresholds) -> EffectClass:
    if percent <= limits.regularization:
        return EffectClass.REGULARIZATION
    if percent <= limits.mild_benefit:
        return EffectClass.MILD_BENEFIT
    return EffectClass.DAMAGE if percent >= limits.damage else EffectClass.NEUTRAL
