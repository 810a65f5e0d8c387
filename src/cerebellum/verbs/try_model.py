"""One prompt, answered by a model at once, and by another beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cerebellum.errors import EngineError
from cerebellum.figures import counted
from cerebellum.llamacpp.generate.protocol import Prompt, Responder
from cerebellum.llamacpp.protocol import Backend, Settings


@dataclass(frozen=True, slots=True)
class Answer:
    """What ``model`` wrote. ``ended`` is "stop", "eos" or "length"; ``seconds`` are of reading the prompt and writing."""

    model: str
    text: str
    n_prompt: int
    n_tokens: int
    ended: str
    seconds: float
    chat: bool
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Asking:
    """``raw``: the prompt as it is, without the chat template. ``temperature`` 0: the likeliest token each time."""

    prompt: str
    system: str | None = None
    raw: bool = False
    n_ctx: int = 4096
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


def try_models(backend: Backend, models: Sequence[Path], asking: Asking, settings: Settings) -> list[Answer]:
    """Each model's answer, one after the other. Raises `ModelFileError`, `TextError` or `EngineError`."""
    return [_answer(backend, model, asking, settings) for model in models]


def _answer(backend: Backend, model: Path, asking: Asking, settings: Settings) -> Answer:
    responder = backend.respond(model, settings, asking.n_ctx)
    try:
        chat = responder.chat_template is not None and not asking.raw
        text = responder.render(_messages(asking)) if chat else asking.prompt
        tokens = responder.tokenize([text], special=not chat)[0]
        if chat and responder.bos is not None and tokens[:1].tolist() != [responder.bos]:
            tokens = responder.tokenize([text], special=True)[0]
        room = min(asking.max_tokens, responder.n_ctx - len(tokens))
        if room < 1:
            raise EngineError(
                f"the prompt has {counted(len(tokens), 'token')} and the context {responder.n_ctx}: give a larger one (--ctx)"
            )
        request = Prompt(tokens, (), room, asking.temperature, asking.seed)
        return _written(responder, model, request, chat)
    finally:
        responder.close()


def _messages(asking: Asking) -> list[dict[str, str]]:
    before = [] if asking.system is None else [{"role": "system", "content": asking.system}]
    return [*before, {"role": "user", "content": asking.prompt}]


def _written(responder: Responder, model: Path, request: Prompt, chat: bool) -> Answer:
    started = time.monotonic()
    ((_, written),) = list(responder.write([request]))
    seconds = time.monotonic() - started
    return Answer(
        model.name,
        written.text,
        len(request.tokens),
        written.n_tokens,
        written.ended,
        seconds,
        chat,
        responder.warnings,
    )


def first_difference(first: str, second: str) -> int | None:
    """The number of words that two answers share at their beginning; None where they are equal."""
    if first == second:
        return None
    words, other = first.split(), second.split()
    return next((n for n, (a, b) in enumerate(zip(words, other, strict=False)) if a != b), min(len(words), len(other)))
