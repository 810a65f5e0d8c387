"""Importance matrices collected in the engine: sums against a slow reference, the rows that count, going on, the stock program."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import cerebellum
from benchmarks.stock import find_stock, why_not_built
from cerebellum.domain import Corpus
from cerebellum.errors import EngineError
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.importance import Importance
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Settings
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

BACKEND, N_CTX = LlamaBackend(), 64
EPSILON = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("importance")
    tiny.llama(made / "llama.gguf")
    tiny.experts(made / "experts.gguf")
    tiny.gemma4(made / "gemma4.gguf")
    (made / "text.txt").write_text(tiny.text(1200))
    return made


def collected(
    model: Path, n_chunks: int, *, begin: Importance | None = None, first: int = 0, with_output: bool = False
) -> tuple[Importance, Corpus]:
    engine: EngineProcess = BACKEND.open(model, Settings(n_ctx=N_CTX, n_threads=2))
    try:
        corpus = engine.corpus("words", tiny.text(1200), N_CTX)
        chunks = corpus.chunks(range(first, first + n_chunks))
        last = list(engine.importance(chunks, begin=begin, with_output=with_output))[-1]
        assert last.n_chunks == n_chunks and last.importance is not None
        return last.importance, corpus
    finally:
        engine.close()


def tensor(model: Path, name: str) -> npt.NDArray[np.float64]:
    found = next(t for t in gguf.GGUFReader(model).tensors if t.name == name)
    return np.asarray(found.data, np.float64)


def test_the_first_blocks_sums_are_those_of_the_normalized_embeddings(folder: Path) -> None:
    """What enters the first queries can be computed from the file: the tokens' rows, normalized, times the norm's weights."""
    model = folder / "llama.gguf"
    found, corpus = collected(model, 3)
    tokens = np.concatenate([chunk.tokens for chunk in corpus.chunks(range(3))])
    rows = tensor(model, "token_embd.weight")[tokens]
    rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + EPSILON)
    rows *= tensor(model, "blk.0.attn_norm.weight")
    entry = found.entries["blk.0.attn_q.weight"]
    np.testing.assert_allclose(entry.values, (rows**2).sum(axis=0), rtol=2e-5)
    assert entry.counts.tolist() == [3 * N_CTX]


def test_weights_of_one_input_have_one_sum_and_the_output_only_where_asked_for(folder: Path) -> None:
    """Queries, keys and values read the same rows; without the output's product no other entry changes."""
    plain, _ = collected(folder / "llama.gguf", 2)
    whole, _ = collected(folder / "llama.gguf", 2, with_output=True)
    for one, other in (("attn_q", "attn_k"), ("attn_q", "attn_v"), ("ffn_gate", "ffn_up")):
        np.testing.assert_array_equal(
            plain.entries[f"blk.1.{one}.weight"].values, plain.entries[f"blk.1.{other}.weight"].values
        )
    assert set(whole.entries) - set(plain.entries) == {"output.weight"}
    for name, sums in plain.entries.items():
        np.testing.assert_array_equal(sums.values, whole.entries[name].values)


def test_every_tokens_experts_are_counted_once_each(folder: Path) -> None:
    """Two of four experts a token; the experts' inputs together are the block's inputs, twice."""
    found, _ = collected(folder / "experts.gguf", 4)
    up, gate = found.entries["blk.0.ffn_up_exps.weight"], found.entries["blk.0.ffn_gate_inp.weight"]
    assert up.counts.shape == (tiny.EXPERTS,) and up.counts.sum() == 2 * 4 * N_CTX
    together = up.values.astype(np.float64).reshape(tiny.EXPERTS, -1).sum(axis=0)
    np.testing.assert_allclose(together, 2 * gate.values.astype(np.float64), rtol=1e-5)
    np.testing.assert_array_equal(up.counts, found.entries["blk.0.ffn_down_exps.weight"].counts)


def test_going_on_gives_the_same_bits(folder: Path) -> None:
    """32 chunks go side by side here: after a whole number of such, what is added later is added as if never stopped."""
    whole, _ = collected(folder / "llama.gguf", 40)
    first, _ = collected(folder / "llama.gguf", 32)
    second, _ = collected(folder / "llama.gguf", 8, begin=first, first=32)
    assert whole.n_chunks == second.n_chunks == 40
    for name, sums in whole.entries.items():
        np.testing.assert_array_equal(sums.values, second.entries[name].values)
        np.testing.assert_array_equal(sums.counts, second.entries[name].counts)


def test_what_is_of_another_model_is_an_error_and_no_crash(folder: Path) -> None:
    """Sums of another width can't be gone on from."""
    found, _ = collected(folder / "llama.gguf", 1)
    sums = found.entries["blk.0.attn_q.weight"]
    wrong = replace(found, entries={"blk.0.attn_q.weight": replace(sums, values=sums.values[:64].copy())})
    with pytest.raises(EngineError, match="attn_q"):
        collected(folder / "llama.gguf", 1, begin=wrong)


@pytest.mark.parametrize("name", ["llama", "experts", "gemma4"])
def test_the_same_as_the_stock_program(folder: Path, tmp_path: Path, name: str) -> None:
    """The same tensors, counts and sums, bit for bit, and the same metadata: dense, experts, a tied and a per-layer embedding."""
    stock = find_stock()
    if stock is None:
        pytest.skip(why_not_built())
    model, text, theirs = folder / f"{name}.gguf", folder / "text.txt", tmp_path / "stock.gguf"
    run = [
        stock.imatrix,
        "-m",
        model,
        "-f",
        text,
        "-c",
        N_CTX,
        "-o",
        theirs,
        "-t",
        2,
        "--no-ppl",
        "--no-repack",
        "-ngl",
        0,
    ]
    subprocess.run([str(word) for word in run], check=True, capture_output=True, timeout=300)
    made = cerebellum.imatrix(model, text, out=tmp_path / "ours.gguf", ctx=N_CTX, threads=2)
    ours, other = read_importance(made.path, N_CTX), read_importance(theirs, N_CTX)
    assert set(ours.entries) == set(other.entries)
    assert (ours.datasets, ours.n_chunks, ours.chunk_size) == (other.datasets, other.n_chunks, other.chunk_size)
    for entry, sums in other.entries.items():
        np.testing.assert_array_equal(ours.entries[entry].counts, sums.counts)
        np.testing.assert_array_equal(ours.entries[entry].values, sums.values)
