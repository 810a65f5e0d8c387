"""Whole allocations of small random models: experts, tied and per-layer embeddings, a quantized source; against bytes on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cerebellum import api
from cerebellum.domain import role_of
from cerebellum.errors import InputError
from cerebellum.gguf.imatrix_write import write_importance
from cerebellum.gguf.importance import Importance, Sums
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import TYPES
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.results.allocation import Allocation
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

NAME = "blk.1.ffn_gate.weight"


def allocate(path: Path, **more: Any) -> Allocation:
    text = path.parent / "text.txt"
    text.write_text(tiny.text(900))
    options: dict[str, Any] = {
        "like": "Q3_K_M",
        "ctx": 32,
        "chunks": 2,
        "n_shuffled": 0,
        "threads": 1,
        "imatrix": "none",
        "refine": False,
    }
    options |= {"types": "Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,Q8_0", **more}
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
    result = allocate(write(tmp_path / "model.gguf"), only=f"{role_of(name)},attn_v")
    assert len(result.table.types[name]) > 3
    written = read_model(result.written.path)
    planned = result.recipe.types(result.base.model.types)
    assert written.types == planned
    assert result.written.path.stat().st_size == result.table.file_bytes(planned) <= result.limit
    tensor = written.tensor(name)
    assert tensor is not None and tensor.n_bytes == tensor.bytes_as(TYPES[planned[name]])
    assert result.written.equal_chunks == 2
    assert 0.0 < result.kept.ratio.estimate <= 1.0 + 1e-9  # the stock mix is among the candidates


def test_a_quantized_source_is_taken_where_it_fits_and_refused_where_nothing_is_better(tmp_path: Path) -> None:
    source = tiny.llama(tmp_path / "F16.gguf")
    LlamaBackend().quantize(source, tmp_path / "model.gguf", "Q4_0")
    own = read_model(tmp_path / "model.gguf").types
    with pytest.raises(InputError, match=r"is its own reference: within [0-9,]+ bytes no file is nearer"):
        allocate(tmp_path / "model.gguf", like="Q5_K_M")
    smaller = allocate(tmp_path / "model.gguf", only="attn_v,ffn_up")
    assert all(smaller.table.errors[name][own[name]] == 0.0 for name in smaller.table.names)
    assert all(own[name] in smaller.table.types[name] for name in smaller.table.names)
    assert 0.0 < smaller.controls.ratio.estimate <= 1.0
    assert "is its own reference" in " ".join(smaller.facts["warnings"])


def test_another_matrix_can_judge_than_the_one_that_quantizes(tmp_path: Path) -> None:
    """A judge of ones is no judge; one of fours counts each error four times; the bytes that are judged stay those of the first matrix."""
    model = tiny.llama(tmp_path / "m.gguf")
    rng = np.random.default_rng(0)

    def matrix(name: str, values: npt.NDArray[np.float32]) -> Path:
        entries = {NAME: Sums(values, np.array([1]))}
        write_importance(Importance(entries, ("x",), 512), tmp_path / name, tmp_path / "p")
        return tmp_path / name

    made = matrix("made.gguf", rng.uniform(0.1, 10, tiny.WIDTH).astype(np.float32))
    fours = matrix("fours.gguf", np.full(tiny.WIDTH, 4, np.float32))

    def error(imatrix: Path | None, judge: Path | None) -> float:
        (found,) = LlamaBackend().weight_errors(model, imatrix, [(NAME, ("Q3_K",))], 1 << 20, judge)
        return found.errors["Q3_K"]

    assert error(None, fours) == pytest.approx(4 * error(None, None))
    assert error(made, made) == error(made, None)
    ones = matrix("ones.gguf", np.ones(tiny.WIDTH, np.float32))
    assert error(None, ones) == error(None, None)
    assert error(made, fours) == pytest.approx(4 * error(made, ones)) and error(made, ones) != error(made, None)
    assert error(None, made) > error(made, made)  # the quantizer that knows the weighing does better by it
