"""The state of the base's pass at the boundaries, captured in this machine's memory and put back for a replay.

One `ReplayCache` holds one chunk: for each of its batches and each wanted boundary the contents of the boundary's cut. Equal contents of
several cuts are held once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cerebellum.llamacpp import native
from cerebellum.llamacpp.trial.eval_callback import Program, program
from cerebellum.llamacpp.trial.graph import Graph, Held

Bytes = npt.NDArray[np.uint8]


class ReplayCache:
    """The captured contents of one chunk."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Held], Bytes] = {}

    @property
    def n_bytes(self) -> int:
        return sum(data.nbytes for data in self._kept.values())

    def capturing(self, batch: int, graph: Graph, boundaries: Sequence[int], *, whole: bool) -> Program:
        """A pass over batch number ``batch`` that keeps the cuts of ``boundaries``; not ``whole``: it ends at the last of them."""
        positions = [graph.boundaries[b] for b in boundaries]
        cuts = {position: cut for position in positions if (cut := graph.cut(position))}
        computed = range(len(graph) if whole else max(positions) + 1)

        def keep(position: int, noted: dict[int, int]) -> None:
            for held in cuts[position]:
                if (batch, held) not in self._kept:
                    self._kept[batch, held] = _read(_address(held, noted))

        return program(graph, computed, cuts, _places(*cuts.values()), keep)

    def replaying(self, batch: int, graph: Graph, boundary: int) -> Program:
        """Only what comes after ``boundary``, from what was kept of it."""
        position = graph.boundaries[boundary]
        cut = graph.cut(position)

        def put_back(_position: int, noted: dict[int, int]) -> None:
            for held in cut:
                _write(_address(held, noted), self._kept[batch, held])

        return program(graph, range(position + 1, len(graph)), [position] if cut else [], _places(cut), put_back)


def _places(*cuts: tuple[Held, ...]) -> list[int]:
    return [held.node for cut in cuts for held in cut if held.node is not None]


def _address(held: Held, noted: dict[int, int]) -> int:
    address = held.leaf if held.node is None else noted[held.node]
    assert address is not None
    return address


def _read(address: int) -> Bytes:
    data = np.empty(native.ggml().ggml_nbytes(address), np.uint8)
    native.ggml().ggml_backend_tensor_get(address, data.ctypes.data, 0, data.nbytes)
    return data


def _write(address: int, data: Bytes) -> None:
    native.ggml().ggml_backend_tensor_set(address, data.ctypes.data, 0, data.nbytes)
