"""Shapes of the generated models: which tensors a model of given sizes has, and what llama.cpp must be told of it.

Shapes are in llama.cpp's row-major reading: (rows, row length). A tensor of one dimension is a norm or a factor and stays F32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TensorShape = tuple[int, ...]
Named = tuple[str, TensorShape]

#: Share of a full-attention head's dimensions that turn, and the wavelength factor of those that don't (gemma4).
ROTATED_SHARE, FOREVER = 0.25, 1e30
ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True, slots=True)
class Llama:
    """A plain `llama`: one head width, an output matrix of its own. Every row is a multiple of 256 where width and feed_forward are."""

    blocks: int
    width: int
    feed_forward: int
    vocabulary: int
    heads: int
    kv_heads: int
    context: int = 2048

    architecture = "llama"
    stored_as = "F16"

    @property
    def head(self) -> int:
        return self.width // self.heads

    def tensors(self) -> Iterator[Named]:
        """Name and shape of every tensor, in the file's order."""
        yield "token_embd.weight", (self.vocabulary, self.width)
        yield "output_norm.weight", (self.width,)
        yield "output.weight", (self.vocabulary, self.width)
        for block in range(self.blocks):
            for name, shape in self._block():
                yield f"blk.{block}.{name}.weight", shape

    def _block(self) -> Iterator[Named]:
        width, keys, wide = self.width, self.kv_heads * self.head, self.feed_forward
        yield from (("attn_norm", (width,)), ("ffn_norm", (width,)))
        yield from (("attn_q", (width, width)), ("attn_k", (keys, width)), ("attn_v", (keys, width)))
        yield "attn_output", (width, width)
        yield from (("ffn_gate", (wide, width)), ("ffn_up", (wide, width)), ("ffn_down", (width, wide)))

    def describe(self, writer: Any) -> None:
        """Tell llama.cpp the sizes."""
        writer.add_block_count(self.blocks)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.width)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_rope_dimension_count(self.head)
        writer.add_layer_norm_rms_eps(1e-5)


@dataclass(frozen=True, slots=True)
class Gemma4:
    """A dense `gemma4` with per-layer inputs. ``shared``: the last blocks, which read earlier keys and values and are twice as wide.

    One key/value head; every ``period``-th block attends to everything, the others to a sliding ``window``. The output matrix is
    the embedding.
    """

    blocks: int
    shared: int
    width: int
    feed_forward: int
    vocabulary: int
    heads: int
    head: int
    head_full: int
    per_layer: int
    window: int
    period: int
    context: int = 131072

    architecture = "gemma4"
    stored_as = "BF16"

    def is_sliding(self, block: int) -> bool:
        return block % self.period != self.period - 1

    def has_keys(self, block: int) -> bool:
        return block < self.blocks - self.shared

    def feed_forward_of(self, block: int) -> int:
        return self.feed_forward if self.has_keys(block) else 2 * self.feed_forward

    def tensors(self) -> Iterator[Named]:
        """Name and shape of every tensor, in the file's order."""
        yield "token_embd.weight", (self.vocabulary, self.width)
        yield "per_layer_token_embd.weight", (self.vocabulary, self.blocks * self.per_layer)
        yield "per_layer_model_proj.weight", (self.blocks * self.per_layer, self.width)
        yield "per_layer_proj_norm.weight", (self.per_layer,)
        yield "output_norm.weight", (self.width,)
        yield ROPE_FREQS, (self.head_full // 2,)
        for block in range(self.blocks):
            for name, shape in self._block(block):
                yield f"blk.{block}.{name}.weight", shape

    def _block(self, block: int) -> Iterator[Named]:
        width, wide = self.width, self.feed_forward_of(block)
        head = self.head if self.is_sliding(block) else self.head_full
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm"):
            yield norm, (width,)
        yield from (("attn_q", (self.heads * head, width)), ("attn_q_norm", (head,)))
        if self.has_keys(block):
            yield from (("attn_k", (head, width)), ("attn_v", (head, width)), ("attn_k_norm", (head,)))
        yield "attn_output", (width, self.heads * head)
        yield from (("ffn_gate", (wide, width)), ("ffn_up", (wide, width)), ("ffn_down", (width, wide)))
        yield from (("inp_gate", (self.per_layer, width)), ("proj", (width, self.per_layer)))
        yield "layer_output_scale", (1,)

    def describe(self, writer: Any) -> None:
        """Tell llama.cpp the sizes."""
        each = range(self.blocks)
        writer.add_block_count(self.blocks)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.width)
        writer.add_feed_forward_length([self.feed_forward_of(block) for block in each])
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(1)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_sliding_window(self.window)
        writer.add_sliding_window_pattern([self.is_sliding(block) for block in each])
        writer.add_shared_kv_layers(self.shared)
        writer.add_embedding_length_per_layer_input(self.per_layer)
        writer.add_final_logit_softcapping(30.0)
        writer.add_rope_freq_base(1e6)
        writer.add_rope_freq_base_swa(1e4)
        for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
            add(self.head_full)
        for add in (writer.add_key_length_swa, writer.add_value_length_swa, writer.add_rope_dimension_count_swa):
            add(self.head)


Shape = Llama | Gemma4

#: 134 million weights; rows of 768 and 2048, so that no type falls back to another.
MEDIUM = Llama(blocks=12, width=768, feed_forward=2048, vocabulary=32_000, heads=12, kv_heads=12)

#: Gemma 4 E2B's text part as published (google/gemma-4-E2B, config.json): 4.6 billion weights, of them 2.3 in the per-layer embedding.
E2B = Gemma4(
    blocks=35, shared=20, width=1536, feed_forward=6144, vocabulary=262_144, heads=8, head=256, head_full=512, per_layer=256, window=512,
    period=5,
)  # fmt: skip


def small(blocks: int = 4, vocabulary: int = 1024, width: int = 256) -> Llama:
    """A llama to grow: feed-forward twice the width, heads of 64."""
    heads = width // 64
    return Llama(blocks, width, 2 * width, vocabulary, heads, max(1, heads // 2))


def n_weights(shape: Shape) -> int:
    """Weights of all tensors together."""
    return sum(int(np.prod(size)) for _, size in shape.tensors())


def rope_factors(shape: Gemma4) -> npt.NDArray[np.float32]:
    """float32 [head_full / 2]: 1 for a pair of dimensions that turns, `FOREVER` for one that doesn't (full attention only)."""
    pairs = shape.head_full // 2
    turning = int(ROTATED_SHARE * pairs)
    return np.array([1.0] * turning + [FOREVER] * (pairs - turning), np.float32)
