"""A context of llama.cpp with many sequences side by side in one memory, that decodes the waves of `prefix_tree`.

Sequence 0 holds the trunk, sequence i + 1 the wave's path i. A node is decoded once, under every sequence that it belongs to. The trunk's
cells belong to sequence 0 and to the wave's last path. The second owner is needed in blocks with a sliding window: there llama.cpp reuses a
cell of one owner once it is outside the window, and the next wave may begin before that cell.

Some memories can't remove the end of a sequence (recurrent and hybrid models). Then `n_side` is 1 and nothing is shared: each path goes
alone through an empty memory.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Mask, Tokens
from cerebellum.errors import EngineError
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.generate.prefix_tree import Places, Room, Wave
from cerebellum.llamacpp.protocol import LOGITS_BYTES, Settings
from cerebellum.llamacpp.trial.decoding import Logits, decode, only_attends

#: Sequences side by side; llama.cpp has 256.
MOST_SEQUENCES = 64
#: Cells of memory for each token of the context that a request can have.
CELLS = 4

_NOTHING: Tokens = np.zeros(0, np.int32)


class Sequences:
    """``n_vocab`` is the length of a row of logits. Raises `EngineError` where llama.cpp can't open the context."""

    def __init__(self, model: Any, settings: Settings, n_ctx: int, n_vocab: int) -> None:
        self.shares = only_attends(model)
        n_cells = CELLS * n_ctx if self.shares else n_ctx
        self.n_batch = min(settings.n_batch or max(settings.n_ubatch, 1), n_cells)
        self.n_side = max(1, min(MOST_SEQUENCES, self.n_batch - 1)) if self.shares else 1
        self._n_rows = max(self.n_side + 1, min(self.n_batch, LOGITS_BYTES // (4 * n_vocab)))
        self.room = Room(self.n_side, self.n_batch, n_cells)
        self._n_vocab = n_vocab
        self._context = self._open(model, settings, n_cells)
        self._memory = lc.llama_get_memory(self._context)
        self._batch = SequenceBatch(self.n_batch, self.n_side + 1)
        self.trunk: Tokens = _NOTHING

    def _open(self, model: Any, settings: Settings, n_cells: int) -> Any:
        params = lc.llama_context_default_params()
        params.n_ctx = n_cells
        params.n_seq_max = self.n_side + 1 if self.shares else 1
        params.kv_unified = True
        params.swa_full = True
        params.n_batch = self.n_batch
        params.n_ubatch = min(settings.n_ubatch, self.n_batch)
        params.n_outputs_max = self._n_rows
        params.n_threads = params.n_threads_batch = settings.threads
        params.no_perf = True
        params.op_offload = settings.n_gpu_layers != 0
        if settings.flash_attention is not None:
            params.flash_attn_type = int(settings.flash_attention)
        context = lc.llama_init_from_model(model, params)
        if not context:
            raise EngineError(f"llama.cpp can't open a context of {n_cells} tokens: {native.native_log().errors()}")
        return context

    # -- memory ------------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget everything."""
        lc.llama_memory_clear(self._memory, True)
        self.trunk = _NOTHING

    def release(self, side: int) -> None:
        """Forget what sequence ``side`` + 1 holds alone."""
        if self.shares:
            lc.llama_memory_seq_rm(self._memory, side + 1, -1, -1)

    def release_all(self) -> None:
        """Keep the trunk alone."""
        if not self.shares:
            self.clear()
        elif len(self.trunk):
            lc.llama_memory_seq_keep(self._memory, 0)

    # -- decoding ----------------------------------------------------------------------------------------------------

    def decode(self, wave: Wave, sides: npt.NDArray[np.int32] | None = None) -> Iterator[tuple[Places, Logits]]:
        """Per batch: the nodes whose rows are wanted, and those rows float32 [n, vocabulary], good until the next one.

        ``sides`` int32 [paths], increasing: where the wave's paths go (0, 1, … if None). Its trunk must be ours.
        """
        sides = np.arange(len(wave.paths), dtype=np.int32) if sides is None else sides
        self._lay(wave, sides)
        trunk_until = len(wave.paths) - 1
        start = 0
        while start < len(wave.tokens):
            stop = self._batch_end(wave.wanted, start)
            owners = [
                self._owners(sides[first : last + 1], last == trunk_until)
                for first, last in zip(wave.first[start:stop].tolist(), wave.last[start:stop].tolist(), strict=True)
            ]
            span = slice(start, stop)
            rows = self._run(wave.tokens[span], wave.places[span], owners, wave.wanted[span])
            if len(rows):
                yield (start + np.flatnonzero(wave.wanted[span])).astype(np.int32), rows
            start = stop

    def step(self, tokens: Tokens, places: Places, sides: npt.NDArray[np.int32]) -> Logits:
        """One token for each of ``sides``, at ``places``: rows float32 [n, vocabulary], good until the next call."""
        owners = [self._owners(sides[i : i + 1], not self.shares) for i in range(len(sides))]
        return self._run(tokens, places, owners, np.ones(len(tokens), np.bool_))

    def _lay(self, wave: Wave, sides: npt.NDArray[np.int32]) -> None:
        """Give each path its part of the trunk, and leave of the trunk what the last path begins with."""
        if not self.shares:
            self.clear()
            return
        for side, kept in zip(sides.tolist(), wave.kept, strict=True):
            if kept:
                lc.llama_memory_seq_cp(self._memory, 0, side + 1, 0, kept)
        lc.llama_memory_seq_rm(self._memory, 0, wave.kept[-1], -1)
        self.trunk = wave.paths[-1].tokens

    def _batch_end(self, wanted: Mask, start: int) -> int:
        """As many nodes from ``start`` as a batch holds, in tokens and in rows."""
        rows = np.cumsum(wanted[start : start + self.n_batch])
        return start + int(np.searchsorted(rows, self._n_rows, side="right"))

    def _owners(self, sides: npt.NDArray[np.int32], with_trunk: bool) -> npt.NDArray[np.int32]:
        if not self.shares:
            return np.zeros(1, np.int32)
        return np.append(sides + 1, 0) if with_trunk else sides + 1

    def _run(self, tokens: Tokens, places: Places, owners: list[npt.NDArray[np.int32]], wanted: Mask) -> Logits:
        decode(self._context, self._batch.fill(tokens, places, owners, wanted))
        n = int(wanted.sum())
        if not n:
            return np.zeros((0, self._n_vocab), np.float32)
        return np.ctypeslib.as_array(lc.llama_get_logits(self._context), shape=(n, self._n_vocab))

    def close(self) -> None:
        lc.llama_free(self._context)


class SequenceBatch:
    """A `llama_batch` over arrays of our own: tokens that belong to several sequences."""

    def __init__(self, size: int, n_sequences: int) -> None:
        self._token = np.zeros(size, np.int32)
        self._pos = np.zeros(size, np.int32)
        self._n_owners = np.zeros(size, np.int32)
        self._owners = np.zeros((size, n_sequences), np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._rows = (C.POINTER(C.c_int32) * size)(
            *(C.cast(self._owners[i].ctypes.data, C.POINTER(C.c_int32)) for i in range(size))
        )
        integers = C.POINTER(C.c_int32)
        self._batch = lc.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(integers),
            embd=None,
            pos=self._pos.ctypes.data_as(integers),
            n_seq_id=self._n_owners.ctypes.data_as(integers),
            seq_id=self._rows,
            logits=self._wanted.ctypes.data_as(C.POINTER(C.c_int8)),
        )

    def fill(self, tokens: Tokens, places: Places, owners: list[npt.NDArray[np.int32]], wanted: Mask) -> Any:
        n = len(tokens)
        self._batch.n_tokens = n
        self._token[:n], self._pos[:n], self._wanted[:n] = tokens, places, wanted
        for i, ids in enumerate(owners):
            self._n_owners[i] = len(ids)
            self._owners[i, : len(ids)] = ids
        return self._batch
