"""A tensor's rows shared among threads: the bytes of one row after the other, each expert's by its own importance."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.domain import Tensor
from cerebellum.llamacpp import native, quantizer
from cerebellum.llamacpp.quantizer import Bytes, Floats, quantize_rows
from cerebellum.quants import quant_type
from cerebellum.sharing import ALONE, Threads

WIDTH = 256


class Counting(ThreadPoolExecutor):
    """A pool that counts what it was given."""

    given = 0

    def submit(self, work: Any, /, *args: Any, **named: Any) -> Future[Any]:
        self.given += 1
        return super().submit(work, *args, **named)


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
@pytest.mark.parametrize("floats", [1, 5 * WIDTH, 1 << 18])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_any_sharing_gives_the_bytes_of_single_rows(
    monkeypatch: pytest.MonkeyPatch, target: str, floats: int, n_threads: int
) -> None:
    """Of three experts, whose boundaries no piece and no part ends at by itself."""
    monkeypatch.setattr(quantizer, "_LEAST_WEIGHTS", 2 * WIDTH)
    monkeypatch.setattr(quantizer, "_FLOATS", floats)
    tensor, values = weights(WIDTH, 37, 3)
    importance = np.random.default_rng(1).random((3, WIDTH), np.float32) + 0.1
    with Counting(3) as pool:
        threads = Threads(pool, n_threads)
        ours = quantize_rows(tensor, values.view(np.uint8), target, importance, threads)
    assert np.array_equal(ours, row_by_row(values, target, importance, 37))
    assert pool.given == n_threads - 1


def test_a_small_tensor_is_shared_too() -> None:
    """What a trial waits for on the bundled model: an eighth of a million weights in Q2_K, on all threads."""
    tensor, values = weights(WIDTH, 512)
    with Counting(3) as pool:
        ours = quantize_rows(tensor, values.view(np.uint8), "Q2_K", None, Threads(pool, 4))
    assert pool.given == 3
    assert np.array_equal(ours, quantize_rows(tensor, values.view(np.uint8), "Q2_K", None, ALONE))


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 60), st.integers(1, 90))
def test_parts_are_all_rows_of_one_expert_each(first: int, more: int, per_expert: int, most: int) -> None:
    """In order, none twice, none larger than allowed, and cut only where they must be."""
    parts = list(quantizer._parts(first, first + more, per_expert, most))
    assert [row for a, b in parts for row in range(a, b)] == list(range(first, first + more))
    for a, b in parts:
        assert b - a <= most and a // per_expert == (b - 1) // per_expert
        assert b - a == most or b % per_expert == 0 or b == first + more
