"""Paths as waves of nodes: played on a pretended memory, every path is read whole, every wanted row is there, nothing is read twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.domain import Tokens
from cerebellum.llamacpp.generate.prefix_tree import Path, Room, Wave, keepable, merged, order, shared, wave, waves

ROOMY = Room(paths=1000, tokens=100_000, cells=100_000)

lists = st.lists(st.integers(0, 2), min_size=1, max_size=9)


def path(number: int, tokens: list[int], first_wanted: int) -> Path:
    n = len(tokens)
    return Path(np.array(tokens, np.int32), np.arange(n) >= min(first_wanted, n - 1), (number,))


@st.composite
def path_lists(draw: st.DrawFn) -> list[Path]:
    found = draw(st.lists(st.tuples(lists, st.integers(0, 8)), min_size=1, max_size=14))
    return [path(number, tokens, first) for number, (tokens, first) in enumerate(found)]


def play(found: Wave, trunk: list[int]) -> list[list[int]]:
    """What each path's sequence holds after the wave; each node must come right after what its sequences hold."""
    held = [trunk[:kept] for kept in found.kept]
    assert all(len(one) == kept for one, kept in zip(held, found.kept, strict=True))
    for token, place, first, last in zip(found.tokens, found.places, found.first, found.last, strict=True):
        for sequence in held[first : last + 1]:
            assert len(sequence) == place
            sequence.append(int(token))
    return held


@settings(max_examples=300, deadline=None)
@given(path_lists(), st.integers(1, 4), st.integers(1, 12), st.booleans())
def test_every_path_is_read_whole_and_every_wanted_row_is_there(
    paths: list[Path], n_paths: int, n_tokens: int, keep: bool
) -> None:
    """Whatever the room, whether the trunk is kept or not."""
    room = Room(n_paths, n_tokens, 9 + n_tokens)
    trunk: list[int] = []
    answered: list[int] = []
    for found in waves(merged(paths), room, keep):
        held = play(found, trunk)
        assert len(found.paths) <= n_paths
        assert len(found.tokens) <= n_tokens or len(found.paths) == 1
        assert found.kept[0] + len(found.tokens) <= room.cells
        for one, sequence, nodes in zip(found.paths, held, found.nodes, strict=True):
            assert sequence == one.tokens.tolist()
            mine = nodes[one.wanted]
            assert (mine >= 0).all() and found.wanted[mine].all()
            assert found.places[mine].tolist() == np.flatnonzero(one.wanted).tolist()
            assert found.tokens[mine].tolist() == one.tokens[one.wanted].tolist()
            answered += one.requests
        trunk = held[-1] if keep else []
    assert sorted(answered) == list(range(len(paths)))


@settings(max_examples=200, deadline=None)
@given(path_lists())
def test_with_room_for_all_each_beginning_is_read_once(paths: list[Path]) -> None:
    """As many nodes as the paths have different beginnings, counted the slow way."""
    (found,) = waves(merged(paths), ROOMY)
    beginnings = {tuple(p.tokens[: n + 1].tolist()) for p in paths for n in range(len(p.tokens))}
    assert len(found.tokens) == len(beginnings)


@settings(max_examples=100, deadline=None)
@given(path_lists())
def test_equal_paths_can_go_side_by_side(paths: list[Path]) -> None:
    """Prompts are not merged: each keeps a sequence of its own, however many are the same."""
    both = sorted([*paths, *paths], key=lambda p: order(p.tokens))
    nothing: Tokens = np.zeros(0, np.int32)
    assert play(wave(nothing, both), []) == [p.tokens.tolist() for p in both]


def test_what_is_shared_with_the_trunk_is_not_read_again() -> None:
    """Two waves: the second begins after the common 50 tokens, but no later than its first wanted row."""
    preamble = list(range(50))
    paths = [path(0, [*preamble, 60, 61], 51), path(1, [*preamble, 70, 71, 72], 49)]
    one, two = waves(merged(paths), Room(1, 512, 1000))
    assert (len(one.tokens), one.kept, len(two.tokens), two.kept) == (52, (0,), 4, (49,))


def test_letters_after_one_context_are_one_row() -> None:
    """Four continuations of one token read the same path: a single wanted row."""
    paths = [path(number, [5, 6, 7, 8], 3) for number in range(4)]
    (found,) = waves(merged(paths), ROOMY)
    assert found.paths[0].requests == (0, 1, 2, 3)
    assert (len(found.paths), found.wanted.sum(), len(found.tokens)) == (1, 1, 4)


@given(lists, lists)
def test_order_is_that_of_the_tokens(a: list[int], b: list[int]) -> None:
    """Also for tokens beyond a byte."""
    wide = [np.array(tokens, np.int32) * 70_001 for tokens in (a, b)]
    assert (order(wide[0]) < order(wide[1])) == (a < b)
    common = shared(wide[0], wide[1])
    assert a[:common] == b[:common] and (common == min(len(a), len(b)) or a[common] != b[common])
    assert keepable(wide[0], Path(wide[1], np.arange(len(b)) == len(b) - 1, (0,))) == min(common, len(b) - 1)
