"""Names of files that fit a narrow table: what tells them apart."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_SUFFIX = ".gguf"
#: A name may be cut after these; not after "_", which is inside the names of types.
_ENDS = re.compile(r"[-./ ]")


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` without their ending ``.gguf`` and without the words that all of them begin with; whole where nothing would be left.

    >>> short_names(["SmolLM2-Q4_K_M.gguf", "SmolLM2-Q4_K_S.gguf"])
    ('Q4_K_M', 'Q4_K_S')
    """
    stems = [name.removesuffix(_SUFFIX) for name in names]
    columns = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    shared = "".join(letters[0] for letters in columns) if len(stems) > 1 else ""
    at = max((match.end() for match in _ENDS.finditer(shared)), default=0)
    short = tuple(stem[at:] for stem in stems)
    return short if all(short) and len(set(short)) == len(set(names)) else tuple(names)
