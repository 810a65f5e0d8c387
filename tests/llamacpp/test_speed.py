"""Timing as llama-bench does it: what is decoded, from where, how often, and that the process goes on as before."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import pytest

from cerebellum.errors import ModelFileError
from cerebellum.llamacpp import native, speed
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings, SpeedUse, Timed
from cerebellum.llamacpp.trial import decoding
from tests.llamacpp import tiny

#: Repacked weights need kernels that not every machine has.
USE = SpeedUse(40, 3, 2, repack=False)


@pytest.mark.parametrize("make", [tiny.llama, tiny.mamba])
def test_it_decodes_what_llama_bench_decodes(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt as one batch, a generation token by token, each time from position 0, after one pass and one token that don't count."""
    seen: list[tuple[int, int]] = []

    def decode(context: Any, batch: Any) -> None:
        seen.append((batch.n_tokens, lc.llama_memory_seq_pos_max(lc.llama_get_memory(context), 0) + 1))
        decoding.decode(context, batch)

    monkeypatch.setattr(speed, "decode", decode)
    found = list(speed.timed(make(tmp_path / "model.gguf"), Settings(n_threads=1), USE))
    assert [each.generation for each in found] == [False, False, True, True] and all(t.seconds > 0 for t in found)
    assert seen == [(40, 0)] * 3 + [(1, 0)] + [(1, 0), (1, 1), (1, 2)] * 2
    assert os.environ["LLAMA_GRAPH_REUSE_DISABLE"] == "1" and native.native_log() is not None


def test_more_tokens_than_a_batch_are_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "N_BATCH", 16)
    sizes: list[int] = []

    def decode(context: Any, batch: Any) -> None:
        sizes.append(batch.n_tokens)
        decoding.decode(context, batch)

    monkeypatch.setattr(speed, "decode", decode)
    list(speed.timed(tiny.llama(tmp_path / "model.gguf"), Settings(n_threads=1), SpeedUse(40, 0, 1, repack=False)))
    assert sizes == [16, 16, 8] * 2


def test_the_backend_times_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The stream can be dropped in its midst; a file that is none is named."""
    events = LlamaBackend().speed(tiny.llama(tmp_path / "model.gguf"), Settings(n_threads=1), USE)
    assert isinstance(next(events), Timed)
    events.close()  # type: ignore[attr-defined]
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"bad\.gguf"):
        list(LlamaBackend().speed(tmp_path / "bad.gguf", Settings(n_threads=1), USE))
