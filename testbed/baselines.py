"""Two models that need no training by gradient: a unigram and an interpolated Kneser-Ney trigram over the same tokens.

They say what the bundled model's perplexity means: counting what follows two tokens gets one far on a small world, so a model that has not
learned facts, stories and sums can't be far below the trigram.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
_SHIFT = 10  # bits of a token id in a packed n-gram: the vocabulary is at most 1024


class Counts:
    """How often each packed n-gram occurs; absent ones count 0."""

    def __init__(self, packed: Ids, weights: Ids | None = None) -> None:
        self.keys, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
        self.values = counts if weights is None else np.bincount(where, weights, len(self.keys))

    def __call__(self, packed: Ids) -> Floats:
        at = np.minimum(np.searchsorted(self.keys, packed), len(self.keys) - 1)
        return np.where(self.keys[at] == packed, self.values[at], 0).astype(np.float64)


def pack(*columns: Ids) -> Ids:
    """One int64 per n-gram."""
    out = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        out = (out << _SHIFT) | column.astype(np.int64)
    return out


class Unigram:
    """Relative frequencies, every token counted once more than seen."""

    def __init__(self, ids: Ids, n_vocab: int) -> None:
        counts = np.bincount(ids, minlength=n_vocab) + 1.0
        self.log_p = np.log(counts / counts.sum())

    def nll_nats(self, ids: Ids) -> Floats:
        """Negative log-probability of each token from the third on."""
        return np.asarray(-self.log_p[ids[2:]])


class Trigram:
    """Interpolated Kneser-Ney with one discount per order (Chen & Goodman 1999, section 3)."""

    def __init__(self, ids: Ids, n_vocab: int) -> None:
        a, b, c = ids[:-2], ids[1:-1], ids[2:]
        self.n_vocab = n_vocab
        self.three, self.context = Counts(pack(a, b, c)), Counts(pack(a, b))
        kinds = self.three.keys
        low = (1 << 2 * _SHIFT) - 1
        self.kinds_after = Counts(kinds >> _SHIFT)  # different tokens after (a, b)
        self.two = Counts(kinds & low)  # different tokens before (b, c)
        self.middle = Counts((kinds & low) >> _SHIFT)  # the sum of the above over c
        self.middle_kinds = Counts(self.two.keys >> _SHIFT)
        self.one = Counts(self.two.keys & ((1 << _SHIFT) - 1))  # different tokens before c
        self.discounts = [_discount(counts.values) for counts in (self.two, self.three)]

    def nll_nats(self, ids: Ids) -> Floats:
        """Negative log-probability of each token from the third on, given the two before."""
        a, b, c = ids[:-2], ids[1:-1], ids[2:]
        uniform = (self.one(pack(c)) + 1) / (len(self.two.keys) + self.n_vocab)
        lower = _interpolate(
            self.two(pack(b, c)), self.middle(pack(b)), self.middle_kinds(pack(b)), self.discounts[0], uniform
        )
        whole = _interpolate(
            self.three(pack(a, b, c)), self.context(pack(a, b)), self.kinds_after(pack(a, b)), self.discounts[1], lower
        )
        return np.asarray(-np.log(whole))


def _discount(counts: Ids) -> float:
    """The usual estimate n1 / (n1 + 2 n2)."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / max(once + 2 * twice, 1)


def _interpolate(count: Floats, total: Floats, kinds: Floats, discount: float, lower: Floats) -> Floats:
    seen = np.maximum(total, 1)
    mixed = np.maximum(count - discount, 0) / seen + discount * kinds / seen * lower
    return np.asarray(np.where(total > 0, mixed, lower))
