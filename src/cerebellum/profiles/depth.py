"""Relative depth: which blocks of a model of another length lie where these lie.

Depth of block b of n is b ÷ (n − 1): 0 for the first, 1 for the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def relative_depth(block: float, n_blocks: int) -> float:
    """Depth of ``block`` between 0 and 1; 0 in a model of one block."""
    return block / (n_blocks - 1) if n_blocks > 1 else 0.0


def map_run(first: int, last: int, n_from: int, n_to: int) -> tuple[int, int]:
    """Blocks ``first`` to ``last`` of ``n_from`` in a model of ``n_to``: (first, last) of as many blocks, their middle at the same depth.

    A run of as many blocks, so that a map there and back gives the run again wherever rounding allows. Raises `ValueError` where the
    run is not in the model, or longer than the other model.
    """
    if not 0 <= first <= last < n_from:
        raise ValueError(f"blocks {first} to {last} are not in a model of {n_from} blocks")
    length = last - first + 1
    if length > n_to:
        raise ValueError(f"a model of {n_to} blocks has no run of {length}")
    middle = relative_depth((first + last) / 2, n_from) * (n_to - 1)
    start = int(np.floor(middle - (length - 1) / 2 + 0.5))
    start = min(max(start, 0), n_to - length)
    return start, start + length - 1


def carried(profile: Mapping[int, float], n_from: int, blocks: Sequence[int], n_to: int) -> Floats:
    """``profile`` (block → value, of a model of ``n_from`` blocks) at the depths of ``blocks`` of ``n_to``: linear between neighbours,
    the end's value beyond an end. float64 [len(blocks)]."""
    known = sorted(profile)
    depths = [relative_depth(b, n_from) for b in known]
    wanted = [relative_depth(b, n_to) for b in blocks]
    return np.interp(wanted, depths, [profile[b] for b in known])
