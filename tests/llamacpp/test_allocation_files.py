"""Whole allocations of small random models: experts, tied and per-layer embeddings, a quantized source; against bytes on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import TYPES
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.results.allocation import Allocation
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine


def allocate(path: Path, **more: Any) -> Allocation:
    text = path.parent / "text.txt"
    text.write_text(tiny.text(900))
    options = {"like": "Q3_K_M", "ctx": 64, "chunks": 4, "n_shuffled": 2, "threads": 1, "imatrix": "none", **more}
    return api.allocate(path, text=text, out=path.parent / "out", **options)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (tiny.experts, "blk.1.ffn_down_exps.weight"),
        (tiny.qwen3, "token_embd.weight"),
        (tiny.gemma4, "per_layer_token_embd.weight"),
    ],
)
def test_odd_tensors_are_candidates_and_the_file_is_what_was_planned(
    write: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    result = allocate(write(tmp_path / "model.gguf"))
    assert len(result.table.types[name]) > 3
    written = read_model(result.written.path)
    planned = result.recipe.types(result.base.model.types)
    assert written.types == planned
    assert result.written.path.stat().st_size == result.table.file_bytes(planned) <= result.limit
    tensor = written.tensor(name)
    assert tensor is not None and tensor.n_bytes == tensor.bytes_as(TYPES[planned[name]])
    assert result.written.equal_chunks == 4
    assert result.kept.measured < min(1.0, result.kept.measured / result.kept.ratio.estimate)


def test_the_type_that_a_quantized_source_has_costs_nothing_and_is_taken_where_it_fits(tmp_path: Path) -> None:
    source = tiny.llama(tmp_path / "F16.gguf")
    LlamaBackend().quantize(source, tmp_path / "model.gguf", "Q4_0")
    result = allocate(tmp_path / "model.gguf", like="Q5_K_M")
    own = read_model(tmp_path / "model.gguf").types
    assert all(read_model(result.written.path).types[name] == own[name] for name in result.table.names)
    assert result.kept.measured == pytest.approx(0.0, abs=1e-9) and result.written.file_bytes < result.limit
    smaller = allocate(tmp_path / "model.gguf", like="Q3_K_M", refine=False)
    assert 0.0 < smaller.controls.ratio.estimate < 1.0
