"""The few words for a difference, and the sentence that says why.

The interval of the KL divergence's difference (trial - base) decides. Perplexity never makes a verdict better: when it
falls while KL divergence rises, the word is *drift*: better on this text, further from the reference. Tasks must judge.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cerebellum.figures import counted, fixed, significant
from cerebellum.stats.intervals import Interval, percent_change

SCALE = 0.02
"""Nats per token: what a good 4-bit file is typically away from its reference. Shares are of this where the base has no divergence of
its own to speak of (it is its own reference, or stores all but losslessly).
"""
#: KL divergences are shown in thousandths of a nat.
MILLI = 1e3
NO_DIVERGENCE = 1e-5
"""A base whose mean KL divergence is under this has none to speak of."""

PRACTICAL_SHARE = 0.01
"""A change under this share of the base's KL divergence is of no practical use: ten such sum to a tenth."""


class Verdict(enum.StrEnum):
    """What a difference is called."""

    IMPROVES = "improves"
    NO_DIFFERENCE = "no detectable difference"
    DAMAGES = "damages"
    UNDECIDED = "undecided"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, the margin (nats per token) it was reached with, and one sentence with the numbers."""

    verdict: Verdict
    reason: str
    margin: float


def practical_margin(base_kld: float, share: float = PRACTICAL_SHARE) -> float:
    """The practical equivalence margin in nats per token: ``share`` of the base's mean KL divergence to the
    reference.
    """
    if share < 0.0:
        raise ValueError(f"a share of {share} is not possible")
    return share * scale_of(base_kld)


def scale_of(base_kld: float) -> float:
    """What shares are of, in nats per token: the base's own mean KL divergence, or `SCALE` where it has none to speak of."""
    if base_kld < 0.0:
        raise ValueError(f"a KL divergence of {base_kld} is not possible")
    return base_kld if base_kld >= NO_DIVERGENCE else SCALE


def judge(
    kld: Interval | None,
    ppl: Interval | None = None,
    *,
    noise_floor: float = 0.0,
    margin: float = 0.0,
    significant: bool | None = None,
) -> Judgement:
    """The verdict on a trial.

    ``kld``: interval of mean KL divergence, trial - base; ``ppl``: interval of mean NLL, trial - base (the log of the
    perplexity ratio); both in nats per token. Without ``kld`` (no reference) perplexity decides, and the reason says
    so. ``noise_floor``: what harmless changes make; a difference must clear it to be one. ``margin``: the practical
    equivalence margin; the larger of the two is used. ``significant``: what false-discovery control over the sweep
    said; None when the trial stands alone. Equivalence is shown by an interval inside ± margin, never by one that holds
    zero (D. J. Schuirmann 1987, J. Pharmacokin. Biopharm. 15, 657-680).

    Raises ValueError when neither interval is given, or the floor or margin is negative.
    """
    if noise_floor < 0.0 or margin < 0.0:
        raise ValueError("a noise floor or margin can't be negative")
    main = kld if kld is not None else ppl
    if main is None:
        raise ValueError("a verdict needs a KL divergence or a perplexity difference")
    width = max(noise_floor, margin)
    verdict, why = _word(main, noise_floor, width, significant)
    if kld is not None and ppl is not None and verdict is Verdict.DAMAGES and ppl.high < 0.0:
        verdict, why = Verdict.DRIFT, "better on this text but further from the reference, so tasks must judge"
    return Judgement(verdict, _sentence(kld, ppl, why), width)


def _word(x: Interval, floor: float, width: float, significant: bool | None) -> tuple[Verdict, str]:
    if x.inside(width):
        return Verdict.NO_DIFFERENCE, f"the whole interval lies within the margin of {_within(width)}"
    if not x.excludes(0.0):
        return Verdict.UNDECIDED, f"the interval holds zero but reaches past the margin of {_within(width)}"
    if not (x.low > floor or x.high < -floor):
        return Verdict.UNDECIDED, f"the interval excludes zero but not the noise floor of {_within(floor)}"
    if significant is False:
        return Verdict.UNDECIDED, "the interval excludes zero, but not after false-discovery control over the sweep"
    if x.low > 0.0:
        return Verdict.DAMAGES, "the whole interval lies above zero and the noise floor"
    return Verdict.IMPROVES, "the whole interval lies below zero and the noise floor"


def _sentence(kld: Interval | None, ppl: Interval | None, why: str) -> str:
    parts = []
    if kld is not None:
        parts.append(
            f"KL divergence changes by {_milli(kld.estimate)} thousandths of a nat a token"
            f" ({_milli(kld.low)} to {_milli(kld.high)}, {_chunks(kld)})"
        )
    if ppl is not None:
        change = percent_change(ppl)
        text = f"{fixed(change.estimate, sign=True)} % ({fixed(change.low, sign=True)} to {fixed(change.high, sign=True)} %)"
        parts.append(f"Perplexity changes by {text}" + ("" if kld is not None else f", {_chunks(ppl)}"))
    if kld is None:
        why += "; perplexity alone, without a reference"
    return f"{parts[0]}: {why}.{''.join(f' {sentence}.' for sentence in parts[1:])}"


def _milli(nats: float) -> str:
    return significant(MILLI * nats, sign=True)


def _within(nats: float) -> str:
    return f"±{significant(MILLI * nats)} thousandths of a nat"


def _chunks(x: Interval) -> str:
    return f"{100 * x.level:.4g} % interval from {counted(x.n_chunks, 'chunk')}"
