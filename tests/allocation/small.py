"""A small allocation on the fake backend, a second or two long: two blocks of three roles, few chunks, a planted slope a tensor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import TYPES
from cerebellum.progress import Silent
from cerebellum.results.allocation import Allocation
from cerebellum.testing import Effect, FakeBackend, write_fake_model

KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
ROLES = ("attn_v", "ffn_up", "ffn_down")


def write_model(folder: Path, n_blocks: int = 2) -> Path:
    """The model, and ``text.txt`` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    return write_fake_model(folder / "model.gguf", n_blocks, roles=ROLES)


def slopes(path: Path) -> dict[str, float]:
    """Planted, from one tensor to the next up to a hundredfold."""
    names = [t.name for t in quantizable_tensors(read_model(path))]
    return dict(zip(names, 1e-3 * np.random.default_rng(3).lognormal(sigma=1.2, size=len(names)), strict=True))


def effects(path: Path, kinds: Iterable[str] = KINDS) -> dict[TensorType, Effect]:
    """Slope times weight error, as `FakeBackend.weight_errors` has it."""
    model, found = read_model(path), {}
    for name, slope in slopes(path).items():
        tensor = model.tensor(name)
        assert tensor is not None
        for kind in kinds:
            found[TensorType(name, kind)] = Effect(kld=slope * tensor.n_elements * 4.0 ** -TYPES[kind].bits_per_weight)
    return found


def options(path: Path, **more: Any) -> dict[str, Any]:
    """Options of a small allocation."""
    given = {"text": path.parent / "text.txt", "ctx": 64, "chunks": 8, "like": "Q3_K_M", "types": ",".join(KINDS)}
    return {"out": path.parent / "out", "n_shuffled": 2, "refine": False, **given, **more}


def allocate(path: Path, backend: FakeBackend | None = None, **more: Any) -> Allocation:
    """The allocation."""
    return api.allocate(path, backend=backend or FakeBackend(effects(path)), **options(path, **more))


class Stopped(Silent):
    """Ends the run as Ctrl-C does, after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, what: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
