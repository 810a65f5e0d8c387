"""Texts: read, checked, cut into chunks exactly as `llama-perplexity` does; conversations cut into one chunk each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cerebellum.domain import Corpus, Mask, Tokens, Turns
from cerebellum.errors import TextError
from cerebellum.figures import counted
from cerebellum.keys import sha256_bytes
from cerebellum.text.untrusted import read_regular


def read_text(path: Path) -> str:
    """A text file as llama.cpp's ``-f`` reads it: one final line end is dropped. Raises `TextError`."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise TextError(
            f"can't read the text {path}: {error.strerror or error}; give a file of plain UTF-8 text with --text"
        ) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        problem = (
            "is UTF-16 text; save it as UTF-8"
            if wide
            else f"is not UTF-8 text (byte {error.start}); give a plain text file"
        )
        raise TextError(f"{path} {problem}") from error
    text = text.removesuffix("\n")
    if not text.strip():
        raise TextError(f"the text {path} is empty; give a text of at least two chunks")
    return text


def check_length(name: str, n_tokens: int, n_ctx: int) -> None:
    """Raises `TextError` unless there are two whole chunks, as llama-perplexity wants."""
    if n_tokens < 2 * n_ctx:
        raise TextError(
            f"{name} has only {counted(n_tokens, 'token')}; two chunks of {n_ctx} are the least that can be measured: "
            "give a longer text or a smaller --ctx"
        )


def cut(name: str, text: str, tokens: Tokens, n_ctx: int, bos: int | None) -> Corpus:
    """A `Corpus` of ``tokens`` int32 [n]; ``bos`` replaces the first token of each chunk where given."""
    return Corpus(name, sha256_bytes(text.encode()), sha256_bytes(tokens.tobytes()), n_ctx, tokens, bos)


def cut_conversations(
    name: str,
    text_sha256: str,
    conversations: Sequence[tuple[Tokens, Mask]],
    n_ctx: int,
    refused: Sequence[str] = (),
) -> Corpus:
    """A `Corpus` of conversations, each (tokens int32 [n], which of them are scored bool [n]) and beginning with its own BOS.

    Tokens past ``n_ctx`` and those after the last scored one are left out. ``refused``: why others were left out before.
    Raises `TextError` where nothing scored is left.
    """
    kept: list[tuple[Tokens, Mask]] = []
    n_cut = 0
    for tokens, scored in conversations:
        places = np.flatnonzero(scored[:n_ctx])
        places = places[places > 0]  # nothing predicts the first token
        if len(places):
            whole = np.zeros(places[-1] + 1, np.bool_)
            whole[places] = True
            kept.append((tokens[: len(whole)], whole))
            n_cut += len(tokens) > n_ctx
    if not kept:
        raise TextError(f"{name} has no assistant's word within {n_ctx} tokens of a conversation; give a larger --ctx")
    tokens, scored = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    bounds = np.cumsum([0, *(len(tokens_kept) for tokens_kept, _ in kept)], dtype=np.int64)
    turns = Turns(bounds, scored, n_cut, len(conversations) - len(kept), tuple(refused))
    sha256 = sha256_bytes(
        "".join(sha256_bytes(tokens_kept.tobytes()) for tokens_kept in (tokens, bounds, scored)).encode()
    )
    return Corpus(name, text_sha256, sha256, n_ctx, tokens, None, turns)
