"""Finished jobs on the fake backend, once for all tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.report.page import vega
from cerebellum.testing import write_fake_model
from tests.allocation.test_allocation import BLOCKS, allocate, planted

available = vega.is_available


@pytest.fixture(scope="package", autouse=True)
def charts(plain_pages: None) -> Iterator[None]:
    """Charts as users have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vega, "is_available", available)
        yield


@pytest.fixture(scope="package")
def ground(charts: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
