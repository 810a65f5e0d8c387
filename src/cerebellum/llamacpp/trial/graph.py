"""What a forward pass computes, in order, and what of it can be left out. Pure: a recorded graph in, positions and sets out.

llama.cpp builds the same graph for every batch of one shape. A **boundary** is the output of a block. To compute only what comes after
it, three things must be as the whole pass would have left them: the boundary's own output, whatever else was computed before and is
read after (Gemma's per-layer inputs), and memory written before and read after (keys and values that later blocks share). These are
the boundary's **cut**. It is found from the graph itself, by who writes and who reads which memory; no architecture is named here.

Between devices the scheduler hands copies, made before the nodes that read them begin: what leads to a copy can't be put in place in
between, so it is computed anew each time (token embeddings looked up, with all layers on a GPU).

A batch of which no token is scored leaves nothing but keys and values, so what leads to none of them is **dead**.

The last nodes that lie in one memory make the logits (a product, and of Gemma what bounds it): the graph's **outputs**.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

_BLOCK_OUTPUT = re.compile(r"l_out-\d+")
#: What llama.cpp calls the node whose result it copies out.
_LOGITS = "result_output"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. ``address`` is its struct's, ``root`` the struct's whose memory it writes (its own, or what it is a view of),
    ``n_bytes`` the size of that memory, ``reads`` the roots of its sources; ``empty``: it computes nothing (a view, a reshape).
    ``mixes``: what it computes of one token may depend on which others are in the batch, and on how many (`mixing.mixes`).
    ``data`` is where its result lay in this machine's memory when it was recorded, 0 for one on a device; ``copied`` are the names of the
    tensors that it reads copies of."""

    name: str
    address: int
    root: int
    n_bytes: int
    reads: tuple[int, ...]
    empty: bool
    data: int = 0
    copied: tuple[str, ...] = ()
    mixes: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """Memory in a cut: that of node number ``place``, or of the tensor at ``leaf`` outside the graph. ``version`` counts the writes it
    has seen by then: equal memory of equal version has equal contents."""

    place: int | None
    leaf: int | None
    version: int
    n_bytes: int


def _originals(nodes: Sequence[Node]) -> list[tuple[int, ...]]:
    """Of each node the roots of what it reads copies of, as far as nodes write it."""
    named: dict[str, list[int]] = defaultdict(list)
    for node in nodes:
        named[node.name].append(node.root)
    return [tuple(root for name in node.copied for root in named.get(name, ())) for node in nodes]


