"""A sentencepiece vocabulary of any size that reads any text: bytes, then all words over 27 letters, shorter ones first.

Two letters that meet are always a token, and in large vocabularies three or four: text takes about as many characters a token as with a
real vocabulary of that size, and its tokens lie all over the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice, product
from typing import Any

import gguf

#: The mark of a blank and the letters, the most frequent in English first.
LETTERS = "▁etaoinshrdlucmfwypvbgkjqxz"
SPECIALS = ("<unk>", "<s>", "</s>")
N_FIXED = len(SPECIALS) + 256
UNKNOWN, BOS, EOS = range(len(SPECIALS))


def tokens(size: int) -> list[str]:
    """``size`` tokens, the specials and the bytes first. Raises ValueError where those don't fit."""
    if size < N_FIXED + len(LETTERS):
        raise ValueError(
            f"a vocabulary of {size} tokens has no room for {N_FIXED} bytes and specials and {len(LETTERS)} letters"
        )
    fixed = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    return [*fixed, *islice(_words(), size - N_FIXED)]


def _words() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(LETTERS, repeat=length))


def add_tokenizer(writer: Any, size: int) -> None:
    """The vocabulary into a GGUF: longer words score higher, so that they are made wherever they can be."""
    kinds = gguf.TokenType
    words = tokens(size)
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * (size - N_FIXED)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_vocab_size(size)
    writer.add_token_list(words)
    writer.add_token_scores([float(10 * len(word)) - index / size for index, word in enumerate(words)])
    writer.add_token_types([int(kind) for kind in types])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
