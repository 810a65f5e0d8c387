"""Memory by context: `cerebellum fit`'s figures and what llama.cpp says it would allocate, for models at hand and published shapes.

python -m benchmarks.memory_figures [MODEL.gguf ...]

A published shape is written as a GGUF without data (a sparse file): llama.cpp opens it without weights, so no memory is needed for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from benchmarks.running import show
from cerebellum import bundled
from cerebellum.errors import CerebellumError
from cerebellum.gguf.memory import ContextUse, footprint
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.process import LlamaBackend

MIB = 1 << 20
USES = (
    ContextUse(4096, n_gpu_layers=0),
    ContextUse(32768, n_gpu_layers=0),
    ContextUse(32768, n_gpu_layers=0, flash_attention=False),
    ContextUse(16384, "Q8_0", "Q8_0", n_gpu_layers=0),
)
#: Largest error of the sum that needs no explanation.
BAR = 0.03
Weights = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Shape:
    """A published model's numbers. ``windows``: (tokens, pattern of layers that have them); ``swa``: width of their heads."""

    architecture: str
    width: int
    blocks: int
    heads: int
    kv_heads: int | tuple[int, ...]
    head: int
    feed_forward: int | tuple[int, ...]
    vocabulary: int
    tied: bool = False
    norms: tuple[str, ...] = ()
    more: Mapping[str, Any] | None = None


SHAPES = {
    "Llama 3.1 8B": Shape("llama", 4096, 32, 32, 8, 128, 14336, 128256),
    "Qwen3 8B": Shape("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, norms=("attn_q_norm", "attn_k_norm")),
    "Gemma 3 4B": Shape(
        "gemma3", 2560, 34, 8, 4, 256, 10240, 262208, True,
        ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"), {"attention.sliding_window": 1024},
    ),
    "Gemma 4 E2B": Shape(
        "gemma4", 1536, 35, 8, (1,) * 35, 512, (6144,) * 15 + (12288,) * 20, 262144, True,
        ("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm", "post_norm"),
        {
            "attention.sliding_window": 512, "attention.sliding_window_pattern": [i % 5 != 4 for i in range(35)],
            "attention.key_length_swa": 256, "attention.value_length_swa": 256, "rope.dimension_count_swa": 256,
            "attention.shared_kv_layers": 20, "embedding_length_per_layer_input": 256, "final_logit_softcapping": 30.0,
            "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4,
        },
    ),
    "LFM2 1.2B": Shape(
        "lfm2", 2048, 16, 32, tuple(8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16)), 64, 8192, 65536, True,
        ("attn_q_norm", "attn_k_norm"), {"shortconv.l_cache": 3},
    ),
}  # fmt: skip


def block(shape: Shape, i: int) -> Weights:
    """Names and shapes (rows, columns) of a block's tensors."""
    width, ffn = shape.width, _at(shape.feed_forward, i)
    head = _head(shape, i)
    kv = _at(shape.kv_heads, i) * head
    yield from (("attn_norm", (width,)), ("ffn_norm", (width,)))
    yield from (("ffn_gate", (ffn, width)), ("ffn_up", (ffn, width)), ("ffn_down", (width, ffn)))
    if not kv:
        yield from (
            ("shortconv.conv", (width, 3)),
            ("shortconv.in_proj", (3 * width, width)),
            ("shortconv.out_proj", (width, width)),
        )
        return
    yield from (("attn_q", (shape.heads * head, width)), ("attn_k", (kv, width)), ("attn_v", (kv, width)))
    yield "attn_output", (width, shape.heads * head)
    yield from ((name, (head if name in ("attn_q_norm", "attn_k_norm") else width,)) for name in shape.norms)
    if per_layer := (shape.more or {}).get("embedding_length_per_layer_input"):
        yield from (("inp_gate", (per_layer, width)), ("proj", (width, per_layer)), ("layer_output_scale", (1,)))


def _at(value: int | tuple[int, ...], i: int) -> int:
    return value[i] if isinstance(value, tuple) else value


def _head(shape: Shape, i: int) -> int:
    more = shape.more or {}
    pattern = more.get("attention.sliding_window_pattern")
    return int(more.get("attention.key_length_swa", shape.head)) if pattern and pattern[i] else shape.head


