"""Metadata that a quantized file gets beside its source's, as `llama-quantize` writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cerebellum.domain import Model
from cerebellum.gguf.header import DEFAULT_ALIGNMENT
from cerebellum.gguf.imatrix import Imatrix
from cerebellum.llamacpp.binding import lc

#: The longest text, in bytes, that llama.cpp's struct for these has room for.
_LONGEST = 127
ALIGNMENT = "general.alignment"

Pair = tuple[str, str | int]


def added(source: Model, imatrix: Imatrix | None, path: Path | None) -> list[Pair]:
    """What is added to the metadata of ``source``: llama.cpp writes every file with the default alignment, whatever it copies from its
    source; where there is an importance matrix (at ``path``, spelled as given) what `llama-quantize` notes of it, in its order."""
    keys: list[Pair] = []
    if imatrix is not None and path is not None:
        keys += _of_imatrix(imatrix, path)
    if source.metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT) != DEFAULT_ALIGNMENT:
        keys.append((ALIGNMENT, DEFAULT_ALIGNMENT))
    return keys


def _of_imatrix(imatrix: Imatrix, path: Path) -> Iterator[Pair]:
    yield "quantize.imatrix.file", os.fspath(path)
    if imatrix.datasets:
        yield "quantize.imatrix.dataset", imatrix.datasets[0]
    yield "quantize.imatrix.entries_count", len(imatrix.entries)
    if imatrix.n_chunks > 0:
        yield "quantize.imatrix.chunks_count", imatrix.n_chunks


def as_overrides(pairs: list[Pair]) -> Any:
    """``pairs`` as llama.cpp's table, ended by an empty key; None for none."""
    if not pairs:
        return None
    table = (lc.llama_model_kv_override * (len(pairs) + 1))()
    for row, (key, value) in zip(table, pairs, strict=False):
        row.key = key.encode()
        if isinstance(value, int):
            row.tag, row.value.val_i64 = lc.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            row.tag, row.value.val_str = lc.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()[:_LONGEST]
    return table
