"""Which tensors llama.cpp would quantize at all: only these react to an override.

A port of the conditions (not the text) of ``tensor_allows_quantization`` in llama.cpp's src/llama-quant.cpp, as in
llama-cpp-python 0.3.36, with its default options; a dry run of the library is the authority, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from cerebellum.domain import Model, Tensor
from cerebellum.errors import ModelFileError
from cerebellum.gguf.types import COPIED

#: A tensor whose name holds one of these is stored as it is.
_KEPT_PARTS = (
    "_norm.weight",  # norms
    "ffn_gate_inp.weight",  # expert gates
    "ffn_gate_tid2eid.weight",  # routing tables of integers
    "altup",  # tiny
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",  # small convolutions
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    *(f"time_mix_{piece}.weight" for piece in ("first", "lerp_fused", "decay_w1", "decay_w2")),  # RWKV
    *(f"time_mix_{letter}{number}.weight" for letter in "wva" for number in (0, 1, 2)),
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "attn_rel_b.weight",  # relative positions
    ".position_embd",  # vision
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",  # audio
    "mm.a.code_embd",
)
_KEPT_NAMES = frozenset({"position_embd.weight", "token_types.weight"})
_KEPT_PARTS_BY_ARCHITECTURE = {
    "glm5-next": (
        "hc_",
        *(f"indexer.{piece}" for piece in ("attn_q_b", "attn_k", "proj")),
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        *(f"ssm_{piece}.weight" for piece in ("f_a", "f_b", "g_a", "g_b", "beta")),
        *(f"attn_{piece}.weight" for piece in ("kv_a_mqa", "k_b", "v_b")),
    ),
}


def n_dims(shape: Sequence[int]) -> int:
    """ggml's count of dimensions: trailing ones don't count, and there is at least one."""
    return max((i + 1 for i, length in enumerate(shape) if length > 1), default=1)


def quantizable(name: str, dims: int, architecture: str = "") -> bool:
    """Whether llama.cpp would quantize a tensor of this name with ``dims`` dimensions (`n_dims`)."""
    if dims < 2 or not name.endswith("weight") or name in _KEPT_NAMES:
        return False
    kept = (*_KEPT_PARTS, *_KEPT_PARTS_BY_ARCHITECTURE.get(architecture, ()))
    return not any(word in name for word in kept)


def quantizable_tensors(model: Model) -> tuple[Tensor, ...]:
    """The model's tensors that llama.cpp would quantize, in the order of the file; not tables of integers or doubles, which it can't read
    as weights."""
    stored = (t for t in model.tensors if t.type not in COPIED)
    return tuple(t for t in stored if quantizable(t.name, n_dims(t.shape), model.architecture))


#: Tables of whole numbers that models do have: which experts a token is sent to.
_TABLES = ("tid2eid",)


def check_numbers(model: Model) -> None:
    """Every weight and bias is of a type that ggml multiplies: of whole numbers or doubles it ends the process (SIGSEGV).

    Raises `ModelFileError`."""
    for tensor in model.tensors:
        if tensor.type in COPIED and tensor.name.endswith((".weight", ".bias")):
            if any(word in tensor.name for word in _TABLES):
                continue
            raise ModelFileError(
                f"{model.path.name} holds {tensor.name} as {tensor.type}, which llama.cpp can't compute with as a weight; convert the "
                "model again"
            )
