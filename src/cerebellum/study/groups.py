"""Work cut into groups, one for an engine at a time, and what an idle engine takes of another's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from cerebellum.domain import Trial, block_of

#: Stretches of chunks that each of several engines gets of the same trials, where there are enough chunks.
PARTS = 2
#: Chunks of a stretch at least, where there are many trials: while they are computed the next tensor is quantized.
LEAST_CHUNKS = 4
#: What quantizing a tensor takes, about, in passes over a chunk.
QUANTIZING = 0.7
#: How often the interval is halved that holds the least cost of the costliest share.
HALVINGS = 30


@dataclass(frozen=True, slots=True)
class Group:
    """Work for one engine: every trial on every chunk."""

    chunks: tuple[int, ...]
    trials: tuple[Trial, ...]


def grouped(lacking: Sequence[tuple[Trial, Sequence[int]]], n_engines: int) -> list[Group]:
    """All trials that lack a chunk, together with the other chunks that the same trials lack, for several engines in groups.

    Chunks are shared out first, in stretches that are long enough for the next tensor to be quantized meanwhile; then the trials of a
    stretch, by what they compute. Groups are large, since each costs the base's pass up to its last block; who has none left takes of
    what another has not begun (`split`). Trials of late blocks come first in a group: the base's pass for what is taken is short.
    """
    by_chunk: dict[int, list[Trial]] = {}
    for trial, chunks in lacking:
        for chunk in chunks:
            by_chunk.setdefault(chunk, []).append(trial)
    alike: dict[tuple[str, ...], list[int]] = {}
    for chunk, trials in by_chunk.items():
        alike.setdefault(tuple(trial.label for trial in trials), []).append(chunk)
    groups: list[Group] = []
    for chunks in alike.values():
        groups += _cut(by_chunk[chunks[0]], chunks, n_engines)
    return groups


def _cut(trials: Sequence[Trial], chunks: Sequence[int], n_engines: int) -> Iterator[Group]:
    """The same trials on the same chunks, in groups for so many engines."""
    if n_engines == 1:
        yield Group(tuple(chunks), tuple(trials))
        return
    least = LEAST_CHUNKS if len(trials) >= n_engines else 1
    stretches = parts(chunks, min(PARTS * n_engines, max(1, len(chunks) // least)))
    n_each = -(-n_engines // len(stretches))
    if n_each == 1 or len(trials) == 1:
        yield from (Group(tuple(stretch), tuple(trials)) for stretch in stretches)
        return
    ordered = sorted(trials, key=first_block, reverse=True)
    for share in _shares(ordered, n_each, len(stretches[0])):
        yield from (Group(tuple(stretch), tuple(share)) for stretch in stretches)


def first_block(trial: Trial) -> int:
    """The block that a trial begins at: -1 for tensors before the blocks or after them."""
    blocks = [block_of(swap.tensor) for swap in trial.tensor_types]
    return min((-1 if block is None else block for block in blocks), default=-1)


@dataclass(frozen=True, slots=True)
class Costs:
    """What trials of a model of ``n_blocks`` blocks cost on ``n_chunks`` chunks, in whole passes over one."""

    n_blocks: int
    n_chunks: int

    def base(self, trial: Trial) -> float:
        """The base's pass up to the block that a trial begins at."""
        return self.n_chunks * max(first_block(trial), 0) / self.n_blocks

    def trial(self, trial: Trial) -> float:
        """The blocks from its own on, and no less than its tensor's quantizing, which goes on meanwhile."""
        return max(QUANTIZING, self.n_chunks - self.base(trial))


def n_blocks_of(trials: Iterable[Trial]) -> int:
    """Blocks of the model, as far as trials show them."""
    return max((first_block(trial) for trial in trials), default=-1) + 1 or 1


def _shares(ordered: Sequence[Trial], n: int, n_chunks: int) -> list[Sequence[Trial]]:
    """Trials from late blocks to early ones, cut into at most ``n`` stretches, the costliest of which costs as little as can be. A stretch
    costs the base's pass up to its last block too."""
    costs = Costs(n_blocks_of(ordered), n_chunks)
    bases, each = [costs.base(trial) for trial in ordered], [costs.trial(trial) for trial in ordered]
    least, most = max(each), math.fsum(each) + bases[0]
    bounds = [0]
    for _ in range(HALVINGS):
        limit = 0.5 * (least + most)
        tried, spent = [0], bases[0]
        for i, cost in enumerate(each):
            if spent + cost > limit and i > tried[-1]:
                tried.append(i)
                spent = bases[i]
            spent += cost
        least, most, bounds = (least, limit, tried) if len(tried) <= n else (limit, most, bounds)
    return [ordered[first:end] for first, end in itertools.pairwise([*bounds, len(ordered)])]


def parts(items: Sequence[int], n: int) -> list[Sequence[int]]:
    """``items`` cut into at most ``n`` stretches of nearly equal length, none of them empty."""
    step = max(1, -(-len(items) // max(n, 1)))
    return [items[first : first + step] for first in range(0, len(items), step)]


@dataclass
class Running:
    """A group that an engine computes: the number of its latest trial, and the cells (label, chunk) that are scored or another's."""

    group: Group
    at: int = -1
    gone: set[tuple[str, int]] = field(default_factory=set)

    def left(self, trial: Trial) -> tuple[int, ...]:
        """The chunks that a trial still lacks."""
        return tuple(chunk for chunk in self.group.chunks if (trial.label, chunk) not in self.gone)

    def behind(self, failed: Set[str]) -> list[Trial]:
        """The trials that it has not begun; all of them lack the same chunks."""
        return [t for t in self.group.trials[self.at + 1 :] if t.label not in failed and self.left(t)]

    def take(self, trials: Sequence[Trial]) -> Group:
        """Make the last trials another engine's."""
        taken = Group(self.left(trials[0]), tuple(trials))
        self.gone |= {(trial.label, chunk) for trial in trials for chunk in taken.chunks}
        return taken


def split(running: Iterable[Running], n_blocks: int, failed: Set[str]) -> Group | None:
    """What an idle engine takes from the one that has most before it: so many of the last trials that both end together. None where that
    would end no sooner."""
    longest, most, behind = None, 0.0, list[Trial]()
    for each in running:
        if len(trials := each.behind(failed)) > 1:
            costs = Costs(n_blocks, len(each.left(trials[0])))
            if (work := math.fsum(map(costs.trial, trials))) > most:
                longest, most, behind = each, work, trials
    if longest is None:
        return None
    costs = Costs(n_blocks, len(longest.left(behind[0])))
    now, taken, best, n = costs.trial(behind[0]), 0.0, math.inf, 0  # the trial that it is at, as the next
    for i, trial in enumerate(reversed(behind[1:]), 1):
        taken += costs.trial(trial)
        if (end := max(QUANTIZING + costs.base(trial) + taken, now + most - taken)) < best:
            best, n = end, i
    return longest.take(behind[-n:]) if best < now + most else None
