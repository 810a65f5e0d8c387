"""Whether two texts share a passage: equal runs of 32 tokens or more, wherever they lie. Pure.

A text that chose, or that made an importance matrix, can't report. Comparing whole chunks isn't enough: the same text without its first
word has no chunk in common with itself. So every run of `N_GRAM` tokens of one text is looked up among all runs of the other. Runs are
compared by a polynomial of their tokens modulo 2^64 (R. M. Karp, M. O. Rabin 1987, IBM J. Res. Dev. 31, 249-260) and, where that is
equal, token by token: what is reported is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_Hashes = npt.NDArray[np.uint64]

#: Tokens in a run. Shorter ones are shared by texts that have nothing to do with each other.
N_GRAM = 32
#: Bytes of text that a run of `run_length` has at least: 32 tokens of a vocabulary of characters are six words, and stories share those.
RUN_BYTES = 96
#: The share of a text that may be another's too, and the length of a passage that may not, tokens. The halves of WikiText-2's test part
#: share 0.05 %, the bundled texts, made from few patterns, 2 %.
MOST_SHARED, PASSAGE = 0.1, 256
_BASE = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing


def run_length(text: str, n_tokens: int) -> int:
    """Tokens in a run of a ``text`` of ``n_tokens``: `N_GRAM`, or as many more as `RUN_BYTES` bytes have on average."""
    return max(N_GRAM, math.ceil(RUN_BYTES * n_tokens / max(len(text.encode()), 1)))


def shared_tokens(tokens: Tokens, others: Sequence[Tokens], n: int = N_GRAM) -> Mask:
    """Which of ``tokens`` int32 [m] lie in a run of ``n`` tokens that one of ``others`` has too: bool [m].

    Of texts shorter than ``n`` tokens the whole shorter one is the run. Raises `ValueError` for ``n`` below 1.
    """
    if n < 1:
        raise ValueError(f"a run has at least one token, not {n}")
    shared = np.zeros(len(tokens), np.bool_)
    for other in others:
        length = min(n, len(tokens), len(other))
        if length:
            starts = _equal_runs(tokens, other, length)
            steps = np.zeros(len(tokens) + 1, np.int64)
            np.add.at(steps, starts, 1)
            np.add.at(steps, starts + length, -1)
            shared |= np.cumsum(steps[:-1]) > 0
    return shared


@dataclass(frozen=True, slots=True)
class Overlap:
    """``share`` of a text's tokens that another text has too, in runs of ``n``; ``longest``: tokens in the longest such stretch."""

    share: float
    longest: int
    n: int = N_GRAM

    def is_too_much(self, n_ctx: int) -> bool:
        """Whether the two texts are not apart: a tenth is shared, or a stretch of a chunk (``n_ctx``; `PASSAGE` at least)."""
        return self.share >= MOST_SHARED or self.longest >= max(n_ctx, PASSAGE)


def overlap(tokens: Tokens, others: Sequence[Tokens], counted: Mask | None = None, n: int = N_GRAM) -> Overlap:
    """What of ``tokens`` int32 [m] is in ``others`` too, in runs of ``n``. ``counted`` bool [m]: the tokens that count (None: all), those
    scored, say."""
    shared = shared_tokens(tokens, others, n)
    counted = np.ones(len(tokens), np.bool_) if counted is None else counted
    total = np.concatenate([[0], np.cumsum(shared & counted)])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], shared, [False]]).astype(np.int8)))
    stretches = total[edges[1::2]] - total[edges[::2]]
    return Overlap(float(total[-1]) / max(1, int(counted.sum())), int(stretches.max(initial=0)), n)


def _equal_runs(tokens: Tokens, other: Tokens, n: int) -> npt.NDArray[np.int64]:
    """Where runs of ``n`` tokens begin in ``tokens`` that ``other`` has too, rising."""
    mine, theirs = _run_hashes(tokens, n), _run_hashes(other, n)
    of_mine, of_theirs = (
        np.argsort(mine),
        np.argsort(theirs),
    )  # both sorted, the search goes through memory in one direction
    nearest = np.minimum(np.searchsorted(theirs, mine[of_mine], sorter=of_theirs), len(theirs) - 1)
    places = np.empty(len(mine), np.int64)
    places[of_mine] = of_theirs[nearest]
    starts = np.flatnonzero(theirs[places] == mine)
    equal = np.ones(len(starts), np.bool_)
    for step in range(n):
        equal &= tokens[starts + step] == other[places[starts] + step]
    return np.asarray(starts[equal], np.int64)


def _run_hashes(tokens: Tokens, n: int) -> _Hashes:
    """A hash of each run of ``n`` tokens: uint64 [len(tokens) − n + 1]. Runs of 2k are put together from runs of k."""
    single = _scattered(tokens.astype(np.uint64))
    powers: list[tuple[int, _Hashes]] = [(1, single)]
    while 2 * powers[-1][0] <= n:
        k, runs = powers[-1]
        powers.append((2 * k, _joined(runs[: len(runs) - k], runs[k:], k)))
    length, hashes = powers[-1]
    for k, runs in reversed(powers[:-1]):
        if length + k <= n:
            size = len(tokens) - length - k + 1
            hashes = _joined(hashes[:size], runs[length : length + size], k)
            length += k
    return hashes


def _joined(left: _Hashes, right: _Hashes, n_right: int) -> _Hashes:
    """The hash of a run and the run of ``n_right`` tokens after it."""
    return left * np.uint64(pow(_BASE, n_right, 1 << 64)) + right


def _scattered(x: _Hashes) -> _Hashes:
    """Each number as another, far from those of its neighbours (the finalizer of SplitMix64; G. L. Steele, D. Lea, C. H. Flood 2014)."""
    x = x + np.uint64(_BASE)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
