"""Does a role's profile carry over to another model? Asked with a few probes, answered with odds.

The transferred choice is the quarter of the role's tensors that the old profile, carried over by relative depth, says to hurt least. What
it keeps of the best choice's gain (`probes.kept_share`) is not known before all is measured; a handful of probes leave a distribution of
it, and the verdict is read from that.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.profiles.belief import Belief, draw, prior
from cerebellum.profiles.depth import carried, relative_depth
from cerebellum.profiles.probes import ENOUGH, kept_share, n_chosen, next_probe
from cerebellum.profiles.profile import RoleProfile

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

#: Probes a role, at most.
MAX_PROBES = 8
#: Draws that the next probe is chosen by, and those that odds are read from; odds between which a verdict is *partly*; the least odds that
#: half is kept for *holds*.
_DRAWS, _LAST_DRAWS = 400, 4000
_DOUBT = (0.6, 0.65)
_HALF, _SAFE = 0.5, 0.975
#: Beyond it a figure below zero, or its log, is no number that can be added up.
_FARTHEST = 300.0


class CarryVerdict(enum.StrEnum):
    """*holds*: the transferred choice keeps at least 80 %. *partly*: the probes leave that open. *does not hold*: it keeps less."""

    HOLDS = "holds"
    PARTLY = "partly"
    FAILS = "does not hold"


@dataclass(frozen=True, slots=True)
class RoleCheck:
    """What few probes say of a role, by block of the new model.

    ``agreement``: rank correlation of the carried profile with the new one, the mean and 90 % interval of what the probes leave possible.
    ``odds``: probability that the transferred choice keeps at least 80 %; ``expected``: median of what it keeps.
    ``probed``: blocks in the order they were measured; ``transferred``: the old profile's choice; ``adapted``: the choice after the probes.
    """

    verdict: CarryVerdict
    agreement: float
    low: float
    high: float
    odds: float
    expected: float
    n_tensors: int
    probed: tuple[int, ...]
    transferred: tuple[int, ...]
    adapted: tuple[int, ...]


def check_role(
    old: RoleProfile,
    n_from: int,
    blocks: Sequence[int],
    n_to: int,
    measure: Callable[[int], float],
    max_probes: int = MAX_PROBES,
    seed: int = 0,
) -> RoleCheck:
    """Probe the new model's role (its ``blocks``, in order) with ``measure`` (block → damage), at most ``max_probes`` times, and judge."""
    carried_over = carried(log_figures(old), n_from, blocks, n_to)
    chosen = np.argsort(carried_over, kind="stable")[: n_chosen(len(blocks))]
    belief = prior(carried_over, np.array([relative_depth(b, n_to) for b in blocks]))
    probed: dict[int, float] = {}
    draws, kept = _look(belief, probed, chosen, seed)
    while len(probed) < min(max_probes, len(blocks)):
        number = _next_alike(probed, carried_over, chosen) if _alike(probed) else next_probe(draws, kept, probed)
        probed[number] = measure(blocks[number])
        is_last = len(probed) == min(max_probes, len(blocks))
        draws, kept = _look(belief, probed, chosen, seed, _LAST_DRAWS if is_last else _DRAWS)
    order = np.argsort(np.median(draws, axis=0), kind="stable")
    if len(probed) == len(blocks):  # nothing is left to believe
        measured = np.array([probed[i] for i in range(len(blocks))])
        kept, order = kept_share(measured[None], chosen), np.argsort(measured, kind="stable")
    elif _alike(probed):
        kept = np.ones(1)  # no continuous belief says so, but such tables are seen: then every choice is the best
    agreement, low, high = _agreement(carried_over, draws)
    return RoleCheck(
        judge(kept), agreement, low, high, float((kept >= ENOUGH).mean()), float(np.median(kept)), len(blocks),
        tuple(blocks[p] for p in probed),
        tuple(sorted(blocks[int(p)] for p in chosen)),
        tuple(sorted(blocks[int(p)] for p in order[: len(chosen)])),
    )  # fmt: skip


