"""One text as it is written: stop texts, broken characters, ends, draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cerebellum.llamacpp.generate.protocol import Prompt
from cerebellum.llamacpp.generate.sampler import Sampler, drawn

END = 0


class Speller:
    """Token i is piece i − 1; 0 ends the text."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def ends(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return self.pieces[token - 1]


def written(pieces: Sequence[bytes], stop: tuple[str, ...] = (), max_tokens: int = 100) -> Sampler:
    """``pieces`` one after the other, then the end token, as far as the pen goes."""
    pen = Sampler(Speller(pieces), Prompt(np.zeros(1, np.int32), stop, max_tokens))
    for token in [*range(1, len(pieces) + 1), END]:
        if not pen.ended:
            pen.choose(np.eye(len(pieces) + 1, dtype=np.float32)[token])
    return pen


@pytest.mark.parametrize(
    ("pieces", "stop", "text", "n", "ended"),
    [
        ([b"a", b"b"], (), "ab", 2, "eos"),
        ([b"a\n", b"\ndef f"], ("\n\n",), "a", 2, "stop"),
        ([b"x<", b"|e", b"nd|", b">y"], ("<|end|>",), "x", 4, "stop"),
        ([b"one two", b" three"], ("three", "two"), "one ", 1, "stop"),
        ([b"abcdef"], ("de", "bc"), "a", 1, "stop"),
        ([b"<|en", b"d"], ("<|end|>",), "<|end", 2, "eos"),
        ([b"a"], ("",), "a", 1, "eos"),
        (["é".encode()[:1], "é".encode()[1:], b"!"], ("é",), "", 2, "stop"),
        ([b"\xe2", b"\x82", b"\xac 5"], (), "€ 5", 3, "eos"),
        ([b"a\xe2\x82"], (), "a�", 1, "eos"),
        ([b"a\xe2\x82", b"b"], (), "a�b", 2, "eos"),
    ],
)
def test_where_a_text_ends(pieces: list[bytes], stop: tuple[str, ...], text: str, n: int, ended: str) -> None:
    """Stop texts in one token and across several, characters split over tokens, ends within them."""
    pen = written(pieces, stop)
    assert (pen.text, pen.n_tokens, pen.ended) == (text, n, ended)


def test_length_ends_a_text_with_what_was_written() -> None:
    """Also within a character; a stop text that the last token completes counts first."""
    assert (written([b"a", b"b", b"c"], (), 2).text, written([b"a", b"b"], (), 2).ended) == ("ab", "length")
    assert written([b"a", b"\xe2"], (), 2).text == "a�"
    assert (written([b"a", b"b"], ("b",), 2).ended, written([b"a", b"b"], ("b",), 2).text) == ("stop", "a")


def test_draws_have_the_distribution_of_the_softmax() -> None:
    """20,000 draws at temperature 0.7 against its probabilities, within five standard errors."""
    row = np.array([0.0, 1.0, -2.0, 1.5], np.float32)
    rng, n = np.random.default_rng(3), 20_000
    counts = np.bincount([drawn(row, 0.7, rng) for _ in range(n)], minlength=4)
    p = np.exp(row / 0.7) / np.exp(row / 0.7).sum()
    assert np.all(np.abs(counts / n - p) <= 5 * np.sqrt(p * (1 - p) / n))


def test_a_draw_depends_on_its_seed_alone() -> None:
    """The same seed gives the same text, another one another; greedy asks for no seed."""
    rows = np.random.default_rng(0).standard_normal((30, 9)).astype(np.float32)

    def text(seed: int, temperature: float) -> str:
        pen = Sampler(
            Speller([bytes([97 + i]) for i in range(8)]), Prompt(rows[0].astype(np.int32), (), 99, temperature, seed)
        )
        for row in rows:
            if not pen.ended:
                pen.choose(np.append(np.float32(-99), row[1:]))
        return pen.text

    assert text(1, 1.0) == text(1, 1.0) != text(2, 1.0)
    assert text(1, 0.0) == text(2, 0.0)
