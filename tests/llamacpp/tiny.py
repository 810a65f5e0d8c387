"""Small random models that llama.cpp opens, written with the `gguf` package: rows of 256, experts, a tied and a per-layer embedding.

Random weights are enough where the claim is equality to the last bit; their scale is chosen so that every tensor moves the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

WIDTH, FEED_FORWARD, BLOCKS, VOCAB = 256, 512, 3, 320
EXPERTS = 4
PER_LAYER = 256
_LETTERS = "etaoinshrdlcumwfgypbvkxjqz.,'"


def text(n_words: int = 200, seed: int = 0) -> str:
    """Made-up words, the same for the same seed."""
    rng = np.random.default_rng(seed)
    words = "once upon a time there was little girl who found the old key and ran home to her mother .".split()
    return " ".join(rng.choice(words, n_words))


def llama(
    path: Path, seed: int = 0, chat_template: str = "", specials: tuple[str, ...] = (), causal: bool | None = None
) -> Path:
    """Rows of 256 and 512 weights, an output matrix of its own, F16. ``specials`` are control tokens beside BOS and EOS; ``causal`` None:
    the metadata don't say."""
    writer = _writer(path, "llama", specials)
    if causal is not None:
        writer.add_causal_attention(causal)
    if chat_template:
        writer.add_chat_template(chat_template)
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_rope_dimension_count(WIDTH // 4)
    shapes = [*_outside(), ("output.weight", (VOCAB, WIDTH)), *_each_block(_attention, _feed_forward)]
    return _finish(writer, path, shapes, seed)


def experts(path: Path, seed: int = 0, n: int = EXPERTS, feed_forward: int = FEED_FORWARD) -> Path:
    """A llama of ``n`` experts, two of them used: its feed-forward weights are three-dimensional."""
    writer = _writer(path, "llama")
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(feed_forward)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_expert_count(n)
    writer.add_expert_used_count(2)
    own = lambda _block: _experts(n, feed_forward)  # noqa: E731
    return _finish(writer, path, [*_outside(), ("output.weight", (VOCAB, WIDTH)), *_each_block(_attention, own)], seed)


def shared_experts(path: Path, seed: int = 0, n: int = 8, feed_forward: int = 256) -> Path:
    """``n`` experts, two of them used, beside one that every token goes through."""
    writer = _writer(path, "qwen2moe")
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(feed_forward)
    writer.add_expert_feed_forward_length(feed_forward)
    writer.add_expert_shared_feed_forward_length(feed_forward)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_expert_count(n)
    writer.add_expert_used_count(2)

    def own(_block: int) -> Shapes:
        yield from _experts(n, feed_forward)
        yield "ffn_gate_inp_shexp", (WIDTH,)
        yield from (("ffn_gate_shexp", (feed_forward, WIDTH)), ("ffn_up_shexp", (feed_forward, WIDTH)))
        yield "ffn_down_shexp", (WIDTH, feed_forward)

    return _finish(writer, path, [*_outside(), ("output.weight", (VOCAB, WIDTH)), *_each_block(_attention, own)], seed)


def bert(path: Path, seed: int = 0, causal: bool | None = False) -> Path:
    """An encoder without an output matrix; ``causal`` None: the metadata don't say."""
    writer = _writer(path, "bert")
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_layer_norm_eps(1e-5)
    writer.add_token_type_count(2)
    if causal is not None:
        writer.add_causal_attention(causal)

    def block(_number: int) -> Shapes:
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield from ((f"{name}.weight", (WIDTH, WIDTH)), (f"{name}.bias", (WIDTH,)))
        yield from (("ffn_up.weight", (FEED_FORWARD, WIDTH)), ("ffn_up.bias", (FEED_FORWARD,)))
        yield from (("ffn_down.weight", (WIDTH, FEED_FORWARD)), ("ffn_down.bias", (WIDTH,)))
        for name in ("attn_output_norm", "layer_output_norm"):
            yield from ((f"{name}.weight", (WIDTH,)), (f"{name}.bias", (WIDTH,)))

    outside: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (VOCAB, WIDTH)),
        ("position_embd.weight", (512, WIDTH)),
    ]
    outside += [
        ("token_types.weight", (2, WIDTH)),
        ("token_embd_norm.weight", (WIDTH,)),
        ("token_embd_norm.bias", (WIDTH,)),
    ]
    inside = [(f"blk.{i}.{name}", shape) for i in range(BLOCKS) for name, shape in block(i)]
    return _finish(writer, path, [*outside, *inside], seed)


