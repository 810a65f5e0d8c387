"""llama.cpp's warnings about a file. Each warning that can change a figure is passed on once, in few words."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: What its warnings begin with: the name of the function.
_WHERE = re.compile(r"^\s*[A-Za-z_][\w:~<>]*:\s+")
#: Of these no figure depends, or the caller says them better.
_HARMLESS = re.compile(
    r"graph reuse disabled|possible training context overflow|rounding down|unused tensor|full-size SWA cache|mlock|madvise|fadvise|munmap"
    r"|mmap|buffered IO|prefetch|compute buffer|is not divisible|assigned to device|pipeline parallelism|n_ctx_seq",
    re.IGNORECASE,
)
#: What follows from some of them.
_MEANING = {
    "pre-tokenizer": "texts are cut into other tokens than the model was trained on, so its figures are worse than they should be; convert "
    "the model again",
}
_NUMBERS = re.compile(r"'[^']*'|-?\d+(?:\.\d+)?")
#: Different warnings that are told of a file.
MOST = 8


def telling(lines: Iterable[str], name: str) -> tuple[str, ...]:
    """The warnings in llama.cpp's log ``lines`` on the file called ``name``, in order; of those that differ in numbers and quoted words
    alone the first, and how many there are."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for line in lines:
        text = _WHERE.sub("", line).strip()
        if not any(c.islower() for c in text) or _HARMLESS.search(text):
            continue
        kind = _NUMBERS.sub("N", text)
        first.setdefault(kind, text)
        count[kind] = count.get(kind, 0) + 1
    texts = [f"{text} (and {count[kind] - 1} like it)" if count[kind] > 1 else text for kind, text in first.items()]
    if len(texts) > MOST:
        texts[MOST:] = [f"and {len(texts) - MOST} more warnings"]
    return tuple(f"llama.cpp on {name}: {text}{_meaning(text)}" for text in texts)


def _meaning(text: str) -> str:
    return "".join(f" ({meaning})" for word, meaning in _MEANING.items() if word in text)