class Graph:
    """A recorded graph, with ``logit_bytes`` of logits: none where no token of its batch is scored."""

    def __init__(self, nodes: Sequence[Node], logit_bytes: int) -> None:
        originals = _originals(nodes)
        self._handed = frozenset(root for roots in originals for root in roots)
        self.nodes = tuple(replace(n, reads=(*n.reads, *own)) for n, own in zip(nodes, originals, strict=True))
        self.logit_bytes = logit_bytes
        self._place = {node.address: i for i, node in enumerate(self.nodes)}
        self._cuts: dict[int, tuple[Held, ...]] = {}
        self._left_out: dict[range, bytes] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    @cached_property
    def mixes(self) -> bool:
        """Whether a token's logits may depend on tokens of other sequences in the batch."""
        return any(node.mixes for node in self.nodes)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """Positions of the blocks' outputs, in order."""
        return tuple(i for i, node in enumerate(self.nodes) if _BLOCK_OUTPUT.fullmatch(node.name))

    @cached_property
    def outputs(self) -> range:
        """Positions of the nodes at the end that lie where the logits lie; none where no token is scored, where they are on a device, where
        llama.cpp computes others than it copies out, or where what writes that memory first is not among them."""
        last = self.nodes[-1]
        if last.name != _LOGITS or last.n_bytes != self.logit_bytes or not last.data:
            return range(0)
        start = len(self.nodes)
        while start and (self.nodes[start - 1].data, self.nodes[start - 1].n_bytes) == (last.data, last.n_bytes):
            start -= 1
        found = range(start, len(self.nodes))
        own = {self.nodes[i].address for i in found}
        return found if all(self.nodes[i].root in own for i in found) else range(0)

    @cached_property
    def _first_read(self) -> dict[int, int]:
        """Root → position of the first node that reads it."""
        return {root: i for i in range(len(self.nodes) - 1, -1, -1) for root in self.nodes[i].reads}

    def boundary_before(self, addresses: Iterable[int]) -> int:
        """Number of the last boundary before anything reads one of these tensors; −1 where there is none."""
        first = min((self._first_read.get(address, len(self.nodes)) for address in addresses), default=len(self.nodes))
        return bisect.bisect_left(self.boundaries, first) - 1

    @cached_property
    def live(self) -> tuple[bool, ...]:
        """Whether each node's result is of use: all of them where a token is scored, else those that lead to a write outside the graph."""
        if self.logit_bytes:
            return (True,) * len(self.nodes)
        live, wanted = [False] * len(self.nodes), set[int]()
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            if node.root in wanted or (node.root not in self._place and not node.empty):
                live[i] = True
                wanted.update(node.reads)
        return tuple(live)

    def left_out(self, computed: range) -> bytes:
        """A byte a node: 1 for one that is dead, or is outside ``computed`` and leads to no copy, and would compute something."""
        if computed not in self._left_out:
            self._left_out[computed] = bytes(
                not (live and (i in computed or i in self._recomputed)) and not node.empty
                for i, (node, live) in enumerate(zip(self.nodes, self.live, strict=True))
            )
        return self._left_out[computed]

    @cached_property
    def _recomputed(self) -> frozenset[int]:
        """Positions of the nodes that lead to what another device reads a copy of."""
        wanted, found = set(self._handed), set[int]()
        for i in range(len(self.nodes) - 1, -1, -1) if wanted else ():
            if self.nodes[i].root in wanted:
                found.add(i)
                wanted.update(self.nodes[i].reads)
        return frozenset(found)

    @cached_property
    def _writes(self) -> dict[int, list[int]]:
        """Root → positions of the nodes that write it."""
        found: dict[int, list[int]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            if not node.empty:
                found[node.root].append(i)
        return dict(found)

    @cached_property
    def _last_read(self) -> dict[int, int]:
        """Root → position of the last live node that reads it."""
        return {root: i for i, node in enumerate(self.nodes) if self.live[i] and not node.empty for root in node.reads}

    def cut(self, position: int) -> tuple[Held, ...]:
        """What must be in place to go on after ``position``; empty where nothing of use comes after it."""
        if position not in self._cuts:
            self._cuts[position] = tuple(self._held(position))
        return self._cuts[position]

    def _held(self, position: int) -> Iterator[Held]:
        for root, writes in self._writes.items():
            version = bisect.bisect_right(writes, position)
            if (
                version
                and self._last_read.get(root, -1) > position
                and not self._recomputed.issuperset(writes[:version])
            ):
                place = self._place.get(root)
                yield Held(place, root if place is None else None, version, self.nodes[writes[0]].n_bytes)

    def cut_bytes(self, boundaries: Iterable[int]) -> int:
        """Bytes of the cuts of these boundaries together, what is in several of them counted once."""
        return sum(held.n_bytes for held in {held for b in boundaries for held in self.cut(self.boundaries[b])})

    def share_until(self, boundary: int) -> float:
        """Share of the useful nodes that a replay from a boundary (−1: none) leaves out: a rough measure of the work it saves."""
        useful = [i for i, node in enumerate(self.nodes) if self.live[i] and not node.empty]
        until = self.boundaries[boundary] if boundary >= 0 else -1
        return sum(i <= until and i not in self._recomputed for i in useful) / max(1, len(useful))
