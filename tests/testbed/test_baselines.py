"""The unigram and the trigram: proper distributions, and the same numbers as a slow and obvious version."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from testbed.baselines import Trigram, Unigram, pack

N_VOCAB = 12


def tokens(n: int, seed: int = 0) -> np.ndarray:
    """Tokens whose frequencies differ, some of the vocabulary never among them."""
    return np.random.default_rng(seed).geometric(0.35, n).clip(max=N_VOCAB - 3) - 1


def slow_kneser_ney(ids: list[int], a: int, b: int, c: int) -> float:
    """p(c | a, b) straight from the formulas of Chen & Goodman (1999)."""
    three = Counter(zip(ids, ids[1:], ids[2:], strict=False))
    two = Counter((y, z) for _, y, z in three)  # different tokens before (y, z)
    one = Counter(z for _, z in two)

    def discount(counts: Counter[tuple[int, ...]]) -> float:
        once, twice = (sum(value == n for value in counts.values()) for n in (1, 2))
        return once / max(once + 2 * twice, 1)

    p = (one[c] + 1) / (len(two) + N_VOCAB)
    for counts, before, whole in ((two, (b,), (b, c)), (three, (a, b), (a, b, c))):
        after = {key: value for key, value in counts.items() if key[:-1] == before}
        if after:
            total, d = sum(after.values()), discount(Counter(dict(counts)))
            p = max(after.get(whole, 0) - d, 0) / total + d * len(after) / total * p
    return p


@pytest.mark.parametrize("seed", range(3))
def test_trigram_is_kneser_ney(seed: int) -> None:
    """Every next token after seen and unseen contexts: the packed version equals the formulas."""
    ids = tokens(300, seed)
    model = Trigram(ids, N_VOCAB)
    for a, b in ((0, 0), (0, 1), (3, 2), (N_VOCAB - 1, 0), (0, N_VOCAB - 1)):
        found = [float(np.exp(-model.nll_nats(np.array([a, b, c])))[0]) for c in range(N_VOCAB)]
        assert found == pytest.approx([slow_kneser_ney(ids.tolist(), a, b, c) for c in range(N_VOCAB)])
        assert sum(found) == pytest.approx(1)


def test_unigram_is_the_frequency() -> None:
    """Counts plus one, over all: probabilities that sum to one."""
    ids = tokens(200)
    found = np.exp(-Unigram(ids, N_VOCAB).nll_nats(np.array([0, 0, *range(N_VOCAB)])))
    assert found == pytest.approx((np.bincount(ids, minlength=N_VOCAB) + 1) / (200 + N_VOCAB))


def test_packed_ngrams_are_different() -> None:
    """Order and place count: no two triples of the largest tokens share a number."""
    triples = [(a, b, c) for a in (0, 1, 1023) for b in (0, 1, 1023) for c in (0, 1, 1023)]
    columns = [np.array(column) for column in zip(*triples, strict=True)]
    assert len(set(pack(*columns).tolist())) == len(triples)
