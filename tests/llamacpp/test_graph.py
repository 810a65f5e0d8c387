"""What can be left out of a graph: checked by running small made-up programs whole and in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cerebellum.llamacpp.trial.eval_callback import originals
from cerebellum.llamacpp.trial.graph import Graph, Node

#: Tensors outside the graph: two weights that nothing writes, two memories that a later batch reads.
WEIGHTS, MEMORIES = (1, 2), (3, 4)
LEAVES = (*WEIGHTS, *MEMORIES)
FIRST = 100


def name_of(address: int) -> str:
    return f"l_out-{address - FIRST}" if (address - FIRST) % 3 == 2 else f"node-{address - FIRST}"


@st.composite
def programs(draw: st.DrawFn) -> list[Node]:
    """Nodes that compute from earlier ones, from leaves and from copies of earlier ones, write in place, into memories, or are views; every
    third is a block's end."""
    nodes: list[Node] = []
    handed = set[int]()  # to another device: nothing else writes what is copied
    for i in range(draw(st.integers(3, 14))):
        address = FIRST + i
        roots = [*LEAVES, *(node.root for node in nodes if node.root not in handed)]
        reads = tuple(draw(st.lists(st.sampled_from([*roots, *sorted(handed)]), min_size=1, max_size=3)))
        kind = draw(st.sampled_from(["own", "own", "own", "in place", "memory", "view", "handed"]))
        copied = tuple(draw(st.lists(st.sampled_from(sorted(handed)), max_size=2))) if handed else ()
        root = address
        if kind == "view":
            root = draw(st.sampled_from(roots))
            reads = (root,)
        elif kind == "memory":
            root = draw(st.sampled_from(MEMORIES))
        elif kind == "in place" and (written := [r for r in roots if r >= FIRST]):
            root = draw(st.sampled_from(written))
            reads = (root, *reads)
        if kind == "handed":
            handed.add(address)
        name = name_of(address)
        empty = kind == "view"
        nodes.append(Node(name, address, root, 1, reads, empty, copied=() if empty else tuple(map(name_of, copied))))
    return nodes


