"""The sampler of one text: chooses each token, turns it into text, and ends at a stop text or an end-of-text token."""

from __future__ import annotations

import codecs
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cerebellum.llamacpp.generate.protocol import Prompt


class Speller(Protocol):
    """What a text needs of its vocabulary."""

    def ends(self, token: int) -> bool: ...

    def piece(self, token: int) -> bytes: ...


class Sampler:
    """``ended`` is "" while it writes, then "stop", "eos" or "length"; ``n_tokens`` counts all but an end-of-generation token.

    ``last`` is the latest token of the text. A stop text is looked for in the text, whatever tokens spell it; where several end at the
    same token, the one that begins first counts.
    """

    def __init__(self, vocabulary: Speller, request: Prompt) -> None:
        self._vocabulary = vocabulary
        self._request = request
        self._stops = tuple(stop for stop in request.stop if stop)
        self._rng = np.random.default_rng(request.seed)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""
        self.n_tokens = 0
        self.last = -1
        self.ended = ""

    def choose(self, row: npt.NDArray[np.float32]) -> None:
        """Take the next token from its logits [vocabulary]."""
        token = drawn(row, self._request.temperature, self._rng)
        if self._vocabulary.ends(token):
            self._end("eos")
            return
        self.last, self.n_tokens = token, self.n_tokens + 1
        self._add(self._decoder.decode(self._vocabulary.piece(token)))
        if not self.ended and self.n_tokens >= self._request.max_tokens:
            self._end("length")

    def _add(self, new: str) -> None:
        before = len(self.text)
        self.text += new
        starts = [self.text.find(stop, max(0, before - len(stop) + 1)) for stop in self._stops]
        if any(start >= 0 for start in starts):
            self.text = self.text[: min(start for start in starts if start >= 0)]
            self.ended = "stop"

    def _end(self, how: str) -> None:
        """What is left of a broken character becomes U+FFFD, which may complete a stop text."""
        self._add(self._decoder.decode(b"", True))
        self.ended = self.ended or how


def drawn(row: npt.NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    """The likeliest token at temperature 0; else one drawn from softmax(row / temperature), a Gumbel number for each token.

    The largest of row / temperature + Gumbel noise has that distribution (Gumbel 1954), and rounding in the row changes the choice only
    where the first two nearly tie; a number compared with the cumulated probabilities would meet a close limit far more often.
    """
    if temperature <= 0:
        return int(row.argmax())
    return int((row / temperature + rng.gumbel(size=len(row))).argmax())
