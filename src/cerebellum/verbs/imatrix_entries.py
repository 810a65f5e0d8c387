"""Which tensors an importance matrix has an entry for that can be used."""

from __future__ import annotations

from pathlib import Path

from cerebellum.domain import Model, Tensor
from cerebellum.gguf.coverage import Coverage, coverage_of
from cerebellum.gguf.imatrix import Imatrix
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.llamacpp.protocol import CHUNK_TOKENS


def n_inputs(tensor: Tensor) -> int:
    """How many inputs of its matrix products an importance matrix has a value for: a column each, of each expert."""
    return tensor.row_length * (tensor.shape[2] if len(tensor.shape) > 2 else 1)


def entry_fits(imatrix: Imatrix, tensor: Tensor) -> bool:
    """Whether there is an entry of the tensor's size."""
    entry = imatrix.entries.get(tensor.name)
    return entry is not None and entry.size == n_inputs(tensor)


def coverage_in(imatrix: Path, source: Model) -> Coverage:
    """What the importance matrix in that file says of the tensors of ``source``."""
    return coverage_of(read_importance(imatrix, CHUNK_TOKENS), source)