def weights(shape: Shape) -> Weights:
    """All tensors."""
    norm = "token_embd_norm" if shape.architecture == "lfm2" else "output_norm"
    yield from (("token_embd.weight", (shape.vocabulary, shape.width)), (f"{norm}.weight", (shape.width,)))
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, shape.width)
    if per_layer := (shape.more or {}).get("embedding_length_per_layer_input"):
        yield "per_layer_token_embd.weight", (shape.vocabulary, shape.blocks * per_layer)
        yield from (
            ("per_layer_model_proj.weight", (shape.blocks * per_layer, shape.width)),
            ("per_layer_proj_norm.weight", (per_layer,)),
        )
        yield "rope_freqs.weight", (shape.head // 2,)
    for i in range(shape.blocks):
        yield from ((f"blk.{i}.{name}.weight", sizes) for name, sizes in block(shape, i))


def write(path: Path, shape: Shape) -> Path:
    """The shape as a GGUF of Q4_0 whose data is a hole in the file."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    values: dict[str, Any] = {
        "block_count": shape.blocks, "context_length": 131072, "embedding_length": shape.width, "vocab_size": shape.vocabulary,
        "feed_forward_length": shape.feed_forward, "attention.head_count": shape.heads, "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head, "attention.value_length": shape.head, "rope.dimension_count": shape.head,
        "attention.layer_norm_rms_epsilon": 1e-5, **(shape.more or {}),
    }  # fmt: skip
    for key, value in values.items():
        _add(writer, f"{shape.architecture}.{key}", value)
    writer.add_tokenizer_model("no_vocab")
    n_data = sum(_add_tensor(writer, name, sizes) for name, sizes in weights(shape))
    writer.open_output_file(path)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as stream:
        stream.truncate(-(-path.stat().st_size // 32) * 32 + n_data)
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, tuple | list):
        writer.add_array(key, list(value))
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _add_tensor(writer: Any, name: str, sizes: tuple[int, ...]) -> int:
    """Declares a tensor; bytes of its data, padded."""
    is_float = len(sizes) == 1 or ".conv." in name
    n = int(np.prod(sizes)) * 4 if is_float else int(np.prod(sizes)) // 32 * 18
    kind = gguf.GGMLQuantizationType.F32 if is_float else gguf.GGMLQuantizationType.Q4_0
    stored = list(sizes) if is_float else [*sizes[:-1], sizes[-1] // 32 * 18]
    writer.add_tensor_info(name, stored, np.dtype(np.float32 if is_float else np.uint8), n, raw_dtype=kind)
    return -(-n // 32) * 32


def compare(name: str, path: Path, use: ContextUse) -> tuple[list[str], float]:
    """A row of the table, MiB, and the error of the sum."""
    ours, said = footprint(read_model(path), use).both, LlamaBackend().memory(path, use)
    theirs = ours.weights + said.cache + said.device_compute + said.output
    error = ours.total / theirs - 1
    flash = "" if use.flash_attention else ", no flash attention"
    figures = (ours.weights, ours.cache, said.cache, ours.compute, said.device_compute, theirs)
    return [f"{name}, {use.n_ctx:,} {use.type_k}{flash}", *(f"{n / MIB:,.2f}" for n in figures), f"{error:+.2%}"], error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where an error is over the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    given = parser.parse_args(arguments)
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        shapes = [(name, write(Path(folder) / f"{i}.gguf", shape)) for i, (name, shape) in enumerate(SHAPES.items())]
        for name, path in [*shapes, ("bundled", bundled.MODEL), *((m.stem[:24], m) for m in given.models)]:
            for use in USES:
                try:
                    row, error = compare(name, path, use)
                except CerebellumError as refusal:
                    print(f"{name}: {refusal}", file=sys.stderr)
                    continue
                rows.append(row)
                worst = max(worst, abs(error))
    columns = ["model, context", "weights", "cache", "llama.cpp", "compute", "llama.cpp", "in all (llama.cpp)", "error"]
    show("Memory in MiB: ours, and what llama.cpp says", columns, rows)
    print(f"largest error of the sum: {worst:.2%} (bar {BAR:.0%})")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
