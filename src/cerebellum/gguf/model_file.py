"""Model files and importance matrices on disk: tables and metadata at once, weights and values as memory-mapped rows.

Everything wrong with a file ends as a `ModelFileError` that names the file, the problem and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Model, Tensor, block_of
from cerebellum.errors import ModelFileError, TensorChoiceError
from cerebellum.gguf.header import Header, mapped, read_header
from cerebellum.gguf.imatrix import Imatrix, load_imatrix
from cerebellum.gguf.types import STORED, ftype_of_id

__all__ = ["Imatrix", "WeightSource", "load_imatrix", "open_weights", "read_model"]

Bytes = npt.NDArray[np.uint8]


def read_model(path: Path) -> Model:
    """What the GGUF at ``path`` says of itself; no weights are read. Raises `ModelFileError`."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Model, Header]:
    with mapped(path) as (buffer, size):
        header = read_header(buffer, size, str(path))
    return _model(path, header, size), header


def _model(path: Path, header: Header, size: int) -> Model:
    metadata = header.metadata
    architecture = _checked_architecture(path, header)
    last = max((block for t in header.tensors if (block := block_of(t.name)) is not None), default=-1)
    return Model(
        path=path,
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        n_blocks=_count(metadata, f"{architecture}.block_count", last + 1),
        ftype=ftype_of_id(_count(metadata, "general.file_type", -1)),
        context_length=_count(metadata, f"{architecture}.context_length", 0),
        tensors=header.tensors,
        file_bytes=size,
        metadata=metadata,
    )


def _count(metadata: Mapping[str, Any], key: str, default: int) -> int:
    value = metadata.get(key, default)
    return value if isinstance(value, int) else default


def _checked_architecture(path: Path, header: Header) -> str:
    metadata = header.metadata
    parts = _count(metadata, "split.count", 1)
    if parts > 1:
        raise ModelFileError(
            f"{path} is one of {parts} parts of a split model; only single files can be used: "
            "join them with llama-gguf-split --merge"
        )
    kind = metadata.get("general.type", "model")
    if kind == "imatrix":
        raise ModelFileError(f"{path} is an importance matrix, not a model; give it with --imatrix")
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFileError(f"{path} is a GGUF without general.architecture, so not a model; convert it again")
    if not header.tensors:
        raise ModelFileError(f"{path} holds no tensors (a vocabulary only?); give a model with weights")
    return architecture


class WeightSource:
    """A model's raw weights. Each tensor is memory-mapped by itself, and unmapped when nobody holds it any more: nothing is read before
    it is used, nothing is copied, nothing stays resident."""

    def __init__(self, path: Path) -> None:
        self.model, header = _read(path)
        self._offsets = header.offsets
        self._tensors = {t.name: t for t in self.model.tensors}

    def tensor(self, name: str) -> Tensor:
        """The tensor called ``name``. Raises `TensorChoiceError`."""
        if name not in self._tensors:
            raise TensorChoiceError(f"{self.model.path.name} has no tensor {name}")
        return self._tensors[name]

    def raw(self, name: str) -> Bytes:
        """The tensor's stored bytes: uint8 [rows of all dimensions, row bytes], a read-only view.

        Raises `TensorChoiceError` where there is no such tensor.
        """
        tensor = self.tensor(name)
        row_bytes = STORED[tensor.type].n_bytes(tensor.row_length)
        if not tensor.n_bytes:
            return np.zeros((0, row_bytes), np.uint8)
        view = np.memmap(self.model.path, np.uint8, "r", offset=self._offsets[name], shape=(tensor.n_bytes,))
        return np.asarray(view).reshape(-1, row_bytes)


def open_weights(path: Path) -> WeightSource:
    """The raw weights of the GGUF at ``path``. Raises `ModelFileError`."""
    return WeightSource(Path(path))
