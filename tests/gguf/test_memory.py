"""Memory by context, against figures worked out by hand from published shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerebellum.domain import Model, Tensor
from cerebellum.errors import InputError
from cerebellum.gguf.memory import (
    ContextUse,
    cache_bytes,
    compute_bytes,
    device_layers,
    file_bytes_for,
    footprint,
    largest_context,
)

MIB = 1 << 20
LLAMA = {
    "embedding_length": 4096,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "attention.key_length": 128,
    "attention.value_length": 128,
    "feed_forward_length": 14336,
}


def model_of(
    architecture: str, n_blocks: int, values: dict[str, Any], *, tied: bool = False, vocab: int = 128256
) -> Model:
    """A model of F16 tensors: an embedding, an output, one matrix a block."""
    width = values["embedding_length"]
    tensors = [Tensor("token_embd.weight", (width, vocab), "F16"), Tensor("output_norm.weight", (width,), "F32")]
    tensors += [] if tied else [Tensor("output.weight", (width, vocab), "F16")]
    tensors += [Tensor(f"blk.{i}.attn_q.weight", (width, width), "F16") for i in range(n_blocks)]
    metadata = {f"{architecture}.{key}": value for key, value in values.items()}
    n_bytes = sum(t.n_bytes for t in tensors)
    return Model(Path("m.gguf"), architecture, "", n_blocks, None, 131072, tuple(tensors), n_bytes + 1000, metadata)


def test_keys_and_values_of_llama_3() -> None:
    """32 layers of 8 heads of 128 numbers: 128 KiB a token as F16, of 34 bytes a 32 numbers as Q8_0."""
    model = model_of("llama", 32, LLAMA)
    assert cache_bytes(model, ContextUse(8192)) == 8192 * 128 * 1024
    assert cache_bytes(model, ContextUse(8192, "Q8_0", "Q8_0")) == 8192 * 128 * 1024 * 34 // 64
    assert cache_bytes(model, ContextUse(8192, "Q8_0", "F16")) == 8192 * 64 * 1024 * (34 / 64 + 1)


def test_cells_are_a_multiple_of_256() -> None:
    model = model_of("llama", 32, LLAMA)
    assert cache_bytes(model, ContextUse(8000)) == cache_bytes(model, ContextUse(8192))
    assert cache_bytes(model, ContextUse(8193)) == cache_bytes(model, ContextUse(8448))


GEMMA3 = {
    "embedding_length": 2560,
    "attention.head_count": 8,
    "attention.head_count_kv": 4,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "feed_forward_length": 10240,
    "attention.sliding_window": 1024,
}


def test_windows_of_gemma_3() -> None:
    """Of 34 layers every sixth sees all; the 29 others need the window and one batch: 1536 cells. Llama.cpp prints 640 and 174 MiB."""
    model = model_of("gemma3", 34, GEMMA3, tied=True)
    assert cache_bytes(model, ContextUse(32768)) == (640 + 174) * MIB
    assert cache_bytes(model, ContextUse(512)) == 34 * 512 * 2 * 2 * 1024  # no window is longer than the context


def test_a_window_without_a_pattern_is_ignored() -> None:
    """Llama.cpp gives Mistral's or Qwen's window no effect."""
    plain = model_of("llama", 32, LLAMA)
    windowed = model_of("llama", 32, LLAMA | {"attention.sliding_window": 1024})
    assert cache_bytes(plain, ContextUse(32768)) == cache_bytes(windowed, ContextUse(32768))


def gemma4() -> Model:
    """Gemma 4 E2B: 35 layers, every fifth sees all, the last 20 share earlier keys and values."""
    pattern = tuple(i % 5 != 4 for i in range(35))
    values = {
        "embedding_length": 1536, "attention.head_count": 8, "attention.head_count_kv": (1,) * 35, "attention.key_length": 512,
        "attention.value_length": 512, "attention.key_length_swa": 256, "attention.value_length_swa": 256,
        "attention.sliding_window": 512, "attention.sliding_window_pattern": pattern, "attention.shared_kv_layers": 20,
        "feed_forward_length": (6144,) * 15 + (12288,) * 20, "embedding_length_per_layer_input": 256,
    }  # fmt: skip
    return model_of("gemma4", 35, values, tied=True, vocab=262144)


def test_shared_layers_of_gemma_4() -> None:
    """Llama.cpp prints 192 MiB for the 3 layers that see all and 12 MiB for 12 windows; without flash attention values are 512 wide."""
    assert cache_bytes(gemma4(), ContextUse(32768)) == (192 + 12) * MIB
    assert cache_bytes(gemma4(), ContextUse(32768, flash_attention=False)) == (192 + 18) * MIB


def test_recurrent_layers() -> None:
    """Mamba 2.8B: 23.75 MiB whatever the context; LFM2's convolutions beside six layers of attention."""
    mamba = {
        "embedding_length": 2560, "attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0,
        "ssm.conv_kernel": 4, "ssm.inner_size": 5120, "ssm.state_size": 16, "ssm.time_step_rank": 160,
    }  # fmt: skip
    assert cache_bytes(model_of("mamba", 64, mamba, tied=True), ContextUse(4096)) == int(23.75 * MIB)
    assert cache_bytes(model_of("mamba", 64, mamba, tied=True), ContextUse(1 << 20)) == int(23.75 * MIB)
    heads = tuple(8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16))
    lfm2 = {
        "embedding_length": 2048, "attention.head_count": 32, "attention.head_count_kv": heads, "feed_forward_length": 8192,
        "shortconv.l_cache": 3,
    }  # fmt: skip
    assert cache_bytes(model_of("lfm2", 16, lfm2), ContextUse(4096)) == 48 * MIB + 10 * 2048 * 2 * 4


