"""Whether one text stands in another: word for word, whatever the spaces, the line ends and the letters' case are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Words in a row that two texts of their own don't share.
N_WORDS = 32

Ids = npt.NDArray[np.int32]

#: A word, a sign, or one letter of a script that puts no spaces between words.
_WORD = re.compile(r"[぀-ヿ㐀-鿿฀-๿]|[^\W぀-ヿ㐀-鿿฀-๿]+|[^\w\s]")


def word_ids(*texts: str) -> list[Ids]:
    """Each text as int32 [words]: equal words are equal numbers, in all of them."""
    known: dict[str, int] = {}
    return [
        np.array([known.setdefault(word, len(known)) for word in _WORD.findall(text.casefold())], np.int32)
        for text in texts
    ]


def shared_ngrams(a: Ids, b: Ids, n: int = N_WORDS) -> int:
    """How many different runs of ``n`` numbers of ``b`` are also in ``a``."""
    return len(_ngrams(a, n) & _ngrams(b, n))


def _ngrams(ids: Ids, n: int) -> set[bytes]:
    return {ids[i : i + n].tobytes() for i in range(len(ids) - n + 1)}


def words_shared(one: str, others: Sequence[str]) -> int:
    """How many different runs of `N_WORDS` words of ``one`` stand in any of ``others``."""
    own, *rest = word_ids(one, *others)
    return len(_ngrams(own, N_WORDS) & set().union(*(_ngrams(ids, N_WORDS) for ids in rest)))
