"""Texts: read as llama.cpp's ``-f`` does, cut as llama-perplexity does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.errors import TextError
from cerebellum.text.corpus import check_length, cut, read_text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\ntwo\n", "one\ntwo"),
        (b"one\n\n", "one\n"),
        (b"no end", "no end"),
        (b" two  spaces \r\n", " two  spaces \r"),
        ("é ".encode(), "é "),
    ],
)
def test_one_final_line_end_is_dropped(tmp_path: Path, data: bytes, text: str) -> None:
    """One, and nothing else: no stripping, no newline translation."""
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    assert read_text(path) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b" \n\n\t\n", "is empty"), (b"abc\xff\xfe", r"is not UTF-8 text \(byte 3\)")],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    """Empty or not UTF-8: the file and the remedy."""
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(TextError, match=rf"text\.txt {message}"):
        read_text(path)


def test_a_text_that_can_not_be_read(tmp_path: Path) -> None:
    """Missing, or a folder."""
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(TextError, match="can't read the text"):
            read_text(path)


def test_two_chunks_are_the_least() -> None:
    """One token less is refused, with both numbers."""
    check_length("t", 128, 64)
    with pytest.raises(TextError, match="t has only 127 tokens; two chunks of 64"):
        check_length("t", 127, 64)


@given(st.integers(2, 200), st.integers(1, 50), st.none() | st.integers(0, 9))
def test_chunks_are_consecutive_and_begin_with_bos(n: int, n_ctx: int, bos: int | None) -> None:
    """Chunk i holds tokens i·n_ctx …; its first becomes BOS where one is wanted; what is left over is dropped."""
    tokens = np.arange(100, 100 + n, dtype=np.int32)
    corpus = cut("t", "text", tokens, n_ctx, bos)
    assert corpus.n_chunks == n // n_ctx
    for i, chunk in enumerate(corpus.chunks(range(corpus.n_chunks))):
        expected = tokens[i * n_ctx : (i + 1) * n_ctx].tolist()
        assert chunk.id == i and chunk.tokens.tolist() == ([bos, *expected[1:]] if bos is not None else expected)
    assert tokens.tolist() == list(range(100, 100 + n))  # cutting changes nothing
    for outside in (-1, corpus.n_chunks):
        with pytest.raises(IndexError, match="no chunk"):
            corpus.chunk(outside)


def test_corpora_are_equal_by_content() -> None:
    """The hash of the tokens tells texts apart; the same text is the same corpus."""
    tokens = np.arange(10, dtype=np.int32)
    assert cut("t", "x", tokens, 4, 1) == cut("t", "x", tokens.copy(), 4, 1)
    assert cut("t", "x", tokens, 4, 1).tokens_sha256 != cut("t", "x", tokens + 1, 4, 1).tokens_sha256
    assert cut("t", "x", tokens, 4, 1).text_sha256 != cut("t", "y", tokens, 4, 1).text_sha256
