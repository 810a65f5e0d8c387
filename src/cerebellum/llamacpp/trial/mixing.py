"""Which operations compute a token alone, whatever else is in the batch.

Chunks are decoded side by side only where no bit of one can depend on the others. llama.cpp's CPU kernels compute a row of most operations
from that row alone, in one order of additions. Two kinds don't:

* the product of experts (``MUL_MAT_ID``) takes one kernel for an expert that gets `FEW` tokens or more and another for one that gets
  fewer, and how many it gets depends on all chunks of the batch (``ggml_tiled_min_batch`` in ggml/src/ggml-cpu/tiled/tiled.cpp);
* a product of matrices (``MUL_MAT``) does so by the number of its columns: the tokens, or those of them that are scored.

Operations that aren't named here (recurrent states, sorting, what a later build adds) count as mixing. So does everything on a GPU, on
other processors than x86 (their kernels may take rows two at a time), and beside a library for products of large matrices.
"""

from __future__ import annotations

import functools
import platform

from cerebellum.llamacpp import native

#: Columns from which on every product goes through the same kernels.
FEW = 8
_PRODUCT = "MUL_MAT"
#: Operations of which each row is computed by itself, or each sequence (attention).
_BY_ROW = frozenset(
    (
        *(
            "NONE",
            "RESHAPE",
            "VIEW",
            "PERMUTE",
            "TRANSPOSE",
            "CONT",
            "CPY",
            "DUP",
            "CONCAT",
            "GET_ROWS",
            "SET_ROWS",
            "REPEAT",
        ),
        *("ADD", "SUB", "MUL", "DIV", "SQR", "SQRT", "LOG", "SIN", "COS", "SCALE", "CLAMP", "UNARY", "GLU", "SUM_ROWS"),
        *("NORM", "RMS_NORM", "L2_NORM", "GROUP_NORM", "ROPE", "SOFT_MAX", "FLASH_ATTN_EXT", "LEAKY_RELU", _PRODUCT),
    )
)


def mixes(node: native.GgmlTensor) -> bool:
    """Whether a node's result for one token may depend on the batch's other sequences."""
    name = _name(node.op)
    if name == _PRODUCT:
        return int(native.tensor_at(node.src[1]).ne[1]) < FEW
    return name not in _BY_ROW


@functools.cache
def _name(op: int) -> str:
    return str(native.ggml().ggml_op_name(op).decode())


def kernels_are_known(n_gpu_layers: int) -> bool:
    """Whether what is said here holds for where a model is computed."""
    return not n_gpu_layers and platform.machine().lower() in ("x86_64", "amd64") and not native.has_accelerator()
