"""What a verb measures on: a plain text, or conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cerebellum.bundled import REPORT_TEXT, SEARCH_TEXT
from cerebellum.domain import Corpus, Model
from cerebellum.figures import counted
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import Engine
from cerebellum.progress import Progress
from cerebellum.study.runner import Split
from cerebellum.text.chat import Conversations, read_conversations
from cerebellum.text.corpus import read_text

Text = str | Conversations


def read(path: Path, chat: bool) -> Text:
    """The file at ``path``, read and checked. Raises `TextError`."""
    return read_conversations(path) if chat else read_text(path)


def corpus_of(engine: Engine, name: str, text: Text, n_ctx: int, progress: Progress) -> Corpus:
    """``text`` in the engine's tokens; conversations that are cut or left out are told. Raises `TextError`."""
    if isinstance(text, str):
        return engine.corpus(name, text, n_ctx)
    corpus = engine.chat_corpus(text, n_ctx)
    if corpus.turns and corpus.turns.refused:
        progress.note(
            f"warning: {name}: {counted(len(corpus.turns.refused), 'conversation')} left out. The first: {corpus.turns.refused[0]}"
        )
    if corpus.turns and (corpus.turns.n_cut or corpus.turns.n_dropped):
        progress.note(
            f"{name}: of {len(text.items)} conversations {corpus.turns.n_cut} are cut at {n_ctx} tokens, "
            f"{corpus.turns.n_dropped} left out, for no word of the assistant is before that"
        )
    return corpus


def fewer_chunks(corpus: Corpus, wanted: int | None, there: int | None = None, what: str = "") -> list[str]:
    """That a text has fewer chunks than ``wanted``, where it has: ``there`` (None: all of the corpus) for ``what``."""
    n = corpus.n_chunks if there is None else there
    if wanted is None or n >= wanted:
        return []
    amount = counted(n, "conversation") if corpus.turns else f"{counted(n, 'chunk')} of {corpus.n_ctx} tokens"
    purpose = f" for the {what} text" if what else ""
    return [f"{corpus.name} has {amount}{purpose}, fewer than the {wanted} wanted (--chunks): all of them are measured"]


def odd_marks(name: str, text: Text, progress: Progress) -> list[str]:
    """That a text has Windows' line ends or a byte-order mark, where it does: they are measured as text."""
    if isinstance(text, str):
        n_ends, marked, where = text.count("\r\n"), text.startswith("\ufeff"), name
    else:
        messages = [m["content"] for talk in text.items for m in talk.messages if isinstance(m["content"], str)]
        n_ends, marked, where = sum(each.count("\r\n") for each in messages), False, f"the messages of {name}"
    warnings = []
    if n_ends:
        warnings.append(
            f"{n_ends:,} lines of {where} end as Windows' do (CRLF). Models expect LF alone, and perplexity can be several times higher "
            "for it: convert the text (dos2unix) and measure again."
        )
    if marked:
        warnings.append(
            f"{name} begins with a byte-order mark (BOM), which is measured as text: save it as UTF-8 without BOM."
        )
    for warning in warnings:
        progress.note(f"warning: {warning}")
    return warnings


def too_long(
    model: Model, n_ctx: int, progress: Progress, advice: str = "give a smaller --ctx", what: str = "Chunks"
) -> list[str]:
    """That chunks are longer than a model can take in, where they are; told now, before anything is measured."""
    if not 0 < model.context_length < n_ctx:
        return []
    made_for = f"the {model.context_length} that {model.path.name} was made for"
    warning = f"{what} of {n_ctx} tokens are longer than {made_for}: {advice}."
    progress.note(f"warning: {warning}")
    return [warning]


def split_facts(split: Split, path: Path) -> dict[str, Any]:
    """Which part of which text. ``conversations`` None: a plain text; else how many of the text's were cut or left out."""
    turns = split.corpus.turns
    return {
        "text": split.corpus.name + (" (bundled small world)" if path in (SEARCH_TEXT, REPORT_TEXT) else ""),
        "text_sha256": sha256_file(path),
        "tokens_sha256": split.corpus.tokens_sha256,
        "ctx": split.corpus.n_ctx,
        "chunks": [split.chunks[0], split.chunks[-1]],
        "n_chunks": len(split.chunks),
        "conversations": turns and {"cut": turns.n_cut, "dropped": turns.n_dropped + len(turns.refused)},
    }
