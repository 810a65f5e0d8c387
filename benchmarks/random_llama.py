"""Writes a llama-architecture GGUF of random F16 weights in any size: for timings, where only shapes matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np


@dataclass(frozen=True)
class Shape:
    """Width, blocks, width of the feed-forward layer, words of the vocabulary."""

    width: int
    blocks: int
    feed_forward: int
    vocabulary: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and numpy shapes; embedding and output share one matrix."""
        yield "token_embd.weight", (self.vocabulary, self.width)
        yield "output_norm.weight", (self.width,)
        square, up = (self.width, self.width), (self.feed_forward, self.width)
        for block in range(self.blocks):
            for name, shape in (
                *((norm, (self.width,)) for norm in ("attn_norm", "ffn_norm")),
                *((matrix, square) for matrix in ("attn_q", "attn_k", "attn_v", "attn_output")),
                *(("ffn_gate", up), ("ffn_up", up), ("ffn_down", up[::-1])),
            ):
                yield f"blk.{block}.{name}.weight", shape


def write(path: Path, shape: Shape, seed: int = 0) -> Path:
    """Write the file. Its tokens are ``t0``, ``t1``, …: it is fed token numbers, never text."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.blocks)
    writer.add_context_length(2048)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.width // 64)
    writer.add_head_count_kv(shape.width // 64)
    writer.add_rope_dimension_count(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    _add_tokenizer(writer, shape.vocabulary)
    for name, dims in shape.tensors():
        writer.add_tensor(name, _values(dims, rng))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(dims: tuple[int, ...], rng: np.random.Generator) -> Any:
    if len(dims) == 1:
        return np.ones(dims, np.float32)
    return (rng.standard_normal(dims, np.float32) * np.float32(0.04)).astype(np.float16)


def _add_tokenizer(writer: Any, vocabulary: int) -> None:
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_vocab_size(vocabulary)
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(3, vocabulary))])
    writer.add_token_scores([-float(number) for number in range(vocabulary)])
    writer.add_token_types([int(kinds.UNKNOWN), *[int(kinds.CONTROL)] * 2, *[int(kinds.NORMAL)] * (vocabulary - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
