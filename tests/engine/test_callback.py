"""The compiled callback beside an obvious one, on made-up nodes."""

from __future__ import annotations

import ctypes as C
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp.llama_cpp as lc
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.llamacpp import callback, native
from cerebellum.llamacpp.callback import ASK, LEAVE_OUT, NOTE, OUTPUT, PASS, RUN, STOP, Watch

OP = 7  # any that isn't none


@dataclass
class Python:
    """What is called where it isn't done in compiled code: answers in turn, and what it was asked."""

    answers: list[bool]
    asked: list[tuple[int, bool, int]] = field(default_factory=list)

    def __call__(self, node: int, ask: bool, data: int | None) -> bool:
        self.asked.append((node, bool(ask), data or 0))
        return self.answers[len(self.asked) % len(self.answers)]


def obvious(
    mode: int, flags: bytes, answers: list[bool], calls: list[bool]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """What is returned at each call; the nodes' operations and their notes afterwards (1: noted); the calls that Python gets."""
    returned, asked = [], list[int]()
    ops, notes = [OP] * len(calls), [0] * len(flags)
    place = -1
    for number, ask in enumerate(calls):
        if mode == PASS:
            returned.append(int(not ask))
            continue
        place += ask and mode == RUN
        flag = flags[place] if ask and mode == RUN and place < len(flags) else 0
        if mode == ASK or not ask or flag & OUTPUT:
            asked.append(number)
        if mode == ASK or not ask:
            returned.append(int(answers[len(asked) % len(answers)]))
            continue
        if flag & LEAVE_OUT:
            ops[number] = native.OP_NONE
        if flag & NOTE:
            notes[place] = 1
        returned.append(int(flag & STOP != 0))
    return returned, ops, notes, asked


@settings(deadline=None)
@given(
    st.sampled_from([PASS, ASK, RUN]),
    st.lists(st.integers(0, LEAVE_OUT | NOTE | STOP | OUTPUT), max_size=12).map(bytes),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.lists(st.booleans(), max_size=16),
)
def test_it_does_what_the_obvious_one_does(mode: int, flags: bytes, answers: list[bool], calls: list[bool]) -> None:
    """More nodes than flags too: those pass, and are counted. Each call has a node of its own, between guards."""
    python = Python(answers)
    function = lc.ggml_backend_sched_eval_callback(python)
    nodes = (native.Tensor * (len(calls) + 1))()
    for node in nodes:
        node.op = OP
    noted = (C.c_int64 * (len(flags) + 1))()
    guarded = C.c_char_p(flags + bytes([LEAVE_OUT | NOTE | STOP | OUTPUT]))
    watch = Watch(
        mode=mode, python=C.cast(function, C.c_void_p).value, flags=C.cast(guarded, C.c_void_p).value, noted=C.addressof(noted),
        n=len(flags),
    )  # fmt: skip
    see = lc.ggml_backend_sched_eval_callback(callback.see.address)
    address = [C.addressof(node) for node in nodes]
    found = [int(see(address[number], ask, C.addressof(watch))) for number, ask in enumerate(calls)]
    returned, ops, notes, asked = obvious(mode, flags, answers, calls)
    assert found == returned
    assert [node.op for node in nodes] == [*ops, OP]
    assert all(bytes(node) == bytes(native.Tensor(op=node.op)) for node in nodes)
    assert python.asked == [(address[number], calls[number], 0) for number in asked]
    assert [int(note != 0) for note in noted] == [*notes, 0]
    asking = [address[number] for number, ask in enumerate(calls) if ask]
    assert all(not note or note == asking[place] for place, note in enumerate(noted))
    assert watch.place == (sum(calls) if mode == RUN else 0)


def test_its_code_is_kept(tmp_path: Path) -> None:
    """The second process compiles nothing."""
    code = "from cerebellum.llamacpp import callback; print(callback.see.cache_hits)"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    hits = [subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) for _ in range(2)]
    assert hits == ["0\n", "1\n"]
