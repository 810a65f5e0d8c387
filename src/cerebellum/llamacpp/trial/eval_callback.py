"""The eval callback: llama.cpp asks it before every node of a graph, in order, and tells it when a node it asked for is computed.

Three uses, one at a time: **record** a graph without computing it, **run** a graph with some nodes left out and stops in between, or do
nothing. A node is left out by making it no operation. In a run the logits can be computed in the memory to which llama.cpp would copy them.
The next batch has a new graph (`native.native_log` sees to that), so nodes need not be restored.

The callback is called for every node of every batch, so it does one look-up and returns.
"""

from __future__ import annotations

import ctypes as C
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cerebellum.errors import EngineError
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import lc
from cerebellum.llamacpp.trial.graph import Graph, Node
from cerebellum.llamacpp.trial.mixing import mixes

_LEAVE_OUT, _NOTE, _STOP, _OUTPUT = 1, 2, 4, 8  # the first as `Graph.left_out` has it
_COPY = re.compile(r"[^#]+#(?P<tensor>.+)#\d+")
#: ggml cuts names off at this length.
_LONGEST_NAME, _CUT_OFF = 63, "…."
_OP, _DATA = native.GgmlTensor.op.offset, native.GgmlTensor.data.offset


@dataclass(frozen=True, slots=True)
class Program:
    """What to do at each node of a graph. ``at_stop(position, address of a node by its position)`` is called when a stop's node and all
    before it are computed; of the addresses it may use those in ``noted``."""

    graph: Graph
    flags: bytes
    at_stop: Callable[[int, dict[int, int]], None]


def program(
    graph: Graph,
    computed: range,
    stops: Iterable[int] = (),
    noted: Iterable[int] = (),
    at_stop: Callable[[int, dict[int, int]], None] = lambda _position, _noted: None,
) -> Program:
    """Leave out what is dead and what is not in ``computed``."""
    return _program(graph, bytearray(graph.left_out(computed)), stops, noted, at_stop)


def whole_program(graph: Graph) -> Program:
    """Leave out nothing."""
    return _program(graph, bytearray(len(graph)), (), (), lambda _position, _noted: None)


def _program(
    graph: Graph,
    flags: bytearray,
    stops: Iterable[int],
    noted: Iterable[int],
    at_stop: Callable[[int, dict[int, int]], None],
) -> Program:
    for node in noted:
        flags[node] |= _NOTE
    for node in stops:
        flags[node] |= _STOP
    for node in graph.outputs:
        flags[node] |= _OUTPUT
    return Program(graph, bytes(flags), at_stop)


@dataclass
class EvalCallback:
    """The callback of one context. Use `record` or `run` around a decode; otherwise it lets everything pass.

    ``place_logits``, where there is one, is asked in a run for the address that its logits are to be computed at."""

    callback: Any = field(init=False)
    place_logits: Callable[[], int] | None = None
    #: Whether a recorded graph read copies of weights, which the scheduler makes where they lie elsewhere: then who reads them isn't seen.
    weights_copied: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.callback = lc.ggml_backend_sched_eval_callback(self._see)
        self._off()

    def _off(self) -> None:
        self._program: Program | None = None
        self._nodes: list[Node] | None = None
        self._place = 0
        self._noted: dict[int, int] = {}
        self._error: Exception | None = None

    def record(self, decode: Callable[[], None], logit_bytes: int) -> Graph:
        """The graph of the batch that ``decode`` decodes, with so many bytes of logits. Nothing is computed, only places in the memory
        are taken."""
        self._off()
        self._nodes = nodes = list[Node]()
        try:
            self._decoded(decode)
        finally:
            self._off()
        return Graph(nodes, logit_bytes)

    def run(self, decode: Callable[[], None], program: Program) -> None:
        """``decode`` a batch whose graph is the program's. Raises `EngineError` where llama.cpp computed another graph."""
        self._off()
        self._program = program
        try:
            self._decoded(decode)
            if self._place != len(program.graph):
                raise EngineError(f"llama.cpp computed {self._place} nodes where {len(program.graph)} were recorded")
        finally:
            self._off()

    def _decoded(self, decode: Callable[[], None]) -> None:
        """``decode``, then raise what the callback ran into: no error passes through native code."""
        try:
            decode()
        finally:
            if self._error:
                raise self._error

    def _see(self, pointer: int, ask: bool, _user: Any) -> bool:
        running = self._program
        if running is None:
            if ask and self._nodes is not None:
                self._guarded(self._record_node, pointer)
            return not ask
        if not ask:
            self._guarded(self._stopped, running, pointer)
            return True
        node = self._place
        self._place = node + 1
        flag = running.flags[node] if node < len(running.flags) else 0
        if not flag:
            return False
        if flag & _OUTPUT:
            self._guarded(self._place_output, running, pointer)
        if flag & _LEAVE_OUT:
            C.c_int32.from_address(pointer + _OP).value = native.OP_NONE
        if flag & _NOTE:
            self._noted[node] = pointer
        return flag & _STOP != 0

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Keep the first error of it all."""
        try:
            work(*arguments)
        except Exception as error:
            self._error = self._error or error

    def _record_node(self, pointer: int) -> None:
        assert self._nodes is not None
        self._nodes.append(_note_and_leave_out(pointer))
        self.weights_copied = self.weights_copied or any("." in name for name in self._nodes[-1].copied)

    def _place_output(self, running: Program, pointer: int) -> None:
        """Let the node's result lie where llama.cpp has room for it."""
        if not self.place_logits:
            return
        address = self.place_logits()
        if not address or native.ggml().ggml_nbytes(pointer) != running.graph.logit_bytes:
            raise EngineError("llama.cpp has no room for the recorded batch's logits (--replay-memory 0 does without)")
        C.c_void_p.from_address(pointer + _DATA).value = address

    def _stopped(self, running: Program, pointer: int) -> None:
        """A stop's node and all before it are computed."""
        node = self._place - 1
        name = native.tensor_at(pointer).name.decode("utf-8", "replace")
        if name != running.graph.nodes[node].name:
            raise EngineError(f"node {node} is {name} where {running.graph.nodes[node].name} was recorded")
        running.at_stop(node, self._noted)


def originals(names: Iterable[str]) -> tuple[str, ...]:
    """Of the names of a node's sources those that copies on another device are of; the scheduler names a copy DEVICE#TENSOR#NUMBER.

    A name with a dot is taken for a weight's (a file's tensors have dots, what is computed has hardly ever one); so is one that was cut
    off, of which no more can be told."""
    copies = [_COPY.fullmatch(name) for name in names if "#" in name]
    return tuple(copy["tensor"] if copy and len(copy[0].encode()) < _LONGEST_NAME else _CUT_OFF for copy in copies)


def _note_and_leave_out(pointer: int) -> Node:
    t = native.tensor_at(pointer)
    node = Node(
        name=t.name.decode("utf-8", "replace"),
        address=pointer,
        root=t.view_src or pointer,
        n_bytes=native.ggml().ggml_nbytes(t.view_src or pointer),
        reads=tuple(native.tensor_at(source).view_src or source for source in t.src if source),
        empty=t.op in native.empty_ops(),
        data=t.data if t.buffer and native.ggml().ggml_backend_buffer_is_host(t.buffer) else 0,
        mixes=mixes(t),
        copied=originals(native.tensor_at(source).name.decode("utf-8", "replace") for source in t.src if source),
    )
    t.op = native.OP_NONE
    return node
