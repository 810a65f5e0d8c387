"""A tensor's rows shared among threads: the bytes of one row after the other, each expert's by its own importance."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum import bundled
from cerebellum.domain import Tensor, tensor_types_of
from cerebellum.errors import EngineError
from cerebellum.gguf.types import quant_type
from cerebellum.llamacpp import native
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.llamacpp.trial import quantizer
from cerebellum.llamacpp.trial.engine import LlamaEngine
from cerebellum.llamacpp.trial.quantizer import Bytes, Floats, quantize_rows
from cerebellum.llamacpp.trial.weight_errors import weight_errors
from cerebellum.parallel import ALONE, Threads
from tests.pools import Counting

WIDTH = 256


def weights(*shape: int, seed: int = 0) -> tuple[Tensor, Floats]:
    """A tensor of ``shape`` (ggml's order, rows first) and its values [rows, row length]."""
    values = np.random.default_rng(seed).standard_normal((int(np.prod(shape[1:])), shape[0]), np.float32)
    return Tensor("blk.0.ffn_gate.weight", shape, "F32"), values


def row_by_row(values: Floats, target: str, importance: Floats | None, per_expert: int) -> Bytes:
    """The slow and obvious way."""
    kind = quant_type(target)
    out = np.empty((len(values), kind.n_bytes(WIDTH)), np.uint8)
    native.ggml().ggml_quantize_init(kind.id)
    for at, row in enumerate(values):
        own = None if importance is None else importance[at // per_expert].ctypes.data
        native.ggml().ggml_quantize_chunk(kind.id, row.ctypes.data, out[at].ctypes.data, 0, 1, WIDTH, own)
    return out


@pytest.mark.parametrize("target", ["Q2_K", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("most", [1, 5 * WIDTH, 1 << 18])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_any_sharing_gives_the_bytes_of_single_rows(
    monkeypatch: pytest.MonkeyPatch, target: str, most: int, n_threads: int
) -> None:
    """Of three experts, with pieces that end anywhere."""
    monkeypatch.setattr(quantizer, "_LEAST_WEIGHTS", 2 * WIDTH)
    monkeypatch.setattr(quantizer, "_MOST_WEIGHTS", most)
    tensor, values = weights(WIDTH, 37, 3)
    importance = np.random.default_rng(1).random((3, WIDTH), np.float32) + 0.1
    with Counting(3) as pool:
        threads = Threads(pool, n_threads)
        ours = quantize_rows(tensor, values.view(np.uint8), target, importance, threads)
    assert np.array_equal(ours, row_by_row(values, target, importance, 37))
    assert pool.count == n_threads - 1


def test_a_small_tensor_is_shared_too() -> None:
    """What a trial waits for on the bundled model: an eighth of a million weights in Q2_K, on all threads."""
    tensor, values = weights(WIDTH, 512)
    with Counting(3) as pool:
        ours = quantize_rows(tensor, values.view(np.uint8), "Q2_K", None, Threads(pool, 4))
    assert pool.count == 3
    assert np.array_equal(ours, quantize_rows(tensor, values.view(np.uint8), "Q2_K", None, ALONE))


def test_the_engine_shares_quantizing_and_scoring() -> None:
    """On the bundled model, with the threads that it was given."""
    engine = LlamaEngine(bundled.MODEL, Settings(n_ctx=512, n_threads=2), Sources(bundled.MODEL))
    corpus = engine.corpus("search", bundled.SEARCH_TEXT.read_text(encoding="utf-8"), 512)
    with Counting(1) as quantizing, Counting(1) as scoring:
        engine._quantizers, engine._scorers = Threads(quantizing, 2), Threads(scoring, 2)
        list(engine.score(tensor_types_of({"blk.13.ffn_gate.weight": "Q2_K"}), corpus.chunks([0])))
        assert (quantizing.count, scoring.count) == (1, 1)
    engine.close()


def test_weights_that_no_block_can_hold_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite weight makes an infinite scale, which ggml finds when it validates the rows."""
    monkeypatch.setattr(quantizer, "_LEAST_WEIGHTS", WIDTH)
    monkeypatch.setattr(quantizer, "_MOST_WEIGHTS", WIDTH)
    tensor, values = weights(WIDTH, 64)
    values[41, 3] = np.inf
    threads = Threads.of(3)
    with pytest.raises(EngineError, match=r"rows 41 to 41 of blk\.0\.ffn_gate\.weight as Q8_0"):
        quantize_rows(tensor, values.view(np.uint8), "Q8_0", None, threads)
    threads.close()


def test_types_that_cant_hold_a_weight_have_no_error(tmp_path: Path) -> None:
    """3e6 is past a half's range once divided by the 7 or 15 steps of 4 bits, not by the 127 of 8; as F16 it is infinite."""
    tensor, values = weights(WIDTH, 64)
    values[41, 3] = 3e6
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    kinds = ("Q4_0", "Q4_1", "Q8_0", "F16", "BF16")
    (found,) = weight_errors(tmp_path / "model.gguf", None, [(tensor.name, kinds)], 1 << 20, 1)
    assert found.cannot == ("Q4_0", "Q4_1", "F16") and set(found.errors) == {"Q8_0", "BF16"}
    assert all(math.isfinite(error) for error in found.errors.values())


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 60))
def test_parts_are_all_rows_of_one_expert_each(first: int, more: int, per_expert: int) -> None:
    """In order, none twice, and cut only where they must be."""
    parts = list(quantizer._of_one_expert(first, first + more, per_expert))
    assert [row for a, b in parts for row in range(a, b)] == list(range(first, first + more))
    assert all(a // per_expert == (b - 1) // per_expert for a, b in parts)
    assert all(b % per_expert == 0 for _, b in parts[:-1])
