"""Whether a passage of one text is in another text: compared word by word, without regard to spaces, line ends and case."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cerebellum.text.overlap import Overlap, overlap

Ids = npt.NDArray[np.int32]

#: A word, a sign, or one letter of a script that puts no spaces between words.
_WORD = re.compile(r"[぀-ヿ㐀-鿿฀-๿]|[^\W぀-ヿ㐀-鿿฀-๿]+|[^\w\s]")


def word_ids(*texts: str) -> list[Ids]:
    """Each text as int32 [words]: equal words are equal numbers, in all of them."""
    known: dict[str, int] = {}
    return [
        np.fromiter((known.setdefault(m[0], len(known)) for m in _WORD.finditer(text.casefold())), np.int32)
        for text in texts
    ]


def words_overlap(text: str, others: Sequence[str]) -> Overlap:
    """What of ``text`` is in ``others`` too, in runs of `cerebellum.text.overlap.N_GRAM` words."""
    ids, *rest = word_ids(text, *others)
    return overlap(ids, rest)
