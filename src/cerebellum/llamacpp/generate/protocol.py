"""The second seam around llama.cpp: a model that is asked, not measured. What benchmarks need of it, and nothing more.

A **Responder** is one opened model that gives log-likelihoods of continuations and writes text. Whoever implements it promises:

* *alone*: an answer does not depend on the requests beside it, within what another batch shape does to a sum (the noise floor);
* *whole*: nothing is cut silently; what does not fit the context is answered with a mark that says so;
* *closed*: logits stay inside; sums and texts come out, one by one, as they are known, with the number of their request;
* *one stream at a time*: as an engine's (`cerebellum.llamacpp.protocol`).

Log-likelihoods are natural logarithms (nats), summed over the continuation's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cerebellum.domain import ByValue, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Continuation(ByValue):
    """How likely is ``continuation`` (int32 [m ≥ 1]) after ``context`` (int32 [n ≥ 1], BOS included where it is wanted)?"""

    context: Tokens
    continuation: Tokens


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Σ log p of the continuation's tokens, nats; ``greedy``: each of them was the likeliest. ``n_cut`` tokens of the context's
    beginning did not fit and were left out."""

    total: float
    greedy: bool
    n_cut: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Prompt(ByValue):
    """Write on after ``tokens`` (int32 [n ≥ 1]) until a stop text, an end-of-generation token or ``max_tokens``.

    ``temperature`` 0 is greedy; else tokens are drawn from the softmax at that temperature with a generator seeded by ``seed``.
    """

    tokens: Tokens
    stop: tuple[str, ...] = ()
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WrittenText:
    """What was written, without the stop text; ``ended`` is "stop", "eos" or "length". ``n_cut`` tokens of the prompt's beginning were
    left out."""

    text: str
    n_tokens: int
    ended: str
    n_cut: int = 0


@dataclass(frozen=True, slots=True)
class Writing:
    """No answer yet: ``n_tokens`` were written by now, by all prompts of the call together."""

    n_tokens: int


@dataclass(frozen=True, slots=True)
class ResponderFacts:
    """What is known of a responder as soon as it is open; see its properties of the same names."""

    n_vocab: int
    n_ctx: int
    bos: int | None
    eos: int
    chat_template: str | None
    warnings: tuple[str, ...] = ()


class Responder(Protocol):
    """One opened model."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def n_ctx(self) -> int:
        """Tokens that are read at a time: a context and its continuation without the last token, which is only predicted; a prompt
        and its ``max_tokens``. What is longer loses the beginning of its context or prompt."""
        ...

    @property
    def bos(self) -> int | None:
        """BOS where the vocabulary wants a text to begin with it, else None."""
        ...

    @property
    def eos(self) -> int: ...

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template, or None."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `cerebellum.llamacpp.protocol.Engine.warnings`."""
        ...

    def tokenize(self, texts: Sequence[str], *, special: bool = False, parse: bool = True) -> list[Tokens]:
        """int32 tokens of each text; ``special`` adds BOS/EOS where the vocabulary wants them, ``parse`` reads special tokens."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_begun: str = "") -> str:
        """The conversation in the model's own chat template, ready for the assistant's next turn, whose first words can be given.

        It holds the template's own BOS: tokenize it without ``special``. Raises `TextError` without a template, or where it refuses.
        """
        ...

    def likelihoods(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """(number of the request, answer), as they are known, in an order of the responder's own. Raises `EngineError`."""
        ...

    def write(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText]]:
        """(number of the request, answer), as they are known. Raises `EngineError`, also where ``max_tokens`` leaves a prompt no room."""
        ...

    def write_told(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText] | Writing]:
        """As `write`, with a `Writing` now and then between the answers."""
        ...

    def close(self) -> None: ...
