"""May perplexity rank anything on this model and text? A short ladder of quantizations answers.

Each rung is the whole model at one type, with its perplexity and its mean KL divergence to the reference. Perplexity is
a stand-in for KL divergence if the two order the rungs alike and no rung beats the reference it was made from.

* The share of rung pairs that the two order differently, (1 - Kendall's tau)/2, is the chance that perplexity picks the
  worse of two files. Up to `FEW_WRONG` (one adjacent swap in a ladder of five) is valid, above `MANY_WRONG` (half-way
  to tossing a coin) invalid, doubtful between.
* The order must not be luck: the one-sided permutation p-value of Spearman's correlation is at most `LUCK`. Four rungs
  in perfect order reach 1/24; three can't, so three rungs are doubtful at best.
* A rung whose perplexity is lower than the reference's by more than its interval makes it doubtful; one whose KL
  divergence is also at or above the ladder's median makes it invalid: noise of that size can't be information.
  Where no interval is given, 1.96 · sqrt(2·KLD/n) stands in: for a small change of the distribution the log ratio's
  variance is twice its mean (S. Kullback, Information Theory and Statistics, section 2.6), and tokens count as
  independent.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.errors import InputError

Floats = npt.NDArray[np.float64]

FEW_WRONG = 0.10
MANY_WRONG = 0.25
LUCK = 0.05
ASSUMED_TOKENS = 10_000
"""Scored tokens taken when a ladder doesn't say: 40 chunks of 512 as ``llama-perplexity`` scores them, fewer than any
published ladder.
"""
_EXACT_RUNGS = 8


class Validity(enum.StrEnum):
    """Whether perplexity may choose."""

    VALID = "valid"
    DOUBTFUL = "doubtful"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Rung:
    """One file of a ladder. ``ppl_low`` and ``ppl_high`` bound its perplexity *relative to the reference*, paired by
    chunk: interval of (rung's perplexity / reference's perplexity) · reference's perplexity. ``kld_low`` and ``kld_high`` bound its mean
    KL divergence. None where unknown."""

    name: str
    ppl: float
    kld: float
    ppl_low: float | None = None
    ppl_high: float | None = None
    file_bytes: int | None = None
    kld_low: float | None = None
    kld_high: float | None = None


@dataclass(frozen=True, slots=True)
class ValidityReport:
    """The verdict and what it rests on. ``wrong_pairs`` is the share of rung pairs that perplexity orders against KL
    divergence; ``p_value`` the chance of so good an order by luck; ``below`` every rung with a lower perplexity than
    the reference, ``clearly_below`` those beyond their interval."""

    verdict: Validity
    reason: str
    reference_ppl: float
    n_rungs: int
    spearman: float
    kendall: float
    p_value: float
    wrong_pairs: float
    rungs_below_reference: int
    below: tuple[str, ...]
    clearly_below: tuple[str, ...]
    worst_below: str | None


def assess(reference_ppl: float, rungs: Sequence[Rung], n_tokens: int | None = None) -> ValidityReport:
    """Judge perplexity on a ladder. ``n_tokens``: scored tokens, used where a rung has no interval.

    Raises InputError for a perplexity that isn't above zero, a negative KL divergence or two rungs of one name. (A
    ladder of fewer than two rungs isn't an error but doubtful.)
    """
    _check(reference_ppl, rungs)
    ppl, kld = np.array([r.ppl for r in rungs]), np.array([r.kld for r in rungs])
    rho, tau, wrong = spearman(ppl, kld), *kendall(ppl, kld)
    below = [r for r in rungs if r.ppl < reference_ppl]
    clear = [r for r in below if _clearly_below(r, reference_ppl, n_tokens or ASSUMED_TOKENS)]
    strong = [r for r in clear if r.kld >= float(np.median(kld))]
    worst = max(clear, key=lambda r: (r.kld, r.name), default=None)
    luck = permutation_p(ppl, kld)
    verdict, why = _decide(len(rungs), luck, wrong, clear, strong)
    reason = f"{why} (Spearman {rho:.3f} over {len(rungs)} rungs{_below_text(below, worst, reference_ppl)})."
    return ValidityReport(
        verdict, reason, reference_ppl, len(rungs), rho, tau, luck, wrong, len(below),
        tuple(r.name for r in below), tuple(r.name for r in clear), worst.name if worst else None,
    )  # fmt: skip


def _decide(n: int, luck: float, wrong: float, clear: list[Rung], strong: list[Rung]) -> tuple[Validity, str]:
    if strong:
        return Validity.INVALID, f"{len(strong)} strongly changed rungs have a lower perplexity than the reference"
    if wrong > MANY_WRONG and n >= 4:
        return Validity.INVALID, f"perplexity and KL divergence disagree on {100 * wrong:.0f} % of the rung pairs"
    if clear:
        return Validity.DOUBTFUL, f"{len(clear)} lightly changed rungs have a lower perplexity than the reference"
    if luck > LUCK:
        return Validity.DOUBTFUL, f"{n} rungs can't rule out that their order agrees by luck (p = {luck:.2g})"
    if wrong > FEW_WRONG:
        return Validity.DOUBTFUL, f"perplexity and KL divergence disagree on {100 * wrong:.0f} % of the rung pairs"
    return Validity.VALID, "perplexity orders the rungs as KL divergence does and none clearly beats the reference"


def _below_text(below: list[Rung], worst: Rung | None, reference_ppl: float) -> str:
    if not below:
        return ""
    text = f", {len(below)} below the reference"
    if worst is not None:
        text += f"; {worst.name} by {100 * (1 - worst.ppl / reference_ppl):.1f} % at a KL divergence of {worst.kld:.3g}"
    return text


def _clearly_below(rung: Rung, reference_ppl: float, n_tokens: int) -> bool:
    if rung.ppl_high is not None:
        return rung.ppl_high < reference_ppl
    return math.log(rung.ppl / reference_ppl) < -1.96 * math.sqrt(2.0 * rung.kld / n_tokens)


def _check(reference_ppl: float, rungs: Sequence[Rung]) -> None:
    if not (reference_ppl > 0.0 and math.isfinite(reference_ppl)):
        raise InputError(f"the reference's perplexity is {reference_ppl}; it must be a number above zero")
    for rung in rungs:
        if not (rung.ppl > 0.0 and math.isfinite(rung.ppl)) or not (rung.kld >= 0.0 and math.isfinite(rung.kld)):
            raise InputError(f"rung {rung.name} has perplexity {rung.ppl} and KL divergence {rung.kld}")
    if len({r.name for r in rungs}) != len(rungs):
        raise InputError("two rungs of the ladder have the same name")


def ranks(x: Floats) -> Floats:
    """Ranks 1 … n [n], ties sharing their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(x), dtype=np.float64)


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation with ties; 0 when fewer than two values or one side is constant."""
    if len(x) < 2:
        return 0.0
    a, b = ranks(x) - (len(x) + 1) / 2.0, ranks(y) - (len(x) + 1) / 2.0
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0.0 else 0.0


def kendall(x: Floats, y: Floats) -> tuple[float, float]:
    """(Goodman-Kruskal's gamma: Kendall's tau over the untied pairs, share of them in opposite order); (0, 0.5) if
    none.
    """
    i, j = np.triu_indices(len(x), 1)
    agreement = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
    n_pairs = int(np.count_nonzero(agreement))
    if n_pairs == 0:
        return 0.0, 0.5
    wrong = int((agreement < 0).sum()) / n_pairs
    return 1.0 - 2.0 * wrong, wrong


def permutation_p(x: Floats, y: Floats) -> float:
    """One-sided p-value of Spearman's correlation: exact to 8 values, Student's approximation with n - 2 degrees
    beyond.
    """
    n = len(x)
    if n < 3:
        return 1.0
    if n <= _EXACT_RUNGS:
        a, b = ranks(x), ranks(y)
        orders = np.array(list(itertools.permutations(range(n))), dtype=np.intp)
        return float(np.mean(b[orders] @ a >= a @ b - 1e-9))
    from scipy.special import stdtr

    rho = spearman(x, y)
    return 0.0 if rho >= 1.0 else float(stdtr(n - 2, -rho * math.sqrt((n - 2) / (1.0 - rho * rho))))


def parse_ladder(data: Mapping[str, Any]) -> tuple[float, tuple[Rung, ...]]:
    """(reference's perplexity, rungs) from a loaded ladder: ``{"by_type": {name: {"ppl": …, "kld": …}}}``.

    The reference is the entry named by ``"reference"``, or the only one whose KL divergence is 0. Rungs may carry
    ``ppl_low`` and ``ppl_high``. Raises InputError when the form is another or no single reference can be told.
    """
    table = data.get("by_type")
    if not isinstance(table, Mapping) or not table:
        raise InputError('a ladder needs an entry "by_type": {name: {"ppl": number, "kld": number}}')
    rungs = [_rung(str(name), row) for name, row in table.items()]
    chosen = data.get("reference")
    references = [r for r in rungs if (r.name == chosen if chosen is not None else r.kld == 0.0)]
    if len(references) != 1:
        raise InputError(f"a ladder needs one reference rung; this one has {len(references)}")
    return references[0].ppl, tuple(r for r in rungs if r is not references[0])


def _rung(name: str, row: Any) -> Rung:
    try:
        low, high = row.get("ppl_low"), row.get("ppl_high")
        limits = (None if low is None else float(low), None if high is None else float(high))
        return Rung(name, float(row["ppl"]), float(row["kld"]), *limits)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'rung {name} of the ladder needs numbers "ppl" and "kld"') from error
