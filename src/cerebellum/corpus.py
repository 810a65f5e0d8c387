"""Texts: read, checked, cut into chunks exactly as `llama-perplexity` does."""

from __future__ import annotations

from pathlib import Path

from cerebellum.domain import Corpus, Tokens
from cerebellum.errors import TextError
from cerebellum.keys import sha256_bytes


def read_text(path: Path) -> str:
    """A text file as llama.cpp's ``-f`` reads it: one final line end is dropped. Raises `TextError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TextError(f"can't read the text {path}: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text (byte {error.start}); give a plain text file") from error
    text = text.removesuffix("\n")
    if not text.strip():
        raise TextError(f"the text {path} is empty; give a text of at least two chunks")
    return text


def check_length(name: str, n_tokens: int, n_ctx: int) -> None:
    """Raises `TextError` unless there are two whole chunks, as llama-perplexity wants."""
    if n_tokens < 2 * n_ctx:
        raise TextError(
            f"{name} is only {n_tokens} tokens; two chunks of {n_ctx} are the least that can be measured: "
            "give a longer text or a smaller --ctx"
        )


def cut(name: str, text: str, tokens: Tokens, n_ctx: int, bos: int | None) -> Corpus:
    """A `Corpus` of ``tokens`` int32 [n]; ``bos`` replaces the first token of each chunk where given."""
    return Corpus(name, sha256_bytes(text.encode()), sha256_bytes(tokens.tobytes()), n_ctx, tokens, bos)
