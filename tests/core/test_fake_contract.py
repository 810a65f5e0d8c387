"""The contract of `cerebellum.llamacpp.protocol.Engine`, on the fake: the same tests as on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cerebellum.domain import TensorType
from cerebellum.errors import EngineError
from cerebellum.llamacpp.generate.protocol import Continuation
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.testing import Effect, FakeBackend, FakeEngine, write_fake_model
from cerebellum.testing.fake_responder import tokens_of
from tests.contract import EngineContract, Opened

EFFECTS = {
    TensorType("blk.1.ffn_gate.weight", "Q2_K"): Effect(nll=-0.02, kld=0.01),
    TensorType("blk.2.ffn_down.weight", "Q2_K"): Effect(nll=0.05, kld=0.04),
}
TEXT = " ".join(f"word{i * i % 9973}" for i in range(400))


class TestFakeEngine(EngineContract):
    """No llama.cpp."""

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Opened]:
        source = write_fake_model(tmp_path / "model.gguf")
        engine = FakeBackend(EFFECTS).open(source, Settings(n_ctx=32), Sources(source))
        yield Opened(engine, TEXT, 32)
        engine.close()

    def kill(self, opened: Opened) -> None:
        assert isinstance(opened.engine, FakeEngine)
        opened.engine.die()


def test_a_responder_has_one_stream_too(tmp_path: Path) -> None:
    """A second one is refused, an early end changes nothing."""
    responder = FakeBackend().respond(write_fake_model(tmp_path / "model.gguf"), Settings(n_ctx=32))
    asked = [Continuation(tokens_of(f"question {i}"), tokens_of(" yes")) for i in range(3)]
    whole = list(responder.likelihoods(asked))
    first = responder.likelihoods(asked)
    assert next(first) == whole[0]
    with pytest.raises(EngineError, match="still answering"):
        responder.tokenize(["more"])
    with pytest.raises(EngineError, match="still answering"):
        next(responder.likelihoods(asked))
    del first
    assert list(responder.likelihoods(asked)) == whole
    responder.close()
    with pytest.raises(EngineError, match="is closed"):
        list(responder.likelihoods(asked))
