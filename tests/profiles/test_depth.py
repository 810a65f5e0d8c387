"""Relative depth: the published claim, and what any map must keep."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.profiles.depth import carried, map_run, relative_depth
from tests.cli.command import cerebellum, refused


def test_the_published_claim() -> None:
    """Blocks 11 to 14 of Gemma 4 E2B (35 blocks) are 14 to 17 of E4B (42 blocks), and back."""
    assert map_run(11, 14, 35, 42) == (14, 17)
    assert map_run(14, 17, 42, 35) == (11, 14)


def test_ends_stay_ends() -> None:
    assert map_run(0, 0, 35, 42) == (0, 0)
    assert map_run(34, 34, 35, 42) == (41, 41)
    assert relative_depth(34, 35) == 1.0
    assert relative_depth(0, 1) == 0.0


@given(st.integers(1, 200), st.data())
def test_the_same_length_is_the_same_run(n: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first, n - 1))
    assert map_run(first, last, n, n) == (first, last)


@given(st.integers(1, 100), st.integers(1, 100), st.data())
def test_a_run_keeps_its_length_and_stays_inside(n_from: int, n_to: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n_from - 1))
    last = data.draw(st.integers(first, min(n_from - 1, first + n_to - 1)))
    start, end = map_run(first, last, n_from, n_to)
    assert end - start == last - first
    assert 0 <= start <= end < n_to


def test_refused() -> None:
    with pytest.raises(ValueError, match="not in a model of 35"):
        map_run(30, 35, 35, 42)
    with pytest.raises(ValueError, match="no run of 5"):
        map_run(0, 4, 35, 4)


def test_a_profile_is_carried_by_depth() -> None:
    """Linear in depth between the blocks that the role has; the end's value beyond an end."""
    assert carried({0: 1.0, 10: 3.0}, 11, [0, 5, 10, 20], 21).tolist() == [1.0, 1.5, 2.0, 3.0]
    assert carried({3: 1.0, 7: 2.0}, 11, [0, 5, 10], 11).tolist() == [1.0, 1.5, 2.0]


def test_the_command_maps_the_published_claim_both_ways(tmp_path: Path) -> None:
    for words, said in (
        (("11-14", "35", "42"), "blocks 14 to 17 of 42"),
        (("14-17", "42", "35"), "blocks 11 to 14 of 35"),
    ):
        done = cerebellum(tmp_path, "profile", "map", *words)
        assert done.returncode == 0 and said in done.stdout
    refused(cerebellum(tmp_path, "profile", "map", "30-40", "35", "42"), 2, "blocks 30 to 40", "35 blocks")
    refused(cerebellum(tmp_path, "profile", "map", "x", "35", "42"), 2, "11-14")
