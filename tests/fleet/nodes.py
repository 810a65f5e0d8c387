"""A fake backend whose build, last bits and speed are what the environment of its node says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cerebellum.domain import TensorType
from cerebellum.llamacpp.protocol import Settings, Sources, SweepEvent
from cerebellum.testing import Effect, FakeBackend, FakeEngine

EFFECTS = {TensorType(f"blk.{i}.ffn_gate.weight", "Q2_K"): Effect(nll=0.01, kld=0.01 * i) for i in range(8)}


class SlowEngine(FakeEngine):
    """Takes FAKE_SECONDS for a chunk."""

    def sweep(self, trials: Any, chunks: Any, *, reference: Any = None, settings: Any = None) -> Iterator[SweepEvent]:
        for event in super().sweep(trials, chunks, reference=reference, settings=settings):
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
            yield event


class NodeBackend(FakeBackend):
    """FAKE_BUILD names the build, FAKE_ROUNDING is another processor."""

    def __init__(self) -> None:
        super().__init__(
            EFFECTS, id=os.environ.get("FAKE_BUILD", "fake 1"), rounding=int(os.environ.get("FAKE_ROUNDING", "0"))
        )

    def __reduce__(self) -> tuple[type[NodeBackend], tuple[()]]:
        return NodeBackend, ()

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        engine = super().open(model, settings, sources)
        engine.__class__ = SlowEngine
        return engine
