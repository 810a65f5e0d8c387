"""The texts that make an importance matrix, where they are at hand: none of them may measure what comes of it.

One rule for all of them: it is that of search and report text (`Overlap.is_too_much`), over words instead of tokens, so that other spaces
and line ends are no disguise. Of conversations the messages count, without names, brackets and system messages: unrelated files often
share those.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cerebellum.errors import TextError
from cerebellum.gguf.imatrix import Imatrix
from cerebellum.text.chat import Conversations, read_conversations
from cerebellum.text.corpus import read_text
from cerebellum.text.corpus_overlap import words_overlap
from cerebellum.text.overlap import PASSAGE


def check_apart(makes: Path, measuring: Iterable[Path | None], verb: str = "makes") -> None:
    """Raises `TextError` where a measuring text and one that ``makes`` the importance matrix (``verb``, for the message) aren't apart."""
    words = words_of(makes)
    for path in measuring:
        if path is None:
            continue
        shared = words_overlap(words_of(path), [words])
        if shared.is_too_much(PASSAGE):
            raise TextError(
                f"{makes.name}, which {verb} the importance matrix, holds {100 * shared.share:.3g} % of {path.name} (the longest passage: "
                f"{shared.longest} words), so {path.name} can't measure what comes of it; give another text "
                "(--text, --report-text or --calibration-text)"
            )


def words_of(path: Path) -> str:
    """What a file says: of conversations the messages, of anything else the text. Raises `TextError`."""
    text = read_text(path)
    if not text.lstrip("\ufeff \r\n\t").startswith(("{", "[")):
        return text
    try:
        conversations = read_conversations(path)
    except TextError:
        return text  # no conversations
    return "\n".join(said_in(conversations))


def said_in(conversations: Conversations) -> Iterable[str]:
    """What each message but the system's says."""
    for talk in conversations.items:
        for message in talk.messages:
            if message.get("role") not in ("system", "developer") and isinstance(message.get("content"), str):
                yield message["content"]


def texts_at_hand(imatrix: Imatrix, path: Path) -> list[tuple[str, Path | None]]:
    """Each text that the importance matrix at ``path`` names as its own, and where it is: as it is named, or beside it; None: nowhere."""
    named = [(name, Path(name.replace("\\", "/"))) for name in imatrix.datasets]
    places = ((name, (file, path.parent / file.name)) for name, file in named)
    return [(name, next((p for p in where if p.is_file()), None)) for name, where in places]
