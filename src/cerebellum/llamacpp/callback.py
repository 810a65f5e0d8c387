"""What llama.cpp calls before every node of a graph, compiled: in Python a call takes microseconds, and a batch has hundreds of nodes.

Nodes are left out and their addresses noted here; at a stop, where logits are placed, and to record a graph Python is called.
"""

from __future__ import annotations

import ctypes as C
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, extending, types

from cerebellum.compiled import c_function
from cerebellum.llamacpp import native

intrinsic: Any = extending.intrinsic

#: What to do at a node; the first as `Graph.left_out` has it.
LEAVE_OUT, NOTE, STOP, OUTPUT = 1, 2, 4, 8
#: Let every node pass; call Python at every node; go by the nodes' flags.
PASS, ASK, RUN = 0, 1, 2

_OP = native.Tensor.op.offset
_NONE = native.OP_NONE
_BYTE, _LONG = ir.IntType(8), ir.IntType(64)


class Watch(C.Structure):
    """What the callback is given, eight bytes each: what to do; the address of ``ggml_backend_sched_eval_callback`` in Python; of a run's
    graph the address of a byte of flags for each node, of an int64 for each, where a node's address is noted, and their number; how many
    nodes were asked for."""

    _fields_ = (
        ("mode", C.c_int64),
        ("python", C.c_void_p),
        ("flags", C.c_void_p),
        ("noted", C.c_void_p),
        ("n", C.c_int64),
        ("place", C.c_int64),
    )


_MODE, _PYTHON, _FLAGS, _NOTED, _N, _PLACE = range(6)  # in the order of `Watch`


@intrinsic
def _pointer(_context: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _BYTE.as_pointer())

    return types.voidptr(address), generate


@intrinsic
def _called(_context: Any, function: Any, node: Any, ask: Any) -> Any:
    """The answer of the callback at an address."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        function, node, ask = args
        kind = ir.FunctionType(_BYTE, [_LONG, _BYTE, _LONG])
        return builder.call(builder.inttoptr(function, kind.as_pointer()), [node, ask, _LONG(0)])

    return types.uint8(types.int64, types.int64, types.uint8), generate


@c_function("uint8(int64, uint8, CPointer(int64))")
def see(node: Any, ask: Any, watch: Any) -> Any:
    """``ggml_backend_sched_eval_callback``, with a `Watch`: asked before a node whether it is to be seen when computed, told when it is."""
    mode = watch[_MODE]
    if mode == PASS:
        return 1 - ask
    if mode == ASK or not ask:
        return _called(watch[_PYTHON], node, ask)
    place, n = watch[_PLACE], watch[_N]
    watch[_PLACE] = place + 1
    if place >= n:
        return 0
    flag = carray(_pointer(watch[_FLAGS]), n, np.uint8)[place]
    if flag & OUTPUT:
        _called(watch[_PYTHON], node, ask)
    if flag & LEAVE_OUT:
        carray(_pointer(node + _OP), 1, np.int32)[0] = _NONE
    if flag & NOTE:
        carray(_pointer(watch[_NOTED]), n, np.int64)[place] = node
    return flag & STOP != 0