def run(
    nodes: Sequence[Node], places: Sequence[int], memory: dict[int, int], copies: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Compute the nodes at ``places``: each writes a number made of its place and what it reads. ``copies``: contents of what was handed to
    another device before."""
    for i in places:
        if not nodes[i].empty:
            handed = [FIRST + int(name.split("-")[1]) for name in nodes[i].copied]
            seen = [(copies or {}).get(root, memory.get(root, -1)) for root in handed]
            memory[nodes[i].root] = hash((i, *(memory.get(root, -1) for root in nodes[i].reads), *seen))
    return memory


def start() -> dict[int, int]:
    return {leaf: leaf for leaf in LEAVES}


@given(programs(), st.booleans())
def test_a_replay_from_the_cut_gives_what_the_whole_run_gives(nodes: list[Node], has_outputs: bool) -> None:
    """With everything but the cut destroyed, computing what is not left out gives the same output and the same writes to memory after it.
    Copies have been handed over when the cut is put back."""
    graph = Graph(nodes, 4 * has_outputs)
    for position in graph.boundaries:
        until = run(nodes, range(position + 1), start())
        whole = run(nodes, range(len(nodes)), start())
        kept = {held.leaf or nodes[held.node or 0].address for held in graph.cut(position)}
        computed = [i for i, out in enumerate(graph.left_out(range(position + 1, len(nodes)))) if not out]
        destroyed = {**dict.fromkeys(range(FIRST, FIRST + len(nodes)), 666), **start()}
        before = run(nodes, [i for i in computed if i <= position], destroyed)
        copies = {nodes[i].address: before[nodes[i].address] for i in range(position + 1)}
        put_back = {**before, **{root: until[root] for root in kept}}
        replayed = run(nodes, [i for i in computed if i > position], put_back, copies)
        written_after = {node.root for node in nodes[position + 1 :] if node.root in MEMORIES and not node.empty}
        assert all(replayed[root] == whole[root] for root in written_after)
        last = nodes[-1]
        if has_outputs and not last.empty and position < len(nodes) - 1:
            assert replayed[last.root] == whole[last.root]


@given(programs())
def test_what_leads_to_no_copy_is_left_out(nodes: list[Node]) -> None:
    """Of a replay's nodes before its boundary only those are computed that some copy's contents can come from; they count as no saving."""
    graph = Graph(nodes, 4)
    sources = {FIRST + int(name.split("-")[1]) for node in nodes for name in node.copied}
    for _ in nodes:
        sources |= {root for node in nodes if node.root in sources for root in node.reads}
        sources |= {FIRST + int(name.split("-")[1]) for node in nodes if node.root in sources for name in node.copied}
    for boundary, position in enumerate(graph.boundaries):
        out = graph.left_out(range(position + 1, len(nodes)))
        computed = [i for i in range(position + 1) if not out[i] and not nodes[i].empty]
        assert all(nodes[i].root in sources for i in computed)
        useful = sum(not node.empty for node in nodes)
        assert round(graph.share_until(boundary) * max(1, useful)) == sum(out[: position + 1])


def test_where_each_block_hands_something_over_nothing_is_saved() -> None:
    """A node on the processor in every block, its result read on the device."""
    nodes: list[Node] = []
    for i in range(0, 9, 3):
        last = nodes[-1].address if nodes else WEIGHTS[0]
        nodes.append(Node(f"node-{i}", FIRST + i, FIRST + i, 1, (last,), False))
        nodes.append(Node(f"node-{i + 1}", FIRST + i + 1, FIRST + i + 1, 1, (), False, copied=(f"node-{i}",)))
        nodes.append(Node(f"l_out-{i + 2}", FIRST + i + 2, FIRST + i + 2, 1, (FIRST + i + 1,), False))
    graph = Graph(nodes, 4)
    assert [graph.share_until(boundary) for boundary in (-1, 0, 1)] == [0.0, 0.0, 0.0]
    assert graph.share_until(2) == pytest.approx(2 / 9)  # what the last copy's reader and the block's end come to


def test_names_of_copies() -> None:
    """What they are copies of; a name that ggml has cut off could be any weight's."""
    names = ["CUDA0#inp_embd#0", "CUDA0#a#b#12", "blk.0.ffn_up.weight", "CPU#token_embd.weight (view)#0", "", "l_out-3"]
    assert originals(names) == ("inp_embd", "a#b", "token_embd.weight (view)")
    for cut in (f"CUDA0#{'x' * 57}", f"CUDA0#{'x' * 55}#0", "CUDA0#inp_embd#"):
        assert all("." in name for name in originals([cut])) and originals([cut])


@given(programs())
def test_without_outputs_only_what_memory_needs_is_live(nodes: list[Node]) -> None:
    """The live nodes alone leave in memory what all of them leave."""
    graph = Graph(nodes, 0)
    lean = run(nodes, [i for i in range(len(nodes)) if graph.live[i]], start())
    whole = run(nodes, range(len(nodes)), start())
    assert {m: lean[m] for m in MEMORIES} == {m: whole[m] for m in MEMORIES}


def block(i: int, reads: tuple[int, ...], weight: int) -> list[Node]:
    """Two nodes: one reads the weight, one ends the block."""
    at = FIRST + 2 * i
    return [Node(f"half-{i}", at, at, 4, (*reads, weight), False), Node(f"l_out-{i}", at + 1, at + 1, 4, (at,), False)]


def test_a_plain_stack_is_cut_at_its_blocks() -> None:
    """Each cut is the block's output alone; a weight is first read after the boundary of the block before."""
    nodes = [*block(0, (), 1), *block(1, (FIRST + 1,), 2), *block(2, (FIRST + 3,), 9)]
    nodes.append(Node("out", 999, 999, 4, (FIRST + 5,), False))
    graph = Graph(nodes, 4)
    assert graph.boundaries == (1, 3, 5)
    assert [[(h.node, h.n_bytes) for h in graph.cut(p)] for p in graph.boundaries] == [[(1, 4)], [(3, 4)], [(5, 4)]]
    assert [graph.boundary_before([w]) for w in (1, 2, 9, 77)] == [-1, 0, 1, 2]
    assert graph.boundary_before([9, 1]) == -1
    assert graph.cut_bytes([0, 1]) == 8
    assert graph.share_until(-1) == 0 and graph.share_until(2) == 6 / 7


def test_what_is_read_across_blocks_is_in_every_cut_between_once() -> None:
    """A per-layer input is kept from the first boundary to the last block that reads it, and counted once."""
    wide = Node("wide", 50, 50, 100, (1,), False)
    nodes = [
        wide,
        *block(0, (50,), 1),
        *block(1, (FIRST + 1,), 2),
        *block(2, (FIRST + 3, 50), 9),
        Node("out", 999, 999, 4, (FIRST + 5,), False),
    ]
    graph = Graph(nodes, 4)
    assert [sum(h.n_bytes for h in graph.cut(p)) for p in graph.boundaries] == [104, 104, 4]
    assert graph.cut_bytes([0, 1, 2]) == 112


def lying(*places: int, last: str = "result_output", logit_bytes: int = 8, views: Sequence[int] = ()) -> range:
    """The outputs of a graph whose nodes, of 8 bytes each but the first, lie at ``places``; ``views`` are of the node before."""
    names = [*(f"node-{i}" for i in range(len(places) - 1)), last]
    nodes = [Node(names[i], i, i - (i in views), 8 if i else 4, (), False, at) for i, at in enumerate(places)]
    return Graph(nodes, logit_bytes).outputs


def test_the_outputs_are_the_nodes_at_the_end_that_lie_together() -> None:
    """The product alone, or with what bounds it; none where nothing is scored, the last node is another or too large, or on a device."""
    assert lying(10, 20, 10, 30) == range(3, 4)
    assert lying(10, 20, 10, 30, 30, 30) == range(3, 6)
    assert lying(30, 30, 20, 30, 30) == range(3, 5)
    assert lying(30, 30, 30) == range(1, 3)  # the first has another size
    assert not lying(10, 20, last="other") and not lying(10, 0)
    assert not lying(10, 20, logit_bytes=0) and not lying(10, 20, logit_bytes=4)
    assert lying(10, 20, 20, views=[2]) == range(1, 3)
    assert not lying(20, 20, 20, views=[1])  # who writes it first is not among them
