"""Calls from box to box give what they give in one process: arguments changed in place, iterators, views, identities."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cerebellum.errors import SandboxError
from cerebellum.evals.sandbox import Limits, Sandbox
from cerebellum.evals.sandbox.inside import containers_in
from tests.evals.test_code import Trusting
from tests.evals.test_code_answers import rows

LIMITS = Limits(seconds=3.0, memory=400 << 20)
#: For what ends by itself: a machine under load takes longer, and the reason must not be the clock.
PATIENT = replace(LIMITS, seconds=60.0)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox.find()
    except SandboxError as error:
        pytest.skip(str(error))


#: What a function does, and what its tests say of it: whether they pass is asked of one process.
IN_PLACE = [
    ("x.sort()", "x = [3, 1, 2]; assert candidate(x) is None and x == [1, 2, 3]"),
    ("x.sort()\n    return x", "x = [3, 1, 2]; y = candidate(x); assert y is x; y.append(4); assert x[-1] == 4"),
    ("return list(x)", "x = [3]; assert candidate(x) is not x and candidate(x) == x"),
    ("x[0].append(x.pop())", "x = [[1], 2]; inner = x[0]; candidate(x); assert inner == [1, 2] and x == [inner] and x[0] is inner"),
    ("x.reverse()", "a, b = [1], [2]; x = [a, b]; candidate(x); assert x[0] is b and a == [1] and b == [2]"),
    ("x['n'] = x.pop('m')", "x = {'m': 1}; candidate(x); assert x == {'n': 1} and list(x) == ['n']"),
    ("x.discard(1)\n    x.add(9)", "x = {1, 2}; candidate(x); assert x == {2, 9}"),
    ("x[1].update({'a': [0]})", "d = {}; x = (1, d); candidate(x); assert d == {'a': [0]}"),
    ("x.append(x)", "x = []; candidate(x); assert x[0] is x"),
    ("x.clear()\n    raise ValueError('gone')", "x = [1]\n    try: candidate(x)\n    except ValueError: assert x == []\n    else: assert False"),
    ("x.append(1)", "x = [0]; candidate(x=x); assert x == [0, 1]"),
    ("x = x + [1]\n    return x", "x = [0]; assert candidate(x) == [0, 1] and x == [0]"),
    ("x += (1,)\n    return x", "x = (0,); assert candidate(x) == (0, 1) and x == (0,)"),
    ("x.append(1)", "x = [0]; candidate(x); assert x == [0]"),
    ("x.append(map(str, [1]))", "x = []; candidate(x); assert list(x[0]) == ['1']"),
]  # fmt: skip
ITERATORS = [
    ("yield from x", "assert candidate([1, 2]) == [1, 2]"),
    ("yield from x", "assert list(candidate([1, 2])) == [1, 2] == sorted(candidate((2, 1)))"),
    ("yield from x", "g = candidate([1, 2]); assert next(g) == 1 and list(g) == [2] and list(g) == []"),
    ("return map(str, x)", "assert list(candidate([1])) == ['1'] and candidate([1]) != ['1']"),
    ("return zip(x, x)", "assert dict(candidate('ab')) == {'a': 'a', 'b': 'b'}"),
    ("return reversed(x), enumerate(x)", "a, b = candidate([1, 2]); assert list(a) == [2, 1] and list(b) == [(0, 1), (1, 2)]"),
    ("return iter(x)", "assert candidate([1]) == [1]"),
    ("while True:\n        yield x\n        x *= 2", "g = candidate(1); assert [next(g) for _ in range(8)][-1] == 128"),
    ("for n in x:\n        x[0] += n\n        yield n", "x = [1, 2]; g = candidate(x); assert x == [1, 2] and next(g) == 1 and x == [2, 2]"),
    ("yield 1\n    raise KeyError('late')", "g = candidate(0); assert next(g) == 1\n    try: next(g)\n    except KeyError: pass\n    else: assert False"),
    ("return (c for c in ([n] for n in x))", "assert [c for c in candidate([1, 2])] == [[1], [2]]"),
    ("return ((n for n in range(m)) for m in x)", "assert [list(g) for g in candidate([1, 2])] == [[0], [0, 1]]"),
    ("return range(x)", "assert candidate(3) == range(3) and candidate(3) != [0, 1, 2] and candidate(3)[1] == 1"),
    ("return list(x)", "assert candidate(range(3)) == [0, 1, 2]"),
    ("return x.keys()", "assert candidate({'a': 1}) == {'a'} and candidate({'a': 1}) != ['a'] and len(candidate({'a': 1})) == 1"),
    ("return x.values()", "assert candidate({'a': 1}) == [1]"),
    ("return x.items(), sorted(x.values())", "v, w = candidate({'a': 1}); assert v == {('a', 1)} and list(v) == [('a', 1)] and w == [1]"),
    ("return filter(None, x)", "import inspect; assert sum(candidate([0, 1, 2])) == 3 and 2 in candidate([1, 2])"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "tests"), IN_PLACE + ITERATORS)
def test_the_verdict_is_that_of_one_process(sandbox: Sandbox, body: str, tests: str) -> None:
    source, check = f"def f(x):\n    {body}\n", f"def check(candidate):\n    {tests}\n"
    outcome = sandbox.run(source, check, "f", PATIENT)
    assert outcome.passed == Trusting().run(source, check, "f").passed, outcome.reason


@pytest.mark.parametrize(
    ("source", "tests", "reason"),
    [
        ("import itertools\ndef f(x): return itertools.count()", "list(candidate(0))", "yields more than 100,000 items|timeout"),
        ("import itertools\ndef f(x): return itertools.repeat('x' * 10**7)", "list(candidate(0))", "error|memory|timeout"),
        ("def f(x):\n    while True: pass\n    yield 0", "next(candidate(0))", "timeout"),
        ("def f(x):\n    while True: x.append('x' * 10**6)", "candidate([])", "memory"),
        ("def f(x): x.append(object())", "x = []; candidate(x)", "error"),
        ("def f(x):\n    x.append(1)\n    return object()", "candidate([])", "error"),
        ("def f(x):\n    d = {}\n    d[0] = d.values()\n    return d.values()", "candidate(0)", "error"),
    ],
)  # fmt: skip
def test_what_never_ends_or_is_no_data_is_bounded(sandbox: Sandbox, source: str, tests: str, reason: str) -> None:
    limits = LIMITS if "timeout" in reason else PATIENT
    outcome = sandbox.run(source + "\n", f"def check(candidate):\n    {tests}\n", "f", limits)
    assert not outcome.passed and any(word in outcome.reason for word in reason.split("|")), outcome.reason


@pytest.mark.parametrize(
    "message",
    [
        "{'value': R(7)}",  # no such argument
        "{'value': R(-1)}",
        "{'value': R(('no such kind', []))}",
        "{'value': R(('keys', [[]]))}",
        "{'value': R(E())}",
        "{'changed': {0: {}}, 'value': 7}",  # a list can't become a dict
        "{'changed': {5: []}, 'value': 7}",
        "{'changed': 7, 'value': 7}",
        "[7]",
    ],
)
def test_a_message_made_by_hand_is_refused(sandbox: Sandbox, message: str) -> None:
    """A program that speaks for its server gets no further than one that returns plain data."""
    source = (
        "import io, os, pickle, struct\nclass R:\n    def __init__(self, pid): self.pid = pid\n"
        "class E:\n    def __reduce__(self): return (os.system, ('touch /tmp/evil',))\n"
        "class P(pickle.Pickler):\n    def persistent_id(self, x): return x.pid if type(x) is R else None\n"
        f"def f(x):\n    out = io.BytesIO()\n    P(out, 4).dump({message})\n    data = out.getvalue()\n"
        "    for fd in range(3, 64):\n        try: os.write(fd, struct.pack('<I', len(data)) + data)\n        except OSError: pass\n"
    )
    outcome = sandbox.run(
        source, "def check(candidate):\n    x = [1]\n    assert candidate(x) != 7 or x\n", "f", PATIENT
    )
    assert not outcome.passed and ("no verdict" in outcome.reason or "error" in outcome.reason), outcome.reason


def test_both_sides_number_the_same_containers_in_the_same_order() -> None:
    import pickle

    inner: list[object] = [1, {2}]
    whole = ([inner, {"a": inner, "b": ({},)}], (inner, [inner]), {3})
    inner.append(inner)
    ours, theirs = containers_in(whole), containers_in(pickle.loads(pickle.dumps(whole)))
    assert [type(c) for c in ours] == [type(c) for c in theirs] and [len(c) for c in ours] == [len(c) for c in theirs]
    assert len(ours) == 7


@pytest.mark.slow
def test_every_known_solution_passes_its_own_tests(sandbox: Sandbox) -> None:
    """What the self-test before scoring tries on a dozen."""
    known = rows()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(
            lambda r: sandbox.run(r["prompt"] + r["canonical_solution"], r["test"], r["entry_point"]), known
        )
        assert [(r["task_id"], o.reason) for r, o in zip(known, found, strict=True) if not o.passed] == []