def judge(kept: Floats) -> CarryVerdict:
    """The verdict that draws of what is kept [m] allow."""
    odds, safe = float((kept >= ENOUGH).mean()), float((kept >= _HALF).mean())
    if odds > _DOUBT[1] and safe >= _SAFE:
        return CarryVerdict.HOLDS
    return CarryVerdict.FAILS if odds < _DOUBT[0] else CarryVerdict.PARTLY


def kept_of(blocks: Sequence[int], damages: Sequence[float], chosen: Sequence[int]) -> float:
    """What a choice of blocks keeps where all ``damages`` are known."""
    places = np.array([blocks.index(b) for b in chosen], dtype=np.int64)
    return float(kept_share(np.array(damages, dtype=np.float64), places))


def logs(profile: RoleProfile) -> dict[int, float]:
    """Log damages. What is not positive (noise around nothing) counts as half the least that is."""
    least = min((v for v in profile.values() if v > 0.0), default=2e-9) / 2.0
    return {block: float(np.log(max(value, least))) for block, value in profile.items()}


def log_figures(profile: RoleProfile) -> dict[int, float]:
    """The figures on a scale that is the log of what is large and positive, in the same order whatever their signs.

    Where all are positive it is the log. Else asinh of the figure as a multiple of `_unit`, which goes through nothing and is a log on
    either side.
    """
    if unit := _unit(profile.values()):
        return {block: float(np.arcsinh(0.5 * (value / unit))) for block, value in profile.items()}
    return {block: float(np.log(value)) for block, value in profile.items()}


def _unit(figures: Collection[float]) -> float:
    """What is small among ``figures``: twice the median size of those below zero, else the least that is not zero; 0 where all are
    positive."""
    if negative := [-v for v in figures if v < 0.0]:
        return 2.0 * float(np.median(negative))
    return 0.0 if all(v > 0.0 for v in figures) else min((v for v in figures if v > 0.0), default=1.0)


def _alike(probed: Mapping[int, float]) -> bool:
    """Whether two probes or more have one and the same figure."""
    return len(probed) > 1 and len({*probed.values()}) == 1


def _next_alike(probed: Mapping[int, float], carried_over: Floats, chosen: Places) -> int:
    """Where all probes are alike: by turns the chosen tensor that should hurt least, and the other one that should hurt most."""
    inside = [int(p) for p in chosen if int(p) not in probed]
    outside = [int(p) for p in np.argsort(-carried_over, kind="stable") if p not in probed and p not in chosen]
    first, second = (inside, outside) if len(probed) % 2 == 0 else (outside, inside)
    return (first or second)[0]


def _look(
    belief: Belief, probed: Mapping[int, float], chosen: Places, seed: int, n: int = _DRAWS
) -> tuple[Floats, Floats]:
    """(draws of log damages [m, n], what the transferred choice keeps in each [m])."""
    draws = draw(belief, log_figures(probed), n, seed)
    if _unit(probed.values()):
        damages = np.sinh(np.clip(draws, -_FARTHEST, _FARTHEST))
    else:
        damages = np.exp(draws - draws.max(axis=1, keepdims=True))
    return draws, kept_share(damages, chosen)


def _agreement(carried_over: Floats, draws: Floats) -> tuple[float, float, float]:
    """Mean and 90 % interval of the rank correlation."""
    each = agreements(carried_over, draws)
    low, high = np.quantile(each, (0.05, 0.95))
    return float(each.mean()), float(low), float(high)


def agreements(carried_over: Floats, draws: Floats) -> Floats:
    """Spearman's rank correlation of the carried profile [n] with each draw [m, n]: [m]; 0 where the old profile is flat."""
    from scipy.stats import rankdata

    ours, theirs = rankdata(carried_over), rankdata(draws, axis=1)
    ours, theirs = ours - ours.mean(), theirs - theirs.mean(axis=1, keepdims=True)
    size = np.sqrt((ours**2).sum() * (theirs**2).sum(axis=1))
    return np.where(size > 0.0, theirs @ ours / np.where(size > 0.0, size, 1.0), 0.0)
