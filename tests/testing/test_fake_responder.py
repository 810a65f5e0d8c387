"""The responder with planted knowledge: what tests of benchmarks stand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cerebellum.domain import TensorType
from cerebellum.errors import EngineDied, EngineError, TextError
from cerebellum.llamacpp.generate.protocol import Continuation, Prompt
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.testing.fake_backend import AnswerFault, FakeResponder, Knowledge
from cerebellum.testing.fake_responder import text_of, tokens_of
from tests.templates import CHATML

QUESTIONS = {f"What is number {i:03}?": f"it is {i * 7}" for i in range(400)}
SETTINGS = Settings(n_ctx=256)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake") / "model.gguf", chat_template=CHATML)


def share_right(responder: FakeResponder) -> float:
    """By log-likelihoods, of two answers each."""
    requests = [
        Continuation(tokens_of(q), tokens_of(a)) for q, right in QUESTIONS.items() for a in (right, "no " + right)
    ]
    each = np.zeros(len(requests))
    for number, answer in responder.likelihoods(requests):
        each[number] = answer.total / len(requests[number].continuation)
    return float((each[::2] > each[1::2]).mean())


def test_accuracy_is_as_planted_and_falls_with_damage(model: Path, tmp_path: Path) -> None:
    """What is known is right; the unknown half is a coin's toss; a file of damaging types knows less."""
    backend = FakeBackend(
        {TensorType("blk.1.ffn_gate.weight", "Q2_K"): Effect(kld=0.5)}, knowledge=Knowledge(QUESTIONS, accuracy=0.9)
    )
    assert _protocol(backend)
    worse = tmp_path / "worse.gguf"
    backend.quantize(model, worse, "F16", [("blk.1.ffn_gate.weight", "Q2_K")])
    good, bad = backend.respond(model, SETTINGS), backend.respond(worse, SETTINGS)
    knows, still_knows = share_right(good), share_right(bad)
    assert knows == pytest.approx(0.9 + 0.1 / 2, abs=0.05)
    assert still_knows == pytest.approx(0.4 + 0.6 / 2, abs=0.08)
    assert good.n_answered == 2 * len(QUESTIONS)


def _protocol(backend: Backend) -> bool:
    return bool(backend.id)


def test_it_writes_what_it_knows(model: Path) -> None:
    """Until a stop text, the end, or the length; the beginning that doesn't fit is counted."""
    responder = FakeBackend(knowledge=Knowledge(QUESTIONS, accuracy=1.0)).respond(model, SETTINGS)
    asked = tokens_of(responder.render([{"role": "user", "content": "What is number 003?"}]))
    prompts = [
        Prompt(asked, max_tokens=20),
        Prompt(asked, ("is",), 20),
        Prompt(asked, (), 4),
        Prompt(tokens_of("x" * 300 + "What is number 001?"), max_tokens=20),
        Prompt(tokens_of("Who?"), max_tokens=20),
    ]
    found = [answer for _, answer in sorted(responder.write(prompts), key=lambda item: item[0])]
    assert [(w.text, w.ended, w.n_cut) for w in found] == [
        ("it is 21", "eos", 0),
        ("it ", "stop", 0),
        ("it i", "length", 0),
        ("it is 7", "eos", 300 + 19 + 20 - 256),
        ("nobody knows", "eos", 0),
    ]


def test_tokens_are_the_bytes() -> None:
    """Every text comes back; special tokens are read only where asked."""
    assert text_of(tokens_of("naïve <s> €")) == "naïve  €"
    assert text_of(tokens_of("naïve <s> €", parse=False)) == "naïve <s> €"
    assert tokens_of("<s>a</s>").tolist() == [1, 100, 2]


def test_planted_failures(model: Path, tmp_path: Path) -> None:
    """A refusal leaves it usable, a death doesn't; without a template there is nothing to render."""
    backend = FakeBackend(answer_faults=(AnswerFault("bad"), AnswerFault("fatal", dies=True)))
    responder = backend.respond(model, SETTINGS)
    with pytest.raises(EngineError, match="failed as planted"):
        list(responder.write([Prompt(tokens_of("a bad one"), max_tokens=9)]))
    assert len(list(responder.write([Prompt(tokens_of("fine"), max_tokens=9)]))) == 1
    for _ in range(2):
        with pytest.raises(EngineDied, match="died as planted"):
            list(responder.write([Prompt(tokens_of("fatal"), max_tokens=9)]))
    plain = backend.respond(write_fake_model(tmp_path / "plain.gguf"), SETTINGS)
    with pytest.raises(TextError, match="no chat template"):
        plain.render([{"role": "user", "content": "hello"}])
