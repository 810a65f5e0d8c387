"""Writing after prompts, many at a time: each has a sequence of its own, and one that has ended makes room for the next.

Prompts are taken in lexicographic order, so that each shares its beginning with the one before (the trunk of `prefix_tree`). Between steps,
in which every sequence gets one token, new prompts go in as a wave wherever sequences and cells are free.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cerebellum.errors import EngineError
from cerebellum.llamacpp.generate.prefix_tree import Path, Room, fitting, order, shared, wave
from cerebellum.llamacpp.generate.protocol import Prompt, Writing, WrittenText
from cerebellum.llamacpp.generate.sampler import Sampler
from cerebellum.llamacpp.generate.sequences import Sequences
from cerebellum.llamacpp.vocabulary import Vocabulary

#: Seconds between two words of how much was written.
TELL_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A request with what is left of its prompt: a path of which the last row is wanted."""

    number: int
    path: Path
    request: Prompt
    n_cut: int

    @property
    def growth(self) -> int:
        """Cells it may take beside its prompt's; one more where the prompt's last token is decoded a second time."""
        return self.request.max_tokens + 1


@dataclass(frozen=True, slots=True)
class _Running:
    entry: _Entry
    sampler: Sampler


def write(
    sequences: Sequences, vocabulary: Vocabulary, requests: Sequence[Prompt], n_ctx: int
) -> Iterator[tuple[int, WrittenText]]:
    """(number, answer), as each ends. Prompts lose their beginning where they and ``max_tokens`` are more than ``n_ctx``."""
    told = write_told(sequences, vocabulary, requests, n_ctx)
    return (answer for answer in told if not isinstance(answer, Writing))


def write_told(
    sequences: Sequences, vocabulary: Vocabulary, requests: Sequence[Prompt], n_ctx: int
) -> Iterator[tuple[int, WrittenText] | Writing]:
    """As `write`, with a `Writing` about every `TELL_EVERY` seconds."""
    entries = sorted((_entry(*item, n_ctx) for item in enumerate(requests)), key=lambda e: order(e.path.tokens))
    return _Desk(sequences, vocabulary, entries).work()


def _entry(number: int, request: Prompt, n_ctx: int) -> _Entry:
    n = len(request.tokens)
    if not n:
        raise EngineError(f"prompt {number + 1} is empty")
    if not 1 <= request.max_tokens < n_ctx:
        raise EngineError(
            f"prompt {number + 1} asks for {request.max_tokens} tokens; a context of {n_ctx} leaves room for 1 to {n_ctx - 1}"
        )
    n_cut = max(0, n + request.max_tokens - n_ctx)
    tokens = request.tokens[n_cut:].astype(np.int32)
    return _Entry(number, Path(tokens, np.arange(len(tokens)) == len(tokens) - 1, (number,)), request, n_cut)


class _Desk:
    """Who waits (in lexicographic order), and who writes in which sequence."""

    def __init__(self, sequences: Sequences, vocabulary: Vocabulary, waiting: Sequence[_Entry]) -> None:
        self._sequences, self._vocabulary = sequences, vocabulary
        self._waiting = list(waiting)[::-1]
        self._running: dict[int, _Running] = {}
        self._n_tokens = 0

    def work(self) -> Iterator[tuple[int, WrittenText] | Writing]:
        self._sequences.clear()
        told = time.monotonic()
        while self._waiting or self._running:
            yield from self._admit()
            yield from self._step()
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                yield Writing(self._n_tokens)

    # -- taking in ---------------------------------------------------------------------------------------------------

    def _admit(self) -> Iterator[tuple[int, WrittenText]]:
        """Take in as many of the next prompts as fit, as one wave; their first tokens."""
        free = [side for side in range(self._sequences.n_side) if side not in self._running]
        entries = self._next(len(free))
        if not entries:
            return
        del self._waiting[-len(entries) :]
        new = wave(self._sequences.trunk, [entry.path for entry in entries])
        sides = np.array(free[: len(entries)], np.int32)
        ends = np.array([nodes[-1] for nodes in new.nodes])  # equal prompts end in one node
        for nodes, rows in self._sequences.decode(new, sides):
            for node, row in zip(nodes.tolist(), rows, strict=True):
                for i in np.flatnonzero(ends == node).tolist():
                    run = _Running(entries[i], Sampler(self._vocabulary, entries[i].request))
                    run.sampler.choose(row)
                    self._running[int(sides[i])] = run
        self._n_tokens += len(entries)
        yield from self._finish(sides.tolist())

    def _next(self, n_free: int) -> list[_Entry]:
        """The next that fit beside those that run, each with room to its very end."""
        candidates = self._waiting[: -n_free - 1 : -1]
        if not candidates:
            return []
        room = self._sequences.room
        n = fitting(self._sequences.trunk, [entry.path for entry in candidates], Room(n_free, room.tokens, room.cells))
        while n and self._cells(candidates[:n]) > room.cells:
            n -= 1
        return candidates[:n] if n or self._running else candidates[:1]

    def _cells(self, new: Sequence[_Entry]) -> int:
        """Most cells that all could take: prompts share what they begin with, trunk and all."""
        entries = sorted([run.entry for run in self._running.values()] + list(new), key=lambda e: order(e.path.tokens))
        prompts = [entry.path.tokens for entry in entries]
        if len(self._sequences.trunk):
            prompts = sorted([*prompts, self._sequences.trunk], key=order)
        common = sum(shared(a, b) for a, b in itertools.pairwise(prompts))
        return sum(map(len, prompts)) - common + sum(entry.growth for entry in entries)

    # -- going on ----------------------------------------------------------------------------------------------------

    def _step(self) -> Iterator[tuple[int, WrittenText]]:
        """One more token of everybody."""
        if not self._running:
            return
        sides = sorted(self._running)
        runs = [self._running[side] for side in sides]
        tokens = np.array([run.sampler.last for run in runs], np.int32)
        places = np.array([len(run.entry.path.tokens) + run.sampler.n_tokens - 1 for run in runs], np.int32)
        rows = self._sequences.step(tokens, places, _numbers(sides))
        for run, row in zip(runs, rows, strict=True):
            run.sampler.choose(row)
        self._n_tokens += len(runs)
        yield from self._finish(sides)

    def _finish(self, sides: Sequence[int]) -> Iterator[tuple[int, WrittenText]]:
        """Answers of those of ``sides`` that have ended, whose sequences are then free."""
        ended = [side for side in sides if self._running[side].sampler.ended]
        for side in ended:
            self._sequences.release(side)
        for run in [self._running.pop(side) for side in ended]:
            sampler = run.sampler
            yield run.entry.number, WrittenText(sampler.text, sampler.n_tokens, sampler.ended, run.entry.n_cut)


def _numbers(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)
