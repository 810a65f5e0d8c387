"""What a forward pass computes, in order, and what of it can be left out. Pure: a recorded graph in, positions and sets out.

llama.cpp builds the same graph for every batch of one shape.

* A **boundary** is the output of a block. A replay computes only the nodes after a boundary.
* A boundary's **cut** is the memory that nodes before it write and nodes after it read: the block's output, Gemma's per-layer inputs, keys
  and values that later blocks share. A replay needs the cut as the whole pass leaves it. The cut is found from the reads and writes of the
  nodes, so no architecture is named here.
* The scheduler copies a tensor from one device to another before the reading nodes begin. Nothing can be put in place in between. So every
  node that leads to such a copy is computed in each replay (token embeddings, with all layers on a GPU).
* A batch without a scored token is computed for its keys and values alone. A node that leads to none of them is **dead**.
* The graph's **outputs** are its last nodes that share the memory of the logits: the product with the output matrix and, in Gemma, the
  soft cap, which works in place.
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
    """One operation of a graph.

    * ``address``: address of the node's struct. ``root``: address of the struct whose memory the node writes, its own or its view's source.
    * ``n_bytes``: size of that memory. ``reads``: roots of the node's sources. ``empty``: the node computes nothing (a view, a reshape).
    * ``data``: address of the result in this machine's memory when the graph was recorded, 0 for a result on another device.
    * ``copied``: names of the tensors of which the node reads copies.
    * ``mixes``: the result for one token may depend on the other tokens of the batch (`mixing.mixes`).
    """

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
    """Memory in a cut: of the node number ``node``, or of the tensor at address ``leaf`` outside the graph. ``version``: number of
    writes up to the cut. Equal memory of equal version has equal contents."""

    node: int | None
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
        self.nodes = tuple(replace(n, reads=(*n.reads, *reads)) for n, reads in zip(nodes, originals, strict=True))
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
        """Positions of the last nodes that share the memory of the logits.

        The range is empty where no token is scored, where the logits are on another device, where the last node isn't llama.cpp's result
        node, or where an earlier node writes the same memory first.
        """
        last = self.nodes[-1]
        if last.name != _LOGITS or last.n_bytes != self.logit_bytes or not last.data:
            return range(0)
        start = len(self.nodes)
        while start and (self.nodes[start - 1].data, self.nodes[start - 1].n_bytes) == (last.data, last.n_bytes):
            start -= 1
        last_nodes = range(start, len(self.nodes))
        addresses = {self.nodes[i].address for i in last_nodes}
        return last_nodes if all(self.nodes[i].root in addresses for i in last_nodes) else range(0)

    @cached_property
    def _first_read(self) -> dict[int, int]:
        """Root → position of the first node that reads it."""
        return {root: i for i in range(len(self.nodes) - 1, -1, -1) for root in self.nodes[i].reads}

    def boundary_before(self, addresses: Iterable[int]) -> int:
        """Number of the last boundary before the first node that reads one of these tensors; −1: no boundary is before it."""
        first = min((self._first_read.get(address, len(self.nodes)) for address in addresses), default=len(self.nodes))
        return bisect.bisect_left(self.boundaries, first) - 1

    @cached_property
    def live(self) -> tuple[bool, ...]:
        """For each node whether it is needed: every node where a token is scored, else the nodes that lead to a write outside the graph."""
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
        """A byte for each node, 1: left out. A node is left out if it computes something and is dead, or lies outside ``computed`` and
        leads to no copy between devices."""
        if computed not in self._left_out:
            self._left_out[computed] = bytes(
                not (live and (i in computed or i in self._recomputed)) and not node.empty
                for i, (node, live) in enumerate(zip(self.nodes, self.live, strict=True))
            )
        return self._left_out[computed]

    @cached_property
    def _recomputed(self) -> frozenset[int]:
        """Positions of the nodes that lead to a copy between devices."""
        wanted, nodes = set(self._handed), set[int]()
        for i in range(len(self.nodes) - 1, -1, -1) if wanted else ():
            if self.nodes[i].root in wanted:
                nodes.add(i)
                wanted.update(self.nodes[i].reads)
        return frozenset(nodes)

    @cached_property
    def _writes(self) -> dict[int, list[int]]:
        """Root → positions of the nodes that write it."""
        writes: dict[int, list[int]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            if not node.empty:
                writes[node.root].append(i)
        return dict(writes)

    @cached_property
    def _last_read(self) -> dict[int, int]:
        """Root → position of the last live node that reads it."""
        return {root: i for i, node in enumerate(self.nodes) if self.live[i] and not node.empty for root in node.reads}

    def cut(self, position: int) -> tuple[Held, ...]:
        """The cut at ``position``: the memory that must be in place before the next node runs; empty where no needed node follows."""
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
                node = self._place.get(root)
                yield Held(node, root if node is None else None, version, self.nodes[writes[0]].n_bytes)

    def cut_bytes(self, boundaries: Iterable[int]) -> int:
        """Bytes of the cuts of these boundaries together; memory in several cuts counts once."""
        return sum(held.n_bytes for held in {held for b in boundaries for held in self.cut(self.boundaries[b])})

    def share_until(self, boundary: int) -> float:
        """Share of the useful nodes that a replay from a boundary (−1: none) leaves out: a rough measure of the work it saves."""
        useful = [i for i, node in enumerate(self.nodes) if self.live[i] and not node.empty]
        until = self.boundaries[boundary] if boundary >= 0 else -1
        return sum(i <= until and i not in self._recomputed for i in useful) / max(1, len(useful))
