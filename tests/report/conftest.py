"""Finished jobs on the fake backend, once for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.llamacpp.protocol import SpeedUse
from cerebellum.report.page import vega
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from tests.allocation.test_allocation import BLOCKS, allocate, planted

available = vega.is_available
#: Files that are compared, and how far each type of one tensor is from the reference.
PLANTED = {"Q8_0": 0.001, "Q4_K": 0.03, "Q3_K": 0.5, "Q2_K": 0.3}
FILES = ("Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K")
BACKEND = FakeBackend({TensorType("blk.0.ffn_gate.weight", k): Effect(0.9 * v, kld=v) for k, v in PLANTED.items()})


@contextmanager
def with_charts() -> Iterator[None]:
    """Charts as users have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vega, "is_available", available)
        yield


@pytest.fixture(scope="module", autouse=True)
def charts(plain_pages: None) -> Iterator[None]:
    """For one file of tests at a time: pages of other tests stay plain."""
    with with_charts():
        yield


@pytest.fixture(scope="session")
@with_charts()
def ground(plain_pages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``out`` (an allocation), ``sweep`` and ``ladder``."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    model = write_fake_model(folder / "model-F16.gguf", BLOCKS)
    allocate(model, n_shuffled=3, refine=False)
    options: dict[str, Any] = {"text": folder / "text.txt", "ctx": 64, "backend": planted(model)}
    api.ladder(model, "Q4_K_M,Q2_K", out=folder / "ladder", n_shuffled=2, refine=False, **options)
    api.choose(
        model, out=folder / "sweep", policy="greedy", role="ffn_down,ffn_up", to="Q2_K,Q3_K", base="Q4_K_M", allow=0.5, **options
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
@with_charts()
def made(plain_pages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``compared`` and ``swept``."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 20)))
    reference = write_fake_model(folder / "world-F16.gguf")
    models = [folder / f"world-{kind}.gguf" for kind in FILES]
    for kind, model in zip(FILES, models, strict=True):
        BACKEND.quantize(reference, model, kind)
    options: dict[str, Any] = {"text": folder / "text.txt", "ctx": 64, "backend": BACKEND}
    api.compare(
        models, reference=reference, out=folder / "compared", speed=SpeedUse(8, 4, 2),
        command=("cerebellum", "compare", "a file.gguf"), **options,
    )  # fmt: skip
    api.sweep(reference, out=folder / "swept", role="ffn_gate,ffn_down", to="Q2_K,Q3_K", base="Q4_K_M", **options)
    return folder
