"""Generated models: the arithmetic of their shapes, their values, and that llama.cpp opens them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from benchmarks.models import E2B, MEDIUM, Gemma4, NoRoomError, Shape, n_weights, small, write_model
from benchmarks.models import write as writing
from benchmarks.models.vocabulary import N_FIXED, tokens
from benchmarks.models.write import n_bytes, stored
from cerebellum import bundled
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings

TINY = Gemma4(
    blocks=10, shared=5, width=256, feed_forward=256, vocabulary=512, heads=2, head=64, head_full=128, per_layer=256, window=32, period=5
)  # fmt: skip


def test_the_published_shape_has_the_published_size() -> None:
    """Gemma 4 E2B by hand, from its published sizes: embeddings, 15 blocks with keys and values, 20 twice as wide without."""
    vocabulary, width, per_layer = 262_144, 1536, 256
    embeddings = vocabulary * width + vocabulary * 35 * per_layer + 35 * per_layer * width
    attention = {256: 2 * 8 * 256 * width, 512: 2 * 8 * 512 * width}
    keys = 12 * 2 * 256 * width + 3 * 2 * 512 * width
    every = 28 * attention[256] + 7 * attention[512] + 35 * 2 * per_layer * width
    feed_forward = 3 * width * (15 * 6144 + 20 * 12288)
    norms = 35 * (5 * width + 1) + (28 + 12) * 256 + (7 + 3) * 512 + width + per_layer + 256
    assert n_weights(E2B) == embeddings + keys + every + feed_forward + norms
    assert [block for block in range(35) if not E2B.is_sliding(block)] == [4, 9, 14, 19, 24, 29, 34]
    assert 9.2e9 < n_bytes(E2B) < 9.3e9


def test_the_medium_shape_has_rows_that_no_type_falls_back_on() -> None:
    """About 130 million weights; every row of a matrix is a multiple of 256."""
    assert 125e6 < n_weights(MEDIUM) < 135e6
    assert all(shape[-1] % 256 == 0 for _, shape in MEDIUM.tensors() if len(shape) > 1)


@pytest.mark.engine
@pytest.mark.parametrize("shape", [TINY, small(2, 512)], ids=["gemma4", "llama"])
def test_llama_cpp_opens_what_is_generated(shape: Shape, tmp_path: Path) -> None:
    """It loads, the file has the shape's tensors and sizes, the bundled text has tokens beyond the bytes, and all logits are finite."""
    path = write_model(tmp_path / "model.gguf", shape)
    found = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in GGUFReader(path).tensors}
    assert found == dict(shape.tensors())
    command = [
        sys.executable,
        "-m",
        "benchmarks.bare_pass",
        path,
        "--text",
        bundled.SEARCH_TEXT,
        "--ctx",
        "64",
        "--chunks",
        "2",
    ]
    done = subprocess.run([*map(str, command), "--passes", "1"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["finite"] is True
    engine = LlamaBackend().open(path, Settings(n_ctx=64))
    try:
        corpus = engine.corpus("text", bundled.SEARCH_TEXT.read_text(encoding="utf-8")[:4000], 64)
    finally:
        engine.close()
    words = np.concatenate([corpus.chunk(i).tokens[1:] for i in range(corpus.n_chunks)])
    assert (words >= N_FIXED).mean() > 0.8


def test_no_row_is_another_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the pool of values is far smaller than the tensor; and the same seed gives the same bytes."""
    monkeypatch.setattr(writing, "POOL", 10_007)
    path, again = (write_model(tmp_path / name, small(1, 512)) for name in ("a.gguf", "b.gguf"))
    for tensor in GGUFReader(path).tensors:
        if len(tensor.shape) > 1:
            assert len(np.unique(tensor.data, axis=0)) == len(tensor.data)
            assert float(tensor.data.astype(np.float64).std()) == pytest.approx(int(tensor.shape[0]) ** -0.5, rel=0.05)
    assert path.read_bytes() == again.read_bytes()


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    """Ties go to the even neighbour, others to the nearer one."""
    bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF817FFF], np.uint32)
    assert stored(bits.view(np.float32), "BF16").tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF81]


def test_a_vocabulary_has_no_token_twice() -> None:
    """Whatever its size; one too small for the bytes is refused."""
    assert len(set(tokens(30_000))) == 30_000
    with pytest.raises(ValueError, match="no room"):
        tokens(N_FIXED)


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how much is needed; nothing is left."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
    with pytest.raises(NoRoomError, match=r"1\.0 GB left, the model takes 9\.3 GB"):
        write_model(tmp_path / "model.gguf", E2B)
    assert not list(tmp_path.iterdir())
