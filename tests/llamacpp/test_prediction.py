"""Models that predict no next token are known by their logits too, whatever their metadata say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cerebellum.domain import Trial, TrialKind
from cerebellum.errors import ModelFileError
from cerebellum.llamacpp import vocabulary
from cerebellum.llamacpp.generate.protocol import Continuation
from cerebellum.llamacpp.generate.responder import LlamaResponder
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.llamacpp.trial.engine import LlamaEngine
from cerebellum.scoring.reference import ReferenceStore
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

SETTINGS = Settings(n_ctx=32, n_threads=1)
ENCODERS: dict[str, Callable[[Path], Path]] = {
    "bert": tiny.bert,
    "bert that doesn't say": lambda path: tiny.bert(path, causal=None),
    "llama that isn't causal": lambda path: tiny.llama(path, causal=False),
}
DECODERS: dict[str, Callable[[Path], Path]] = {
    "llama": tiny.llama,
    "experts": tiny.experts,
    "gemma3": tiny.gemma3,
    "gemma4": tiny.gemma4,
    "mamba": tiny.mamba,
}


@pytest.mark.parametrize("name", ENCODERS)
def test_refused_when_opened(name: str, tmp_path: Path) -> None:
    """By metadata: nothing is computed, so nothing can abort."""
    with pytest.raises(ModelFileError, match="predicts no next token"):
        LlamaBackend().open(ENCODERS[name](tmp_path / "model.gguf"), SETTINGS)
    with pytest.raises(ModelFileError, match="predicts no next token"):
        LlamaBackend().respond(tmp_path / "model.gguf", SETTINGS)


@pytest.mark.parametrize("name", ENCODERS)
def test_refused_by_the_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the metadata give nothing away: in every way to have logits."""
    path = ENCODERS[name](tmp_path / "model.gguf")
    monkeypatch.setattr(vocabulary, "check_predicts", lambda _model: None)
    engine = LlamaEngine(path, SETTINGS, Sources(path))
    chunks = engine.corpus("words", tiny.text(), 32).chunks([0, 1])
    with pytest.raises(ModelFileError, match="predicts no next token"):
        list(engine.score((), chunks))
    with pytest.raises(ModelFileError, match="predicts no next token"):
        list(engine.sweep([Trial("base", TrialKind.BASE)], chunks))
    with pytest.raises(ModelFileError, match="predicts no next token"):
        list(engine.capture(chunks, ReferenceStore(tmp_path / "reference", None)))
    engine.close()
    responder = LlamaResponder(path, SETTINGS)
    with pytest.raises(ModelFileError, match="predicts no next token"):
        list(responder.likelihoods([Continuation(chunks[0].tokens[:4], chunks[0].tokens[4:6])]))
    responder.close()


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_are_measured(name: str, tmp_path: Path) -> None:
    """Sliding windows, experts, per-layer inputs, a recurrent state: none of them sees what comes later."""
    engine = LlamaEngine(DECODERS[name](tmp_path / "model.gguf"), SETTINGS)
    assert list(engine.score((), engine.corpus("words", tiny.text(), 32).chunks([0])))
    engine.close()


def test_a_weight_of_whole_numbers_is_refused_before_it_ends_the_process(tmp_path: Path) -> None:
    """Stored so a matrix makes llama.cpp's product read through a null pointer."""
    path = tiny.llama(tmp_path / "model.gguf")
    data = bytearray(path.read_bytes())
    place = data.index(b"blk.0.ffn_gate.weight") + len("blk.0.ffn_gate.weight") + 4 + 2 * 8
    data[place : place + 4] = (25).to_bytes(4, "little")  # GGML_TYPE_I16, as large as F16
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"holds blk\.0\.ffn_gate\.weight as I16"):
        LlamaBackend().open(path, Settings(n_ctx=64, n_threads=1))