def test_latent_attention_caches_keys_alone() -> None:
    """DeepSeek V3: 576 numbers a layer and token."""
    values = {
        "embedding_length": 7168, "attention.head_count": 128, "attention.head_count_kv": 1, "attention.key_length": 576,
        "attention.value_length": 512, "attention.key_length_mla": 192, "attention.value_length_mla": 128, "feed_forward_length": 18432,
    }  # fmt: skip
    assert cache_bytes(model_of("deepseek2", 61, values), ContextUse(4096)) == 61 * 4096 * 576 * 2


def test_compute_buffer_is_the_logits_or_the_scores() -> None:
    """Llama 3 8B at 32,768 tokens: 266.5 MiB with flash attention, 2,156 without, as llama.cpp prints."""
    model = model_of("llama", 32, LLAMA)
    assert compute_bytes(model, ContextUse(32768)) == 266.5 * MIB
    assert compute_bytes(model, ContextUse(32768, flash_attention=False)) == 2156 * MIB
    assert compute_bytes(model, ContextUse(32768, n_ubatch=256)) == 266.5 / 2 * MIB


def test_layers_are_shared_between_device_and_host() -> None:
    model = model_of("llama", 32, LLAMA)
    embedding, block = 4096 * 128256 * 2, 4096 * 4096 * 2
    whole, half, none = (footprint(model, ContextUse(4096, n_gpu_layers=n)) for n in (-1, 16, 0))
    assert (
        whole.device.weights == 32 * block + embedding + 4096 * 4
    )  # the output and its norm; the embedding is looked up in
    assert whole.host.weights == embedding and whole.host.cache == 0
    assert half.device.weights == 15 * block and half.host.weights == 17 * block + 2 * embedding + 4096 * 4
    assert half.device.cache == 15 * 4096 * 4096 and half.host.cache == 17 * 4096 * 4096
    assert none.device.total == 0 and none.host.weights == model.tensor_bytes
    assert device_layers(model, 99) == device_layers(model, -1) == 33


def test_a_tied_embedding_is_in_both() -> None:
    model = model_of("llama", 32, LLAMA, tied=True)
    parts = footprint(model, ContextUse(4096))
    assert parts.device.weights == model.tensor_bytes
    assert parts.host.weights == 4096 * 128256 * 2


@pytest.mark.parametrize("gib", [6, 8, 12])
def test_the_largest_context_fits_and_the_next_does_not(gib: int) -> None:
    model, use = model_of("llama", 32, LLAMA), ContextUse(0)
    largest = largest_context(model, gib << 30, use, 131072)
    assert largest % 256 == 0 and 0 < largest < 131072
    assert footprint(model, replace(use, n_ctx=largest)).device.total <= gib << 30
    assert footprint(model, replace(use, n_ctx=largest + 256)).device.total > gib << 30
    assert largest_context(model, 1 << 20, use, 131072) == 0
    assert largest_context(model, 1 << 50, use, 131072) == 131072


def test_a_file_of_the_size_for_a_device_fits_it() -> None:
    """A tied model is whole on the device: its file is what is left beside cache and buffers."""
    model, use = model_of("llama", 32, LLAMA, tied=True), ContextUse(8192)
    size = file_bytes_for(model, 4 << 30, use)
    parts = footprint(model, use).device
    assert size - 1000 + parts.total - parts.weights == 4 << 30
    with pytest.raises(InputError, match="--fit-ctx"):
        file_bytes_for(model, 1 << 30, use)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (ContextUse(4096, "Q4_K"), "can't be cached as Q4_K"),
        (ContextUse(4096, "F16", "Q8_0", flash_attention=False), "flash attention"),
        (ContextUse(0), "larger one"),
    ],
)
def test_what_llama_cpp_refuses_is_refused(use: ContextUse, message: str) -> None:
    with pytest.raises(InputError, match=message):
        footprint(model_of("llama", 32, LLAMA), use)


def test_a_head_that_no_block_divides_is_refused() -> None:
    with pytest.raises(InputError, match="heads of 16"):
        footprint(model_of("llama", 2, LLAMA | {"attention.key_length": 16}), ContextUse(4096, "Q8_0", "Q8_0"))


def test_more_blocks_than_any_program_opens_are_refused_at_once() -> None:
    """A header of a few bytes can say a thousand million."""
    model = replace(model_of("llama", 2, LLAMA), n_blocks=10**9)
    with pytest.raises(InputError, match="says that it has 1,000,000,000 blocks"):
        footprint(model, ContextUse(4096))
