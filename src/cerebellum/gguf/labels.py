"""Quantization labels in file names, as the model hub's parser reads them: the last known label in a name is the file's. Pure.

A label is a file type's name, in any case, with what follows in capitals (``Q4_K_XL``). So a recipe's name has exactly one, at its end,
and none of what it was made from.
"""

from __future__ import annotations

import re

from cerebellum.gguf.types import FTYPES, TYPES

#: Names that are labels, the longest first; ``Q3_K`` stands for what others call it with a letter behind.
_NAMES = sorted({*FTYPES, *TYPES, "MXFP4_MOE", "NVFP4"}, key=lambda n: (-len(n), n))
_LABEL = re.compile(f"(?:UD-)?(?:{'|'.join(map(re.escape, _NAMES))})(?:_[A-Z]+)?", re.IGNORECASE)
_IN_STEM = re.compile(rf"[-_. ]?{_LABEL.pattern}(?=$|[-_. ])", re.IGNORECASE)


def label_of(name: str) -> str | None:
    """The label that the hub shows for a file of this name: the last one in it."""
    labels = _LABEL.findall(name.upper())
    return labels[-1] if labels else None


def labelled(stem: str, label: str) -> str:
    """The stem of a recipe's name: ``stem`` without labels of its own, whose work it is, and one label at the end."""
    plain = _IN_STEM.sub("", stem)
    plain = _LABEL.sub("", plain) if _LABEL.search(plain) else plain
    return f"{plain.strip('-_. ') or 'model'}-cerebellum-{label}"
