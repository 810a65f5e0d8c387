"""Which tensors an importance matrix has an entry for that can be used."""

from __future__ import annotations

from pathlib import Path

from cerebellum.domain import Model, Tensor
from cerebellum.gguf.coverage import Coverage, coverage_of
from cerebellum.gguf.imatrix import Imatrix
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.llamacpp.protocol import CHUNK_TOKENS


def entry_fits(imatrix: Imatrix, tensor: Tensor) -> bool:
    """Whether there is an entry of the tensor's size: a value for each column of each expert."""
    entry = imatrix.entries.get(tensor.name)
    experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
    return entry is not None and entry.size == tensor.row_length * experts


def coverage_in(imatrix: Path, source: Model) -> Coverage:
    """What the importance matrix in that file says of the tensors of ``source``."""
    return coverage_of(read_importance(imatrix, CHUNK_TOKENS), source)
