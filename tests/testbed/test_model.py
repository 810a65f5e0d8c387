"""The shapes of the family: what llama.cpp's K-quants and the published architecture ask for."""

from __future__ import annotations

import pytest

from testbed.export import FOREVER, rope_factors
from testbed.model import FULL, SHAPES, SLIDING, SPECIALS, VOCAB, Shape

shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@shapes
def test_rows_fit_k_quants(shape: Shape) -> None:
    """Every row length is a multiple of 256, the whole per-layer-embedding table's included."""
    rows = {
        shape.hidden,
        *shape.feed_forwards,
        shape.heads * shape.head,
        shape.heads * shape.head_full,
        shape.per_layer,
    }
    rows.add(shape.blocks * shape.per_layer)
    assert all(row % 256 == 0 for row in rows)


@shapes
def test_depth_and_shared_blocks(shape: Shape) -> None:
    """Of the blocks that share keys and values, both kinds have an earlier block of their kind to read from."""
    assert shape.blocks >= 10
    own = shape.kinds[: shape.blocks - shape.shared]
    assert {SLIDING, FULL} <= set(own)
    assert {SLIDING, FULL} <= set(shape.kinds[shape.blocks - shape.shared :])


@shapes
def test_last_block_is_full(shape: Shape) -> None:
    """Gemma 4 has full attention in its last block, and llama.cpp is told of every block's kind."""
    assert shape.kinds[-1] == FULL and len(shape.kinds) == shape.blocks


@shapes
def test_a_quarter_of_a_full_head_turns(shape: Shape) -> None:
    """The rotation of full attention: a quarter of the dimensions, the rest stands still."""
    factors = rope_factors(shape)
    assert len(factors) == shape.head_full // 2
    assert (factors == 1).sum() * 4 == len(factors)
    assert set(factors.tolist()) == {1.0, float(factors[-1])} and factors[-1] == pytest.approx(FOREVER)


def test_the_deeper_sibling_is_the_same_but_deeper() -> None:
    """One family: the same widths, the same share of blocks with borrowed keys and values."""
    small, deep = SHAPES["world-14"], SHAPES["world-21"]
    assert deep.blocks == small.blocks * 3 // 2 and deep.shared == small.shared * 3 // 2
    assert (deep.hidden, deep.feed_forward, deep.per_layer) == (small.hidden, small.feed_forward, small.per_layer)


def test_vocabulary_fits_a_packed_ngram() -> None:
    """The baselines pack tokens into ten bits."""
    assert VOCAB <= 1 << 10 and len(set(SPECIALS)) == len(SPECIALS)
