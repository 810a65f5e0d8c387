"""A model without llama.cpp that answers benchmarks: its tokens are characters, its preferences are planted."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum.domain import Tokens
from cerebellum.errors import EngineDied
from cerebellum.evals.items import Item, Likely
from cerebellum.llamacpp.generate.protocol import Continuation, Likelihood, Prompt, Writing, WrittenText
from cerebellum.llamacpp.protocol import Settings
from cerebellum.testing import FakeBackend

BOS, EOS, MERGE = 1, 2, 3
FIRST = 4
#: WrittenText as one token where merging is on: a tokenizer whose tokens reach over the end of a prompt.
MERGED = ": "


def nats_of(context: str, continuation: str) -> float:
    """A sum over characters that depends on all that stands before each: between -0.1 and -5 nats a character."""
    text, total = context, 0.0
    for character in continuation:
        total -= 0.1 + 4.9 * zlib.crc32((text + character).encode()) / 2**32
        text += character
    return total


@dataclass
class Toy:
    """See `Responder` of `cerebellum.llamacpp.generate.protocol`. ``n_answered`` counts what was computed; after ``dies_after`` it dies."""

    nats: Callable[[str, str], float] = nats_of
    reply: Callable[[str], str] = lambda prompt: ""
    n_ctx: int = 4096
    bos: int | None = BOS
    merges: bool = False
    dies_after: int | None = None
    n_answered: int = 0
    asked: list[Continuation | Prompt] = field(default_factory=list)
    batches: list[list[tuple[int, ...]]] = field(default_factory=list)
    n_vocab: int = 70_000
    warnings: tuple[str, ...] = ()

    eos = EOS

    @property
    def chat_template(self) -> str:
        return "the toy's"

    def tokenize(self, texts: Sequence[str], *, special: bool = False, parse: bool = True) -> list[Tokens]:
        return [self._tokens(text, parse) for text in texts]

    def _tokens(self, text: str, parse: bool) -> Tokens:
        out: list[int] = [BOS] if parse and text.startswith("<s>") else []
        text = text.removeprefix("<s>") if out else text
        while text:
            if self.merges and text.startswith(MERGED):
                out, text = [*out, MERGE], text[len(MERGED) :]
            else:
                out, text = [*out, FIRST + ord(text[0])], text[1:]
        return np.array(out, np.int32)

    def text(self, tokens: Iterable[int]) -> str:
        return "".join(MERGED if t == MERGE else chr(t - FIRST) for t in map(int, tokens) if t not in (BOS, EOS))

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_begun: str = "") -> str:
        return "<s>" + "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]" + answer_begun

    def likelihoods(self, requests: Sequence[Continuation]) -> Iterator[tuple[int, Likelihood]]:
        """From the last request to the first: whoever asks must go by the number."""
        self.batches.append([tuple(r.context.tolist()) for r in requests])
        for number in reversed(range(len(requests))):
            request = requests[number]
            self._count(request)
            cut = max(0, len(request.context) + len(request.continuation) - self.n_ctx)
            total = self.nats(self.text(request.context[cut:]), self.text(request.continuation))
            yield number, Likelihood(total, total > -1.0, cut)

    def write(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText]]:
        for number, request in enumerate(requests):
            self._count(request)
            text, ended = self.reply(self.text(request.tokens)), "eos"
            ends = [text.index(stop) for stop in request.stop if stop in text]
            if ends:
                text, ended = text[: min(ends)], "stop"
            yield number, WrittenText(text, len(text), ended)

    def write_told(self, requests: Sequence[Prompt]) -> Iterator[tuple[int, WrittenText] | Writing]:
        yield from self.write(requests)

    def _count(self, request: Continuation | Prompt) -> None:
        if self.dies_after is not None and self.n_answered >= self.dies_after:
            raise EngineDied("the toy died as planted")
        self.n_answered += 1
        self.asked.append(request)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class ToyBackend(FakeBackend):
    """Files answer as planted: file name → its toy."""

    toys: Mapping[str, Toy] = field(default_factory=dict)

    def respond(self, model: Path, settings: Settings, n_ctx: int | None = None) -> Any:
        return self.toys[model.name]


def preferring(items: Sequence[Item], wrong: set[str]) -> Callable[[str, str], float]:
    """Log-likelihoods under which the key's option is the likeliest of each item, and the next one for items in ``wrong``."""
    liked = {}
    for item in items:
        request = item.requests[(item.about["gold"] + (item.id in wrong)) % len(item.requests)]
        assert isinstance(request, Likely)
        liked[request.context] = request.continuation
    return lambda context, continuation: (
        -0.01 if liked[context] == continuation else -30.0 - math.sqrt(len(continuation))
    )
