"""What a verb measures on: a plain text, or conversations."""

from __future__ import annotations

from pathlib import Path

from cerebellum.backend import Engine
from cerebellum.chat import Conversations, read_conversations
from cerebellum.corpus import read_text
from cerebellum.domain import Corpus
from cerebellum.progress import Progress

Text = str | Conversations


def read(path: Path, chat: bool) -> Text:
    """The file at ``path``, read and checked. Raises `TextError`."""
    return read_conversations(path) if chat else read_text(path)


def corpus_of(engine: Engine, name: str, text: Text, n_ctx: int, progress: Progress) -> Corpus:
    """``text`` in the engine's tokens; conversations that are cut or left out are told. Raises `TextError`."""
    if isinstance(text, str):
        return engine.corpus(name, text, n_ctx)
    corpus = engine.chat_corpus(text, n_ctx)
    if corpus.turns and (corpus.turns.n_cut or corpus.turns.n_dropped):
        progress.note(
            f"{name}: of {len(text.items)} conversations {corpus.turns.n_cut} are cut at {n_ctx} tokens, "
            f"{corpus.turns.n_dropped} left out, for no word of the assistant is before that"
        )
    return corpus
