"""Which block a sibling's block begins as, and that the sibling in the repository is what its card says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from cerebellum import bundled
from cerebellum.gguf.model_file import read_model
from cerebellum.profiles.layout import kinds_of
from testbed.grow import elder_of, origins
from testbed.model import SHAPES, Shape

SIBLINGS = Path(__file__).resolve().parents[2] / "testbed" / "siblings"


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


def test_the_sibling_is_what_its_card_says() -> None:
    (path,) = SIBLINGS.glob("*.gguf")
    (sha256,) = re.findall(r"sha256 `(\w{64})`", (SIBLINGS / "README.md").read_text(encoding="utf-8"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    model, elder = read_model(path), read_model(bundled.MODEL)
    assert (model.architecture, model.n_blocks, elder.n_blocks) == ("gemma4", 10, 14)
    assert {t.role for t in model.tensors} == {t.role for t in elder.tensors}
    assert model.metadata["tokenizer.ggml.tokens"] == elder.metadata["tokenizer.ggml.tokens"]
    shared = [b for b, kind in enumerate(kinds_of(model)) if "shared" in kind]
    assert shared == [8, 9]
    assert path.stat().st_size <= 20_000_000
