"""Many trials on many chunks, each trial computed from the block that it changes on.

The base's pass over a chunk is kept at the boundaries that trials begin at (`states`); a trial puts that back and computes the rest.
The chunks are taken in parts: as many at a time as the allowed memory holds the states of. Within a part each trial goes over all
chunks, so a part costs each tensor's quantization once, and all of them together only once where every chunk fits. A chunk whose
states alone are too large is kept at fewer boundaries, and a trial then computes some blocks that it doesn't change.

Before the first replay the base and one trial are computed both ways, on all scored rows of a chunk; where they differ in a bit,
nothing is left out and the user is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cerebellum.backend import Began, Said, Scored, SweepEvent
from cerebellum.domain import Chunk, Trial
from cerebellum.llamacpp.engine import LlamaEngine, equal
from cerebellum.llamacpp.states import States
from cerebellum.reference import ReferenceStore

#: The boundary that each trial of a chunk begins at; −1: it is computed whole.
Starts = list[int]


@dataclass(frozen=True, slots=True)
class Part:
    """Chunks measured together, and where each trial (by its number) begins on each."""

    chunks: tuple[Chunk, ...]
    starts: tuple[Starts, ...]


def sweep(
    engine: LlamaEngine, trials: Sequence[Trial], chunks: Sequence[Chunk], reference: ReferenceStore | None
) -> Iterator[SweepEvent]:
    """See `cerebellum.backend.Engine.sweep`."""
    for trial in trials:
        engine.check(trial.swaps)
    if not trials or not chunks:
        return
    starts = [starts_on(engine, trials, chunk) for chunk in chunks]
    if engine.replays is None and any(start >= 0 for start in starts[0]):
        yield from _check(engine, trials, chunks[0], starts[0])
    elif engine.lean is None and engine.is_lean_worth([chunk for chunk in chunks for _ in trials]):
        yield from _check_lean(engine, trials[0], chunks[0])
    if not engine.replays:
        starts = [[-1] * len(trials)] * len(chunks)
    parts = in_parts(engine, chunks, starts)
    for number, part in enumerate(parts):
        yield from _measure(engine, trials, part, reference, last=number == len(parts) - 1)


def starts_on(engine: LlamaEngine, trials: Sequence[Trial], chunk: Chunk) -> Starts:
    """Where each trial begins on a chunk: at the last boundary before what it changes in any batch, if keeping it is worth while and
    within the allowed memory."""
    graphs = engine.graphs(chunk)
    if not graphs:
        return [-1] * len(trials)
    addresses = [[a for swap in trial.swaps for a in engine.addresses(swap.tensor)] for trial in trials]
    starts = [
        min(graph.boundary_before(own) for graph in graphs) if trial.swaps else -1
        for trial, own in zip(trials, addresses, strict=True)
    ]
    kept = affordable(sorted({s for s in starts if s >= 0}), engine.settings.replay_bytes, engine.state_bytes(chunk))
    starts = [max((k for k in kept if k <= start), default=-1) for start in starts]
    graph = graphs[-1]
    saved = sum(graph.share_until(start) for start in starts)
    cost = 0.0 if any(not trial.swaps for trial in trials) else graph.share_until(max(starts))
    return starts if saved > cost else [-1] * len(trials)


def affordable(boundaries: Sequence[int], n_bytes: int, size: Callable[[Sequence[int]], int]) -> Sequence[int]:
    """Every m-th of ``boundaries``, beginning with the first, for the least m whose states fit ``n_bytes``; none where no m does."""
    for step in range(1, len(boundaries) + 1):
        if size(boundaries[::step]) <= n_bytes:
            return boundaries[::step]
    return ()


def in_parts(engine: LlamaEngine, chunks: Sequence[Chunk], starts: Sequence[Starts]) -> list[Part]:
    """As few parts as the allowed memory permits, of nearly equal length."""
    most = max(engine.state_bytes(c)(kept_of(s)) for c, s in zip(chunks, starts, strict=True))
    room = max(1, engine.settings.replay_bytes // most) if most else len(chunks)
    n = -(-len(chunks) // room)
    edges = [len(chunks) * i // n for i in range(n + 1)]
    return [Part(tuple(chunks[a:b]), tuple(starts[a:b])) for a, b in itertools.pairwise(edges)]


def kept_of(starts: Starts) -> list[int]:
    """The boundaries that a chunk's trials begin at."""
    return sorted({start for start in starts if start >= 0})


def _measure(
    engine: LlamaEngine, trials: Sequence[Trial], part: Part, reference: ReferenceStore | None, last: bool
) -> Iterator[SweepEvent]:
    """All trials on a part's chunks, the base first; ``last``: what a trial swaps will not be wanted again."""
    order = sorted(range(len(trials)), key=lambda i: bool(trials[i].swaps))
    states = [States() for _ in part.chunks]
    if all(trial.swaps for trial in trials):
        yield from _keep(engine, part, states, order[0])
    for place, number in enumerate(order):
        swaps = trials[number].swaps
        with engine.swapped(swaps):
            if place + 1 < len(order):
                engine.ahead(trials[order[place + 1]].swaps)
            for chunk, kept, starts in zip(part.chunks, states, part.starts, strict=True):
                yield Began(number, chunk.id)
                rows = reference.read(chunk.id) if reference else None
                if not swaps and (bounds := kept_of(starts)):
                    programs = engine.capturing(chunk, kept, bounds, whole=True)
                else:
                    programs = engine.replaying(chunk, kept, starts[number])
                yield Scored(number, engine.score_chunk(chunk, rows, programs))
        if last:
            engine.forget()


def _keep(engine: LlamaEngine, part: Part, states: Sequence[States], first: int) -> Iterator[SweepEvent]:
    """The base's pass over each chunk, only to be kept, where no trial is the base."""
    for chunk, kept, starts in zip(part.chunks, states, part.starts, strict=True):
        if bounds := kept_of(starts):
            yield Began(first, chunk.id)
            engine.pass_over(chunk, engine.capturing(chunk, kept, bounds, whole=False))


def _check(engine: LlamaEngine, trials: Sequence[Trial], chunk: Chunk, starts: Starts) -> Iterator[SweepEvent]:
    """One trial both ways: sets ``engine.replays``."""
    replayed = sorted((start, i) for i, start in enumerate(starts) if start >= 0)
    start, number = replayed[len(replayed) // 2]
    yield Began(number, chunk.id)
    states = States()
    same = equal(
        engine.rows(chunk, None), engine.rows(chunk, engine.capturing(chunk, states, kept_of(starts), whole=True))
    )
    with engine.swapped(trials[number].swaps):
        same = same and equal(engine.rows(chunk, None), engine.rows(chunk, engine.replaying(chunk, states, start)))
    engine.replays = engine.lean = same
    if not same:
        yield Said(
            f"warning: computing trial {trials[number].label!r} from block {start + 1} on gives other numbers than computing it whole, so "
            "every trial is computed whole: slower, and exact"
        )


def _check_lean(engine: LlamaEngine, trial: Trial, chunk: Chunk) -> Iterator[SweepEvent]:
    """Leaving out what is dead, tried on one trial."""
    yield Began(0, chunk.id)
    with engine.swapped(trial.swaps):
        if not engine.check_lean(chunk):
            yield Said(
                "warning: leaving out what no scored token needs gives other numbers, so every trial is computed whole"
            )
