"""Which tensor to measure next: the one whose damage tells most about whether the transferred choice is good enough."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: A choice is good enough where it keeps so much of what the best would.
ENOUGH = 0.8
#: Draws on one side that a split of draws must have, as a share.
_LEAST_SHARE = 0.1


def n_chosen(n: int) -> int:
    """How many of a role's ``n`` tensors are chosen for demotion: a quarter, rounded up."""
    return math.ceil(n / 4)


def kept_share(damages: Floats, chosen: npt.NDArray[np.int64]) -> Floats:
    """1 − (D(chosen) − D(best)) ÷ (D(average) − D(best)) of every row of ``damages`` [..., n]: [...].

    D is the summed damage of len(chosen) tensors; best: those of least damage; average: the mean of the role. 1 where all tensors
    are alike.
    """
    k = len(chosen)
    best = np.sort(damages, axis=-1)[..., :k].sum(-1)
    lost = damages[..., chosen].sum(-1) - best
    room = k * damages.mean(-1) - best
    return np.asarray(np.where(room > 0.0, 1.0 - lost / np.where(room > 0.0, room, 1.0), 1.0))


def next_probe(draws: Floats, kept: Floats, probed: Collection[int]) -> int:
    """The place of the tensor with the most expected information about whether ``kept`` [m] is enough, given ``draws`` [m, n].

    The information is that of a normal in either class: ½ log variance of all less the classes' mean of it, in nats. It counts
    tensors whose value differs between the classes, and those whose value is only surer in one of them. Before the first probe
    the level of the profile is unknown, so values are taken from each draw's mean.
    """
    values = draws if probed else draws - draws.mean(axis=1, keepdims=True)
    enough = kept >= ENOUGH
    if not _LEAST_SHARE <= enough.mean() <= 1.0 - _LEAST_SHARE:
        enough = kept > np.median(kept)
    if enough.all() or not enough.any():
        enough = np.arange(len(kept)) % 2 == 0
    share = float(enough.mean())
    information = 0.5 * (
        _log_variance(values) - share * _log_variance(values[enough]) - (1.0 - share) * _log_variance(values[~enough])
    )
    information[list(probed)] = -np.inf
    return int(information.argmax())


def _log_variance(values: Floats) -> Floats:
    return np.asarray(np.log(values.var(axis=0) + 1e-12))