def qwen3(path: Path, seed: int = 0) -> Path:
    """Normalized queries and keys, a tied embedding."""
    writer = _writer(path, "qwen3")
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(FEED_FORWARD)
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(WIDTH // 4)
    return _finish(writer, path, [*_outside(), *_each_block(_attention, _qk_norms, _feed_forward)], seed)


def gemma3(path: Path, seed: int = 0) -> Path:
    """Sliding windows of 16 tokens but in every second block, norms after attention and feed-forward."""
    writer = _writer(path, "gemma3")
    writer.add_head_count_kv(2)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_sliding_window(16)
    writer.add_sliding_window_pattern([True, False, True])
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(WIDTH // 4)
    return _finish(writer, path, [*_outside(), *_each_block(_attention, _qk_norms, _post_norms, _feed_forward)], seed)


def mamba(path: Path, seed: int = 0) -> Path:
    """No attention: a recurrent state."""
    writer = _writer(path, "mamba")
    inner, state, rank = 2 * WIDTH, 16, 16
    writer.add_feed_forward_length(0)
    writer.add_head_count_kv(0)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)

    def block(_number: int) -> Shapes:
        yield from (("attn_norm.weight", (WIDTH,)), ("ssm_in.weight", (2 * inner, WIDTH)))
        yield from (("ssm_conv1d.weight", (inner, 4)), ("ssm_conv1d.bias", (inner,)))
        yield from (("ssm_x.weight", (rank + 2 * state, inner)), ("ssm_dt.weight", (inner, rank)))
        yield from (("ssm_dt.bias", (inner,)), ("ssm_a", (inner, state)), ("ssm_d", (inner,)))
        yield "ssm_out.weight", (WIDTH, inner)

    shapes = [*_outside(), *((f"blk.{i}.{name}", shape) for i in range(BLOCKS) for name, shape in block(i))]
    return _finish(writer, path, shapes, seed)


def gemma4(path: Path, seed: int = 0) -> Path:
    """Per-layer inputs, a tied embedding, sliding and full blocks, the last block with an earlier one's keys and values."""
    writer = _writer(path, "gemma4")
    writer.add_head_count_kv([1] * BLOCKS)
    writer.add_feed_forward_length([FEED_FORWARD] * BLOCKS)
    writer.add_sliding_window(32)
    writer.add_sliding_window_pattern([True, False, False])
    writer.add_shared_kv_layers(1)
    writer.add_embedding_length_per_layer_input(PER_LAYER)
    writer.add_final_logit_softcapping(30.0)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_freq_base_swa(1e4)
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(128)
    for add in (writer.add_key_length_swa, writer.add_value_length_swa, writer.add_rope_dimension_count_swa):
        add(64)
    outside: list[tuple[str, tuple[int, ...]]] = [
        *_outside(),
        ("per_layer_token_embd.weight", (VOCAB, BLOCKS * PER_LAYER)),
        ("per_layer_model_proj.weight", (BLOCKS * PER_LAYER, WIDTH)),
        ("per_layer_proj_norm.weight", (PER_LAYER,)),
    ]
    writer.add_tensor("rope_freqs.weight", np.array([1.0] * 16 + [1e30] * 48, np.float32))
    return _finish(writer, path, [*outside, *_each_block(_gemma_block)], seed)


def _outside() -> Shapes:
    yield "token_embd.weight", (VOCAB, WIDTH)
    yield "output_norm.weight", (WIDTH,)


def _each_block(*parts: Callable[[int], Shapes]) -> Shapes:
    for block in range(BLOCKS):
        for part in parts:
            for name, shape in part(block):
                yield f"blk.{block}.{name}.weight", shape


def _attention(_block: int) -> Shapes:
    yield "attn_norm", (WIDTH,)
    yield "attn_q", (WIDTH, WIDTH)
    yield "attn_k", (WIDTH // 2, WIDTH)
    yield "attn_v", (WIDTH // 2, WIDTH)
    yield "attn_output", (WIDTH, WIDTH)
    yield "ffn_norm", (WIDTH,)


def _feed_forward(_block: int) -> Shapes:
    yield "ffn_gate", (FEED_FORWARD, WIDTH)
    yield "ffn_up", (FEED_FORWARD, WIDTH)
    yield "ffn_down", (WIDTH, FEED_FORWARD)


def _qk_norms(_block: int) -> Shapes:
    yield from (("attn_q_norm", (WIDTH // 4,)), ("attn_k_norm", (WIDTH // 4,)))


def _post_norms(_block: int) -> Shapes:
    yield from (("post_attention_norm", (WIDTH,)), ("post_ffw_norm", (WIDTH,)))


def _experts(n: int, feed_forward: int) -> Shapes:
    yield "ffn_gate_inp", (n, WIDTH)
    yield "ffn_gate_exps", (n, feed_forward, WIDTH)
    yield "ffn_up_exps", (n, feed_forward, WIDTH)
    yield "ffn_down_exps", (n, WIDTH, feed_forward)


def _gemma_block(block: int) -> Shapes:
    head = 64 if block == 0 else 128
    yield from (("attn_norm", (WIDTH,)), ("ffn_norm", (WIDTH,)))
    yield from (("attn_q_norm", (head,)), ("attn_k_norm", (head,)))
    yield from (("post_attention_norm", (WIDTH,)), ("post_ffw_norm", (WIDTH,)), ("post_norm", (WIDTH,)))
    yield from (("attn_q", (4 * head, WIDTH)), ("attn_k", (head, WIDTH)), ("attn_v", (head, WIDTH)))
    yield "attn_output", (WIDTH, 4 * head)
    yield from (("inp_gate", (PER_LAYER, WIDTH)), ("proj", (WIDTH, PER_LAYER)), ("layer_output_scale", (1,)))
    yield from _feed_forward(block)


def _writer(path: Path, architecture: str, specials: tuple[str, ...] = ()) -> Any:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    _add_tokenizer(writer, specials)
    return writer


def _add_tokenizer(writer: Any, specials: tuple[str, ...]) -> None:
    """Sentencepiece with byte fallback: three specials, 256 bytes, a space mark and letters, the rest unused."""
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *_LETTERS]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * (1 + len(_LETTERS))]
    tokens += specials
    types += [kinds.CONTROL] * len(specials)
    unused = VOCAB - len(tokens)
    tokens += [f"<unused{i}>" for i in range(unused)]
    types += [kinds.UNUSED] * unused
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_vocab_size(VOCAB)
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(VOCAB)])
    writer.add_token_types([int(kind) for kind in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    values = rng.standard_normal(shape, np.float32) * np.float32(0.08)
    if name.endswith("ssm_a"):
        return -np.abs(values)
    whole = ("ffn_gate_inp", "ssm_conv1d", "ssm_dt", "position_embd", "token_types")
    return values if any(part in name for part in whole) else values.astype(np.float16)


def _finish(writer: Any, path: Path, shapes: list[tuple[str, tuple[int, ...]]], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name, shape in shapes:
        writer.add_tensor(name, _values(name, shape, rng))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


finish = _finish


def imatrix_gguf(path: Path, entries: dict[str, Floats]) -> Path:
    """An importance matrix as llama-imatrix writes it now. ``entries``: float32 [experts, row length], counts of 2 each."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["made up"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 64)
    for name, rows in entries.items():
        writer.add_tensor(f"{name}.in_sum2", rows * np.float32(2))
        writer.add_tensor(f"{name}.counts", np.full((len(rows), 1), 2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def imatrix_legacy(path: Path, entries: dict[str, Floats]) -> Path:
    """The same importance matrix in the older ``.dat`` form."""

    def integer(value: int) -> bytes:
        return value.to_bytes(4, "little", signed=True)

    data = integer(len(entries))
    for name, rows in entries.items():
        spelled = name.encode()
        sums = rows * np.float32(2)
        data += integer(len(spelled)) + spelled + integer(2) + integer(sums.size) + sums.tobytes()
    path.write_bytes(data + integer(2) + integer(7) + b"made up")
    return path
