"""A chunk that was decoded in several batches: its reference rows for each batch, its sums added up; and a cache of reference rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cerebellum.domain import ChunkScore
from cerebellum.scoring.metrics import ReferenceRows

#: Reads a chunk's rows of the reference, by the chunk's id.
Reader = Callable[[int], ReferenceRows]


def keeping(reader: Reader, n_bytes: int) -> Reader:
    """``reader`` that keeps what it has read until that takes ``n_bytes``; chunks that come later are read anew each time."""
    kept: dict[int, ReferenceRows] = {}
    room = n_bytes

    def read(chunk: int) -> ReferenceRows:
        nonlocal room
        if chunk in kept:
            return kept[chunk]
        rows = reader(chunk)
        if rows.n_bytes <= room:
            kept[chunk] = rows
            room -= rows.n_bytes
        return rows

    return read


def slice_reference(rows: ReferenceRows | None, first: int, last: int) -> ReferenceRows | None:
    """The reference's rows ``first``…``last`` − 1 of a chunk."""
    if rows is None:
        return None
    ids = None if rows.ids is None else rows.ids[first:last]
    span = slice(first, last)
    scale = None if rows.scale is None else rows.scale[span]
    return ReferenceRows(
        rows.logits[span], rows.lse[span], rows.target_nll[span], rows.top[span], ids, rows.drawn, scale
    )


def join_reference(parts: Sequence[ReferenceRows]) -> ReferenceRows:
    """Rows of consecutive batches as one."""
    ids = [piece.ids for piece in parts if piece.ids is not None]
    scales = [piece.scale for piece in parts if piece.scale is not None]
    return ReferenceRows(
        np.concatenate([piece.logits for piece in parts]),
        np.concatenate([piece.lse for piece in parts]),
        np.concatenate([piece.target_nll for piece in parts]),
        np.concatenate([piece.top for piece in parts]),
        np.concatenate(ids) if ids else None,
        parts[0].drawn,
        np.concatenate(scales) if scales else None,
    )


def add_scores(parts: Sequence[ChunkScore]) -> ChunkScore:
    """Sums of the parts of one chunk, in their order."""
    total = parts[0]
    for score in parts[1:]:
        total = _add(total, score)
    return total


def _add(a: ChunkScore, b: ChunkScore) -> ChunkScore:
    def both(name: str) -> Any:
        left, right = getattr(a, name), getattr(b, name)
        return None if left is None or right is None else left + right

    names = ("n_tokens", "nll", "nll2", "kld", "kld2", "kld_var", "same_top", "dp", "dp2", "dp4", "kld_tokens")
    tempered = tuple(x + y for x, y in zip(a.tempered, b.tempered, strict=True))
    return ChunkScore(chunk=a.chunk, tempered=tempered, **{name: both(name) for name in names})
