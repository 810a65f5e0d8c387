"""An importance matrix while it is made: sums of squared activations and how many rows made them, for each weight matrix.

The rules are llama-imatrix's (tools/imatrix/imatrix.cpp): what is summed, how sums are added to earlier ones, what a count of zero means.
Sums are float32 and are added in the order of the rows, as there, so the same text gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

#: Tokens that llama-imatrix decodes together, in sequences of one chunk each, and the tokens of one graph.
BATCH_TOKENS, GRAPH_TOKENS = 2048, 512


def n_side_by_side(n_ctx: int) -> int:
    """Chunks of ``n_ctx`` tokens that llama-imatrix decodes together."""
    return max(1, BATCH_TOKENS // n_ctx)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """One weight's entry: ``values`` float32 [matrices × row length], the sum of the squared inputs of each column; ``counts`` int64 [1]
    or [matrices], the rows of activations that they are of. Matrices are experts, or more of a dense weight's dimensions."""

    values: Floats
    counts: Counts

    def spread(self, n: int) -> Sums:
        """The same with a count for each of ``n`` matrices: an entry of one count is of all of them."""
        return Sums(self.values, np.repeat(self.counts, n)) if len(self.counts) == 1 and n > 1 else self

    def gathered(self) -> Sums:
        """The same with one count where all are equal, as a dense weight's are."""
        return Sums(self.values, self.counts[:1]) if len(set(self.counts.tolist())) == 1 else self

    def means(self) -> Floats:
        """float32 [matrices × row length]: the mean squared input, 1 where a matrix saw no row (llama.cpp's rule)."""
        rows = self.values.reshape(len(self.counts), -1)
        used = (self.counts > 0)[:, None]
        divisor = np.where(used, self.counts[:, None].astype(np.float32), np.float32(1))
        return np.where(used, rows / divisor, np.float32(1)).reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """All entries by the weight's name, the names of the texts and the tokens in a chunk. ``origin``: what it was made from, as keys and
    values that go into the file."""

    entries: Mapping[str, Sums] = field(repr=False)
    datasets: tuple[str, ...]
    chunk_size: int
    origin: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def n_chunks(self) -> int:
        """Chunks that the entry with the most rows saw, as llama-imatrix counts them."""
        largest = max((int(sums.counts.max()) for sums in self.entries.values() if len(sums.counts)), default=0)
        return largest // self.chunk_size


def merged(parts: Iterable[Importance], chunk_size: int) -> Importance:
    """Several importance matrices as one, each with the weight of its rows: sums and counts are added, in the order given.

    Raises `ValueError` with the weight's name where two have different sizes.
    """
    entries: dict[str, Sums] = {}
    datasets: tuple[str, ...] = ()
    for importance in parts:
        datasets += importance.datasets
        for name, sums in importance.entries.items():
            entries[name] = added(name, entries[name], sums) if name in entries else sums
    return Importance(dict(sorted(entries.items())), datasets, chunk_size)


def added(name: str, one: Sums, other: Sums) -> Sums:
    """Sums and counts of two entries together. Raises `ValueError` where their sizes differ."""
    n = max(len(one.counts), len(other.counts))
    one, other = one.spread(n), other.spread(n)
    if one.values.shape != other.values.shape or one.counts.shape != other.counts.shape:
        raise ValueError(
            f"{name} has {one.values.size} values in {len(one.counts)} matrices and {other.values.size} in {len(other.counts)}"
        )
    return Sums(one.values + other.values, one.counts + other.counts)
