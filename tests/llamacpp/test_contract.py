"""The contract of `cerebellum.llamacpp.protocol.Engine`, on the real engine: the same tests as on the fake."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cerebellum.errors import EngineError
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Settings, Sources
from tests.contract import ONE, EngineContract, Opened
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine


class Shared:
    """One engine for many tests: opened anew where a test has closed it."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.engine = self.open()

    def open(self) -> EngineProcess:
        return LlamaBackend().open(self.model, Settings(n_ctx=64, n_threads=1), Sources(self.model))

    def living(self) -> EngineProcess:
        try:
            self.engine.reopen()
        except EngineError:
            self.engine = self.open()
        return self.engine


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = Shared(tiny.llama(tmp_path_factory.mktemp("contract") / "model.gguf"))
    yield shared
    shared.engine.close()


class TestRealEngine(EngineContract):
    """llama.cpp in a process of its own."""

    @pytest.fixture
    def opened(self, shared: Shared) -> Opened:
        return Opened(shared.living(), tiny.text(), 64)

    def kill(self, opened: Opened) -> None:
        assert isinstance(opened.engine, EngineProcess)
        os.kill(opened.engine.pid, signal.SIGKILL)

    def test_a_stream_closed_early_ends_no_process(self, opened: Opened) -> None:
        """The worker lives on, and stops computing for nobody: what the next call waits for is one chunk at most."""
        engine = opened.engine
        assert isinstance(engine, EngineProcess)
        pid, chunks = engine.pid, opened.chunks(2)
        long = engine.score(ONE, chunks * 100_000)
        next(long)
        del long
        assert len(list(engine.score((), chunks))) == 2 and engine.pid == pid
