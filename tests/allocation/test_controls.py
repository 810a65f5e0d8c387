"""How much text the controls get."""

from __future__ import annotations

import numpy as np
import pytest

from cerebellum.domain import Corpus, Turns
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


def test_of_conversations_the_tokens_that_are_scored_count() -> None:
    """Conversations of 50 tokens, the last of which are the assistant's."""
    for n_conversations, n_scored, expected in ((16, 10, 16), (400, 10, 100), (400, 1, 400), (400, 0, 400)):
        tokens = np.zeros(n_conversations * 50, dtype=np.int32)
        scored = np.tile(np.arange(50) >= 50 - n_scored, n_conversations)
        turns = Turns(np.arange(n_conversations + 1, dtype=np.int64) * 50, scored, 0, 0)
        report = Split("report", Corpus("text", "", "", 512, tokens, None, turns=turns), tuple(range(n_conversations)))
        assert n_shuffled_chunks(report) == expected
