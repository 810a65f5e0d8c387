"""Which tensors an importance matrix has an entry for that can be used."""

from __future__ import annotations

from cerebellum.domain import Tensor
from cerebellum.gguf.imatrix import Imatrix


def entry_fits(imatrix: Imatrix, tensor: Tensor) -> bool:
    """Whether there is an entry of the tensor's size: a value for each column of each expert."""
    entry = imatrix.entries.get(tensor.name)
    experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
    return entry is not None and entry.size == tensor.row_length * experts
