"""A responder without llama.cpp: planted knowledge, planted failures. `testing.FakeBackend.respond` opens it.

A token is a byte, so every text can be tokenized and written back. An answer depends on the request's tokens, on the knowledge and on
how damaged the file is, and on nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cerebellum.domain import Model, Tokens
from cerebellum.errors import EngineDied, EngineError
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, Writing, WrittenText
from cerebellum.llamacpp.one_stream import OneStream
from cerebellum.text.chat import TEMPLATE, ChatTemplate

#: A byte's token is the byte and this; before it are BOS and EOS, spelled as in `_SPECIALS`.
FIRST_BYTE = 3
_SPECIALS = {b"<s>": 1, b"</s>": 2}


@dataclass(frozen=True, slots=True)
class Knowledge:
    """``answers``: a piece of a question's text → its right answer. A request's question is the known one that stands last in its context.

    A question is answered rightly if its own number in [0, 1), the same in every file, is below ``accuracy`` less ``loss`` for each
    nat of the file's planted divergence. ``wrong`` is written instead, and what is asked without being known.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    accuracy: float = 0.8
    loss: float = 1.0
    wrong: str = "nobody knows"

    def question(self, context: str) -> str | None:
        known = [(context.rfind(question), question) for question in self.answers if question in context]
        return max(known)[1] if known else None

    def is_right(self, question: str, damage: float, seed: int = 0) -> bool:
        return number(f"{seed} {question}") < self.accuracy - self.loss * damage


@dataclass(frozen=True, slots=True)
class AnswerFault:
    """Where a responder fails: at the first request whose context holds ``text``. ``dies``: for good, as after a native abort.

    ``nats``: it doesn't notice, and this is the log-likelihood it gives (a NaN, say).
    """

    text: str
    dies: bool = False
    nats: float | None = None


class FakeResponder:
    """See `cerebellum.llamacpp.generate.protocol.Responder`. ``n_answered`` counts the answers it gave: what resuming must save."""

    n_vocab = FIRST_BYTE + 256
    bos, eos = 1, 2
    warnings: tuple[str, ...] = ()

    def __init__(
        self, model: Model, n_ctx: int, damage: float, knowledge: Knowledge, faults: Sequence[AnswerFault] = ()
    ) -> None:
        self.n_ctx = n_ctx
        self.n_answered = 0
        self._model, self._damage, self._knowledge, self._faults = model, damage, knowledge, faults
        self._gone = ""
        self._closed = False
        self._turns = OneStream()

    @property
    def chat_template(self) -> str | None:
        return self._model.metadata.get(TEMPLATE)

    def tokenize(self, texts: Sequence[str], *, special: bool = False, parse: bool = True) -> list[Tokens]:
        self._check_open()
        return [
            tokens_of(text, parse) if not special else np.append(np.int32(1), tokens_of(text, parse)) for text in texts
        ]

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_begun: str = "") -> str:
        self._check_open()
        return ChatTemplate(self._model, "<s>", "</s>").prompt(messages, answer_begun)

    def likelihoods(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        self._check_open()
        with self._turns.stream("log-likelihoods"):
            yield from self._likelihoods(requests)

    def write(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText]]:
        self._check_open()
        with self._turns.stream("writing"):
            yield from self._writings(requests)

    def write_told(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText] | Writing]:
        """A word before each answer."""
        n_tokens = 0
        for number, answer in self.write(requests):
            n_tokens += answer.n_tokens
            yield Writing(n_tokens)
            yield number, answer

    def close(self) -> None:
        self._closed = True

    # -- truth -------------------------------------------------------------------------------------------------------

    def _likelihoods(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """Half a nat a token for what is believed to be the answer, 1 to 2 for anything else; backwards, as no order is promised."""
        for i in reversed(range(len(requests))):
            context, continuation = requests[i].context, requests[i].continuation
            n_cut = max(0, len(context) + len(continuation) - 1 - self.n_ctx)
            asked, answer = text_of(context[n_cut:]), text_of(continuation)
            self._meet(asked)
            believed = self._believes(asked, answer)
            each = 0.5 if believed else 1.0 + number(f"{asked}\n{answer}")
            odd = next((f.nats for f in self._faults if f.nats is not None and f.text in asked), None)
            yield i, Likelihood(-each * len(continuation) if odd is None else odd, believed, n_cut)

    def _writings(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText]]:
        for i in reversed(range(len(requests))):
            request = requests[i]
            n_cut = max(0, len(request.tokens) + request.max_tokens - self.n_ctx)
            asked = text_of(request.tokens[n_cut:])
            self._meet(asked)
            yield i, _written(self._reply(asked, request), request, n_cut)

    def _believes(self, asked: str, answer: str) -> bool:
        question = self._knowledge.question(asked)
        if question is None or not self._knowledge.is_right(question, self._damage):
            return False
        return answer.strip() == self._knowledge.answers[question].strip()

    def _reply(self, asked: str, request: Prompt) -> str:
        question = self._knowledge.question(asked)
        seed = request.seed if request.temperature else 0
        if question is None or not self._knowledge.is_right(question, self._damage, seed):
            return self._knowledge.wrong
        return self._knowledge.answers[question]

    # -- failures ----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"{self._model.path.name}: the responder is closed")
        if self._gone:
            raise EngineDied(f"{self._model.path.name}: the responder {self._gone}")
        self._turns.check(self._model.path.name)

    def _meet(self, asked: str) -> None:
        if fault := next((f for f in self._faults if f.nats is None and f.text in asked), None):
            if fault.dies:
                self._gone = "died as planted"
                raise EngineDied(f"{self._model.path.name}: died as planted")
            raise EngineError(f"{self._model.path.name}: failed as planted")
        self.n_answered += 1


def _written(reply: str, request: Prompt, n_cut: int) -> WrittenText:
    data = reply.encode()
    text = data[: request.max_tokens].decode(errors="replace")
    places = [text.find(stop) for stop in request.stop if stop and stop in text]
    ended = "stop" if places else "length" if len(data) > request.max_tokens else "eos"
    return WrittenText(text[: min(places)] if places else text, min(len(data), request.max_tokens), ended, n_cut)


def number(what: str) -> float:
    """In [0, 1), the same for the same text."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:6], "big") / 2.0**48


def tokens_of(text: str, parse: bool = True) -> Tokens:
    """int32, a token a byte; ``parse`` reads the special ones."""
    parts = re.split(rb"(</?s>)", text.encode()) if parse else [text.encode()]
    ids = [
        [_SPECIALS[piece]] if parse and piece in _SPECIALS else [FIRST_BYTE + byte for byte in piece] for piece in parts
    ]
    return np.array([token for piece in ids for token in piece], np.int32)


def text_of(tokens: Tokens) -> str:
    """The bytes of ``tokens``; special ones are left out."""
    return bytes(int(token) - FIRST_BYTE for token in tokens if token >= FIRST_BYTE).decode(errors="replace")
