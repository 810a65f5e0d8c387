"""Model files and importance matrices on disk: tables and metadata at once, weights and values as memory-mapped rows.

Everything wrong with a file ends as a `ModelFileError` that names the file, the problem and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Model, Tensor, block_of
from cerebellum.errors import ModelFileError, TensorChoiceError
from cerebellum.gguf.header import Header, mapped, read_header
from cerebellum.gguf.imatrix import Imatrix, load_imatrix
from cerebellum.gguf.split_set import SplitName, check_set, names_of_set, refuse_missing
from cerebellum.gguf.types import STORED, ftype_of_id
from cerebellum.keys import sha256_file

__all__ = [
    "Imatrix",
    "WeightSource",
    "load_imatrix",
    "model_files",
    "model_of",
    "open_weights",
    "read_model",
    "sha256_model",
]

Bytes = npt.NDArray[np.uint8]


def read_model(path: Path) -> Model:
    """What the GGUF at ``path`` says of itself; no weights are read. Of a model in several files ``path`` is the first, and the others are
    checked to be the rest of it. Raises `ModelFileError`."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Model, tuple[Header, ...]]:
    first = _header(path)
    names = names_of_set(path.name, first[0].metadata, str(path))
    paths = [path, *(path.with_name(name) for name in names[1:])]
    refuse_missing(names, lambda name: path.with_name(name).exists(), str(path))
    files = [first, *(_header(other) for other in paths[1:])]
    return model_of(paths, [header for header, _ in files], [size for _, size in files]), tuple(h for h, _ in files)


def _header(path: Path) -> tuple[Header, int]:
    with mapped(path) as (buffer, size):
        return read_header(buffer, size, str(path)), size


def model_of(paths: Sequence[Path], headers: Sequence[Header], sizes: Sequence[int]) -> Model:
    """The model in the files ``paths`` (the first one's name says what it is called), by their headers and bytes. Raises `ModelFileError`
    where it is no model, or the files aren't one."""
    path, metadata = paths[0], headers[0].metadata
    if len(paths) > 1:
        check_set([str(p) for p in paths], headers)
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    architecture = _checked_architecture(path, metadata, tensors)
    last = max((block for t in tensors if (block := block_of(t.name)) is not None), default=-1)
    return Model(
        path=path,
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        n_blocks=_count(metadata, f"{architecture}.block_count", last + 1),
        ftype=ftype_of_id(_count(metadata, "general.file_type", -1)),
        context_length=_count(metadata, f"{architecture}.context_length", 0),
        tensors=tensors,
        file_bytes=sum(sizes),
        metadata=metadata,
        files=tuple(paths),
    )


def _count(metadata: Mapping[str, Any], key: str, default: int) -> int:
    value = metadata.get(key, default)
    return value if isinstance(value, int) else default


def _checked_architecture(path: Path, metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> str:
    kind = metadata.get("general.type", "model")
    if kind == "imatrix":
        raise ModelFileError(f"{path} is an importance matrix, not a model; give it with --imatrix")
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelFileError(f"{path} is a GGUF without general.architecture, so not a model; convert it again")
    if not tensors:
        raise ModelFileError(f"{path} holds no tensors (a vocabulary only?); give a model with weights")
    return architecture


def model_files(path: Path) -> tuple[Path, ...]:
    """The files of the model at ``path``, the first one itself. What isn't called as a set's first is one file. Raises `ModelFileError`."""
    if SplitName.parse(path.name) is None:
        return (path,)
    names = names_of_set(path.name, _header(path)[0].metadata, str(path))
    refuse_missing(names, lambda name: path.with_name(name).exists(), str(path))
    return (path, *(path.with_name(name) for name in names[1:]))


def sha256_model(path: Path) -> str:
    """Hex sha256 of the model's file; of several files that of their bytes one after the other, as ``cat NAME-*.gguf | sha256sum`` gives
    it. Raises `ModelFileError`, or `InputError` where one can't be read."""
    return sha256_file(*model_files(Path(path)))


class WeightSource:
    """A model's raw weights. Each tensor is memory-mapped by itself, and unmapped when nobody holds it any more: nothing is read before
    it is used, nothing is copied, nothing stays resident."""

    def __init__(self, path: Path) -> None:
        self.model, headers = _read(path)
        self._data = {
            name: (file, offset)
            for file, header in zip(self.model.files, headers, strict=True)
            for name, offset in header.offsets.items()
        }
        self._tensors = {t.name: t for t in self.model.tensors}

    def tensor(self, name: str) -> Tensor:
        """The tensor called ``name``. Raises `TensorChoiceError`."""
        if name not in self._tensors:
            raise TensorChoiceError(f"{self.model.path.name} has no tensor {name}")
        return self._tensors[name]

    def place(self, name: str) -> tuple[Path, int]:
        """The file that the tensor's data is in, and the byte at which it begins."""
        return self._data[name]

    def raw(self, name: str) -> Bytes:
        """The tensor's stored bytes: uint8 [rows of all dimensions, row bytes], a read-only view.

        Raises `TensorChoiceError` where there is no such tensor.
        """
        tensor = self.tensor(name)
        row_bytes = STORED[tensor.type].n_bytes(tensor.row_length)
        if not tensor.n_bytes:
            return np.zeros((0, row_bytes), np.uint8)
        file, offset = self.place(name)
        view = np.memmap(file, np.uint8, "r", offset=offset, shape=(tensor.n_bytes,))
        return np.asarray(view).reshape(-1, row_bytes)


def open_weights(path: Path) -> WeightSource:
    """The raw weights of the GGUF at ``path``. Raises `ModelFileError`."""
    return WeightSource(Path(path))
