"""Write a trained model as GGUF: ``python -m testbed.export --run FOLDER --out FILE``.

An exporter of our own, because llama.cpp's converter wants a published model's folder. What it must get right is small and checked against
transformers (`tests/testbed/test_export.py`): the widths that differ by block, the per-layer inputs, which blocks slide, and the rotation
of full-attention blocks, which turns only a quarter of the dimensions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from testbed.model import BOS, CONTEXT, END_OF_TURN, EOS, PAD, SHAPES, SLIDING, SPECIALS, Shape

Array = npt.NDArray[Any]

ROTATED_SHARE = 0.25  # of a full-attention head's dimensions
FOREVER = 1e30  # the wavelength factor of a dimension that never turns
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def rope_factors(shape: Shape) -> Array:
    """float32 [head_full / 2]: 1 for a pair of dimensions that turns, `FOREVER` for one that doesn't."""
    pairs = shape.head_full // 2
    turning = int(ROTATED_SHARE * shape.head_full // 2)
    return np.array([1.0] * turning + [FOREVER] * (pairs - turning), np.float32)


def stored(name: str, value: Array) -> Array:
    """Matrices as F16, everything that scales (norms, factors) as F32, as llama.cpp's own converter does."""
    return value.astype(np.float16) if value.ndim == 2 else value.astype(np.float32)


def tensors(shape: Shape, weights: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """llama.cpp's names and the arrays to store. The output matrix is the embedding, so it is left out."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA4, shape.blocks)
    for key in weights:
        if key == "lm_head.weight":
            continue
        name = names.get_name(key, try_suffixes=(".weight",))
        if name is None:
            raise ValueError(f"{key} has no name in llama.cpp's gemma4")
        name = name.removesuffix(".weight") + ".weight"
        yield name, stored(name, weights[key])
    yield "rope_freqs.weight", rope_factors(shape)


def add_sizes(writer: Any, shape: Shape) -> None:
    """What llama.cpp must know of the architecture."""
    writer.add_block_count(shape.blocks)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forwards)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv([1] * shape.blocks)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(shape.window)
    writer.add_sliding_window_pattern([kind == SLIDING for kind in shape.kinds])
    writer.add_shared_kv_layers(shape.shared)
    writer.add_embedding_length_per_layer_input(shape.per_layer)
    writer.add_final_logit_softcapping(30.0)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(1e4)
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(shape.head_full)
    for add in (writer.add_key_length_swa, writer.add_value_length_swa, writer.add_rope_dimension_count_swa):
        add(shape.head)


def add_tokenizer(writer: Any, tokenizer: Path) -> None:
    """The byte-level BPE of a tokenizer.json, and the chat template."""
    model = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if tokens[: len(SPECIALS)] != list(SPECIALS):
        raise ValueError(f"{tokenizer}: the special tokens don't come first")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(tokens)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_eot_token_id(END_OF_TURN)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def write(path: Path, name: str, weights: Mapping[str, Array], tokenizer: Path) -> None:
    """The GGUF at ``path``, whole or not at all. The same inputs give the same bytes."""
    shape = SHAPES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "gemma4")
    writer.add_type("model")
    writer.add_name(f"Cerebellum {name}")
    writer.add_description("A small Gemma 4 trained on a small written world, for measuring quantization; not for use")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_sizes(writer, shape)
    add_tokenizer(writer, tokenizer)
    for tensor, value in tensors(shape, weights):
        writer.add_tensor(tensor, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def weights_of(run: Path) -> dict[str, Array]:
    """The weights of a training run's checkpoint, as float32."""
    import torch

    state = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    return {key: value.float().numpy() for key, value in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="folder of a testbed.train run")
    parser.add_argument("--out", type=Path, required=True, help="the GGUF to write")
    parser.add_argument("--shape", choices=SHAPES, default="world-14")
    options = parser.parse_args()
    write(options.out, options.shape, weights_of(options.run), options.run / "tokenizer.json")
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
