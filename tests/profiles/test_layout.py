"""Kinds of blocks, and profiles carried over between models whose kinds are arranged otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from cerebellum import bundled
from cerebellum.gguf.model_file import read_model
from cerebellum.profiles.layout import FULL, SHARED, WINDOW, Layout, carried_over, kinds_of


def layout(n: int, shared: int, every: int = 4) -> Layout:
    kinds = [FULL if b % every == every - 1 or b == n - 1 else WINDOW for b in range(n)]
    return Layout(n, tuple(k if b < n - shared else f"{k} {SHARED}" for b, k in enumerate(kinds)))


def test_the_bundled_model_says_its_kinds() -> None:
    """The testbed's own account of the shape (`testbed.model.SHAPES`): 14 blocks, full at 3, 7, 11, 13, the last 6 share."""
    assert kinds_of(read_model(bundled.MODEL)) == layout(14, 6).kinds


def test_attention_is_compared_with_its_own_kind() -> None:
    """Full-attention blocks are ten times as sensitive, in both models at other places: an exact transfer."""
    old, new = layout(14, 6), layout(20, 8, every=5)
    profile = {b: (10.0 if FULL in old.kind(b) else 1.0) for b in range(14)}
    truth = [10.0 if FULL in new.kind(b) else 1.0 for b in range(20)]
    assert carried_over(profile, old, range(20), new, attention=True).tolist() == truth
    assert carried_over(profile, old, range(20), new, attention=False).tolist() != truth


def test_the_border_of_shared_keys_lies_where_it_lies() -> None:
    """A step at the border, which is at other depths (8 of 14, 16 of 20), stays at the border."""
    old, new = layout(14, 6), layout(20, 4)
    profile = {b: float(old.is_shared(b)) for b in range(14)}
    for attention in (True, False):
        found = carried_over(profile, old, range(20), new, attention=attention)
        assert found.tolist() == [float(new.is_shared(b)) for b in range(20)]


def test_without_kinds_depth_alone_decides() -> None:
    profile = {b: float(b) for b in range(11)}
    for source, target in ((Layout(11), Layout(21)), (Layout(11), layout(21, 7)), (layout(11, 3), Layout(21))):
        found = carried_over(profile, source, range(21), target, attention=True)
        assert found == pytest.approx(np.arange(21) / 2)


def test_a_role_that_only_one_side_has_is_taken_from_there() -> None:
    """A model without shared blocks of that role (attn_k) predicts the others' by depth."""
    old, new = layout(14, 6), layout(10, 4)
    profile = {b: 1.0 + b for b in range(8)}
    found = carried_over(profile, old, range(10), new, attention=True)
    assert np.isfinite(found).all() and (found >= 1.0).all() and (found <= 8.0).all()
