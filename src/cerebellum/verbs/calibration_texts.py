"""The texts that made an importance matrix, where they are at hand: none of them may measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cerebellum.errors import TextError
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.llamacpp.protocol import Engine
from cerebellum.study.runner import Split
from cerebellum.text.corpus import read_text
from cerebellum.text.overlap import overlap
from cerebellum.verbs.splits import how_much

#: The shortest chunks that a text is cut into: any text that is worth comparing has two of them.
LEAST_CTX = 8


def check_imatrix_text(engine: Engine, imatrix: Path | None, splits: Sequence[Split]) -> None:
    """None of the texts that made the importance matrix and are at hand is, in part, also one that measures. Raises `TextError`."""
    if imatrix is None:
        return
    for path in imatrix_texts(imatrix):
        try:
            made_from = engine.corpus(path.name, read_text(path), LEAST_CTX)
        except TextError:
            continue  # no text, or a few words: nothing that could be compared
        for split in splits:
            found = overlap(split.tokens, [made_from.tokens], split.scored)
            if found.is_too_much(split.corpus.n_ctx):
                what = how_much(split.corpus.name, found)
                raise TextError(
                    f"{what} is also in {path.name}, which made the importance matrix, so it can't measure what comes of it; "
                    "give another text"
                )


def imatrix_texts(imatrix: Path) -> list[Path]:
    """The texts that an importance matrix names as its own, where they are found: as it names them, or beside it."""
    names = map(Path, load_imatrix(imatrix).datasets)
    found = (next((p for p in (name, imatrix.parent / name.name) if p.is_file()), None) for name in names)
    return [path for path in found if path is not None]
