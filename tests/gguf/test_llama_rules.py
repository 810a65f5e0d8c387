"""What llama.cpp quantizes at all, against llama.cpp itself."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from cerebellum.domain import Model, Tensor
from cerebellum.errors import ModelFileError
from cerebellum.gguf.llama_rules import check_numbers, n_dims, quantizable, quantizable_tensors
from cerebellum.gguf.model_file import read_model

KEPT = (
    "output_norm.weight blk.0.attn_q_norm.weight position_embd.weight token_types.weight per_layer_model_proj.weight "
    "blk.0.attn_q.bias blk.0.ffn_gate_inp.weight blk.0.ffn_gate_tid2eid.weight altup_proj.weight blk.0.laurel_l.weight "
    "blk.0.ssm_conv1d.weight blk.0.shortconv.conv.weight blk.0.indexer.k_proj.weight blk.0.indexer.q_proj.weight "
    "blk.0.time_mix_first.weight blk.0.time_mix_w0.weight blk.0.time_mix_w1.weight blk.0.time_mix_w2.weight "
    "blk.0.time_mix_v0.weight blk.0.time_mix_v1.weight blk.0.time_mix_v2.weight blk.0.time_mix_a0.weight "
    "blk.0.time_mix_a1.weight blk.0.time_mix_a2.weight blk.0.time_mix_g1.weight blk.0.time_mix_g2.weight "
    "blk.0.time_mix_decay_w1.weight blk.0.time_mix_decay_w2.weight blk.0.time_mix_lerp_fused.weight "
    "enc.blk.0.attn_rel_b.weight v.position_embd.weight sam.pos_embd.weight sam.neck.0.weight sam.net_2.weight "
    "v.blk.0.rel_pos.weight v.patch_embd.weight mm.patch_merger.weight a.rvq.codebook.weight mm.a.code_embd.weight "
    "blk.0.ffn_gate.weights blk.0.weight_scale"
).split()
TAKEN = (
    "token_embd.weight output.weight per_layer_token_embd.weight blk.0.attn_q.weight blk.0.attn_output.weight "
    "blk.0.ffn_gate.weight blk.0.inp_gate.weight blk.0.proj.weight blk.0.time_mix_g0.weight blk.0.time_mix_key.weight "
    "blk.0.hc_attn.weight blk.0.indexer.proj.weight blk.0.attn_k_b.weight blk.0.ssm_beta.weight"
).split()
SHAPES = {
    "blk.0.flat.weight": (32,),
    "blk.0.row.weight": (1, 32),
    "blk.0.experts.weight": (2, 1, 32),
    "blk.0.tall.weight": (2, 32),
}


def odd_model(path: Path) -> Path:
    """A GGUF that llama.cpp's quantizer reads, with every name that its rules know (it doesn't mind foreign tensors)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(2)
    writer.add_feed_forward_length(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(8)
    for name in (*KEPT, *TAKEN):
        writer.add_tensor(name, np.zeros((4, 32), np.float32))
    for name, shape in SHAPES.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str) -> None:
    """Norms, gates, convolutions, positions, … are never quantized."""
    assert not quantizable(name, 2)


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    """Ordinary matrices are, and so are both embedding tables; one dimension never is."""
    assert quantizable(name, 2) and quantizable(name, 3) and not quantizable(name, 1)


def test_dimensions_as_ggml_counts() -> None:
    """Trailing ones don't count: a matrix of one row is one-dimensional, experts of one row each are not."""
    assert [n_dims(s) for s in ((), (32,), (32, 1), (32, 2), (32, 1, 2), (32, 2, 1, 1), (1, 1))] == [
        1,
        1,
        1,
        2,
        3,
        2,
        1,
    ]


def test_one_architecture_has_rules_of_its_own() -> None:
    """What is quantized elsewhere stays as it is under glm5-next."""
    names = ["blk.0.hc_attn.weight", "blk.0.indexer.proj.weight", "blk.0.attn_k_b.weight", "blk.0.ssm_beta.weight"]
    assert all(quantizable(name, 2, "llama") and not quantizable(name, 2, "glm5-next") for name in names)


@pytest.mark.engine
def test_llama_cpp_agrees(tmp_path: Path) -> None:
    """A dry run of llama.cpp quantizes exactly the tensors we say, over every name that its rules know."""
    from cerebellum.llamacpp.files import realized_types

    path = odd_model(tmp_path / "odd.gguf")
    types = realized_types(path, "Q8_0", (), None)
    assert {name for name, kind in types.items() if kind != "F32"} == {
        t.name for t in quantizable_tensors(read_model(path))
    }


@pytest.mark.parametrize(
    ("name", "kind", "refused"),
    [
        ("blk.0.ffn_gate.weight", "I32", True), ("blk.0.attn_norm.weight", "I8", True), ("blk.0.attn_q.bias", "F64", True),
        ("blk.0.ffn_gate_tid2eid.weight", "I32", False), ("blk.0.ffn_gate.weight", "F32", False), ("blk.0.ids", "I32", False),
    ],
)  # fmt: skip
def test_weights_of_whole_numbers_are_refused_by_name(name: str, kind: str, refused: bool) -> None:
    """llama.cpp would end with SIGSEGV in the product; a routing table is no factor of one."""
    model = Model(Path("m.gguf"), "llama", "", 1, None, 64, (Tensor(name, (32, 32), kind),), 0)
    if refused:
        with pytest.raises(ModelFileError, match=rf"m\.gguf holds {re.escape(name)} as {kind}"):
            check_numbers(model)
    else:
        check_numbers(model)
