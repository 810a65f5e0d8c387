"""A model in several files is to llama.cpp the model in one: the same sums, the same quantized file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cerebellum import api
from cerebellum.gguf.split_file import SplitLimit, write_set
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine


def test_figures_and_files_are_those_of_the_whole(tmp_path: Path) -> None:
    tiny.llama(tmp_path / "m.gguf")
    first = write_set(tmp_path / "m.gguf", tmp_path / "m.gguf", SplitLimit(max_tensors=10))[0]
    (tmp_path / "text.txt").write_text(tiny.text(400))
    one, two = (
        api.perplexity(path, tmp_path / "text.txt", ctx=64, chunks=2, threads=1)
        for path in (tmp_path / "m.gguf", first)
    )
    assert one == two
    api.quantize(tmp_path / "m.gguf", "Q4_K_M", out=tmp_path / "a.gguf")
    api.quantize(first, "Q4_K_M", out=tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    made = api.quantize(first, "Q4_K_M", out=tmp_path / "c.gguf", split_max_tensors=10)
    assert len(made.model.files) > 1
    ours, theirs = (
        api.perplexity(path, tmp_path / "text.txt", ctx=64, chunks=2, threads=1)
        for path in (made.model.path, tmp_path / "a.gguf")
    )
    assert ours == theirs
