"""Memory by context against llama.cpp's own figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cerebellum import bundled
from cerebellum.errors import EngineError
from cerebellum.gguf.memory import ContextUse, footprint
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.process import LlamaBackend
from tests.llamacpp import tiny

#: Llama.cpp prints hundredths of a MiB, twice a cache and once a buffer.
ROUNDING = 2 * (1 << 20) // 100

USES = (ContextUse(32768, n_gpu_layers=0), ContextUse(8192, flash_attention=False, n_gpu_layers=0))


def compare(path: Path, use: ContextUse) -> None:
    """The cache to llama.cpp's rounding, all within 3 %."""
    said, ours = LlamaBackend().memory(path, use), footprint(read_model(path), use).host
    assert abs(ours.cache - said.cache) <= ROUNDING
    theirs = ours.weights + said.cache + said.output + said.device_compute
    assert abs(ours.total - theirs) <= 0.03 * theirs


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "make", [tiny.llama, tiny.experts, tiny.shared_experts, tiny.qwen3, tiny.gemma3, tiny.gemma4, tiny.mamba]
)
def test_architectures(tmp_path: Path, make: Callable[[Path], Path], use: ContextUse) -> None:
    compare(make(tmp_path / "model.gguf"), use)


@pytest.mark.parametrize("use", [*USES, ContextUse(2048, "Q8_0", "Q8_0", n_gpu_layers=0)])
def test_the_bundled_model(use: ContextUse) -> None:
    compare(bundled.MODEL, use)


def test_weights_as_loaded() -> None:
    """What `footprint` says of the weights is what the file holds."""
    model = read_model(bundled.MODEL)
    assert footprint(model, ContextUse(512, n_gpu_layers=0)).host.weights == model.tensor_bytes


def test_a_log_without_figures_is_an_error() -> None:
    from cerebellum.llamacpp.memory import read_log

    with pytest.raises(EngineError, match="pinned"):
        read_log(["nothing of interest"])
