"""Which block a sibling's block begins as, and that the sibling in the repository is what its card says."""

from __future__ import annotations

import pytest

from cerebellum import bundled
from testbed.grow import elder_of, origins
from testbed.model import SHAPES, Shape


@pytest.mark.parametrize(
    ("name", "elder"), [("world-10", "world-14"), ("world-21", "world-14"), ("world-14", "world-10")]
)
def test_a_block_begins_as_one_of_its_kind(name: str, elder: str) -> None:
    """Kind and side of the shared keys are kept, order within a group too; the block that others read begins as the one they read."""
    young, old = SHAPES[name], SHAPES[elder]
    chosen = origins(young, old)
    assert len(chosen) == young.blocks
    for block, origin in enumerate(chosen):
        assert young.kinds[block] == old.kinds[origin]
        assert (block >= young.blocks - young.shared) == (origin >= old.blocks - old.shared)
        assert young.feed_forwards[block] == old.feed_forwards[origin]
    for kind in set(young.kinds):
        for shape_side in (range(young.blocks - young.shared), range(young.blocks - young.shared, young.blocks)):
            group = [chosen[b] for b in shape_side if young.kinds[b] == kind]
            assert group == sorted(group)
        owners = [b for b in range(young.blocks - young.shared) if young.kinds[b] == kind]
        theirs = [b for b in range(old.blocks - old.shared) if old.kinds[b] == kind]
        assert chosen[owners[-1]] == theirs[-1]


def test_llama_cpp_finds_the_blocks_whose_keys_are_read() -> None:
    """It takes the last two that own keys and values for a sliding and a full one."""
    for shape in SHAPES.values():
        own = shape.kinds[: shape.blocks - shape.shared]
        assert own[-2:] == ["sliding_attention", "full_attention"]


def test_the_same_depth_changes_nothing() -> None:
    assert origins(SHAPES["world-14"], SHAPES["world-14"]) == list(range(14))


def test_a_kind_that_the_elder_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no block of kind"):
        origins(Shape(8, 4), Shape(3, 1))


def test_the_bundled_model_is_known_by_its_depth() -> None:
    assert elder_of(bundled.MODEL) == SHAPES["world-14"]
