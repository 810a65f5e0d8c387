"""What kind of block each one is, and a profile carried to a model whose kinds are arranged otherwise.

Two things besides depth make blocks of one model unlike: how far their attention looks (a window, everything, a recurrent state), and
whether they keep keys and values of their own or read an earlier block's. Depth is counted within the blocks that own keys and values and
within those that share, so that the border between them lies where it lies in either model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Model
from cerebellum.gguf.memory_layers import layers_of, n_shared, windows_of
from cerebellum.profiles.depth import carried, relative_depth

Floats = npt.NDArray[np.float64]

#: Words for a block's attention, and the mark of one that reads an earlier block's keys and values.
WINDOW, FULL, STATE, SHARED = "window", "full", "state", "shared"


@dataclass(frozen=True, slots=True)
class Layout:
    """``kinds``: a word a block, empty where nobody knows."""

    n_blocks: int
    kinds: tuple[str, ...] = ()

    def kind(self, block: int) -> str:
        return self.kinds[block] if block < len(self.kinds) else ""

    def is_shared(self, block: int) -> bool:
        """Whether the block reads an earlier block's keys and values."""
        return SHARED in self.kind(block)

    def depth(self, block: int) -> float:
        """0 to 1 among the blocks that own keys and values, 1 to 2 among those that share."""
        border = next((b for b in range(self.n_blocks) if self.is_shared(b)), self.n_blocks)
        if block < border:
            return relative_depth(block, border)
        return 1.0 + relative_depth(block - border, self.n_blocks - border)

    @property
    def has_shared(self) -> bool:
        return any(SHARED in kind for kind in self.kinds)


def layout_of(model: Model) -> Layout:
    """The kinds by the model's metadata; none where these don't say how wide it is."""
    return Layout(model.n_blocks, kinds_of(model))


def kinds_of(model: Model) -> tuple[str, ...]:
    """A word a block (see `Layout`); empty where the metadata are silent."""
    width = model.metadata.get(f"{model.architecture}.embedding_length")
    if not isinstance(width, int):
        return ()
    try:
        layers, windows, shared = layers_of(model), windows_of(model), n_shared(model)
    except (TypeError, ValueError, ArithmeticError, LookupError):  # metadata of another form than llama.cpp writes
        return ()
    kinds = [
        STATE if layer.state_bytes and not layer.keys else WINDOW if window else FULL
        for layer, window in zip(layers, windows, strict=True)
    ]
    border = len(kinds) - shared if 0 < shared < len(kinds) else len(kinds)
    return tuple(kind if block < border else f"{kind} {SHARED}" for block, kind in enumerate(kinds))


def carried_over(
    profile: Mapping[int, float], source: Layout, blocks: Sequence[int], target: Layout, *, attention: bool
) -> Floats:
    """``profile`` (block → value) at ``blocks`` of the other model: float64 [len(blocks)].

    Linear in depth between source blocks of the same side of the border, and for ``attention``'s roles of the same kind, as long as
    there are any; by relative depth alone where one of the models has no border or no kinds.
    """
    logs = np.empty(len(blocks))
    for i, block in enumerate(blocks):
        likes = _likes(profile, source, block, target, attention=attention)
        if source.has_shared and target.has_shared:
            depths = [source.depth(b) for b in likes]
            logs[i] = np.interp(target.depth(block), depths, [profile[b] for b in likes])
        else:
            like = {b: profile[b] for b in likes}
            logs[i] = carried(like, source.n_blocks, [block], target.n_blocks)[0]
    return logs


def _likes(profile: Mapping[int, float], source: Layout, block: int, target: Layout, *, attention: bool) -> list[int]:
    """The source's blocks that the new one is compared with, in order."""
    everything = sorted(profile)
    if not (source.kinds and target.kinds):
        return everything
    if attention and (same := [b for b in everything if source.kind(b) == target.kind(block)]):
        return same
    if source.has_shared and target.has_shared:
        return [b for b in everything if source.is_shared(b) == target.is_shared(block)] or everything
    return everything
