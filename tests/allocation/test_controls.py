"""How much text the controls get."""

from __future__ import annotations

import numpy as np
import pytest

from cerebellum.domain import Corpus
from cerebellum.study.runner import Split
from cerebellum.verbs.allocation.controls import n_shuffled_chunks


@pytest.mark.parametrize(
    ("n_ctx", "n_chunks", "expected"),
    [(512, 16, 4), (256, 16, 8), (2048, 16, 3), (64, 16, 16), (512, 2, 2)],  # a chunk scores half of its tokens but one
)
def test_shuffled_recipes_get_as_many_tokens_whatever_the_chunks(n_ctx: int, n_chunks: int, expected: int) -> None:
    tokens = np.zeros(n_ctx * n_chunks, dtype=np.int32)
    report = Split("report", Corpus("text", "", "", n_ctx, tokens, None), tuple(range(n_chunks)))
    assert n_shuffled_chunks(report) == expected
