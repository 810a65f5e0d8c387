"""Whether a passage of one text is in another text: compared word by word, without regard to spaces, line ends and case."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Words in a row that two texts of their own don't share.
N_WORDS = 32

Ids = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

_BASE = np.uint64(0xD1342543DE82EF95)

#: A word, a sign, or one letter of a script that puts no spaces between words.
_WORD = re.compile(r"[぀-ヿ㐀-鿿฀-๿]|[^\W぀-ヿ㐀-鿿฀-๿]+|[^\w\s]")


def word_ids(*texts: str) -> list[Ids]:
    """Each text as int32 [words]: equal words are equal numbers, in all of them."""
    known: dict[str, int] = {}
    return [
        np.fromiter((known.setdefault(m[0], len(known)) for m in _WORD.finditer(text.casefold())), np.int32)
        for text in texts
    ]


def shared_ngrams(a: Ids, b: Ids, n: int = N_WORDS) -> int:
    """How many different runs of ``n`` numbers of ``b`` are also in ``a``; runs are told apart by 64 bits of a hash."""
    return len(np.intersect1d(_ngrams(a, n), _ngrams(b, n)))


def _ngrams(ids: Ids, n: int) -> Hashes:
    """uint64 [runs of ``n`` numbers]: a polynomial of the mixed numbers, modulo 2⁶⁴."""
    runs = max(0, len(ids) - n + 1)
    mixed, found = _mixed(ids.astype(np.uint64)), np.zeros(runs, np.uint64)
    for k in range(n):
        found = found * _BASE + mixed[k : k + runs]
    return found


def _mixed(x: Hashes) -> Hashes:
    """Sebastiano Vigna's SplitMix64, which is one to one."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def words_shared(one: str, others: Sequence[str]) -> int:
    """How many different runs of `N_WORDS` words of ``one`` stand in ``others``, counted for each of them."""
    own, *rest = word_ids(one, *others)
    return sum(shared_ngrams(own, ids) for ids in rest)
