"""Only what predicts a next token is measured: what the metadata say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerebellum.errors import ModelFileError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.next_token import check_predicts
from cerebellum.testing import write_fake_model


def checked(tmp_path: Path, architecture: str = "llama", **metadata: Any) -> None:
    model = read_model(write_fake_model(tmp_path / "model.gguf"))
    check_predicts(replace(model, architecture=architecture, metadata=metadata))


@pytest.mark.parametrize("architecture", ["llama", "gemma4", "qwen3", "mamba", "an-architecture-of-tomorrow"])
def test_decoders_pass(architecture: str, tmp_path: Path) -> None:
    """Whatever isn't known to be something else, with a pooling type too: embeddings can be had of a decoder."""
    checked(tmp_path, architecture)
    checked(tmp_path, architecture, **{f"{architecture}.attention.causal": True, f"{architecture}.pooling_type": 3})


@pytest.mark.parametrize(
    ("architecture", "word"),
    [("bert", "encoder"), ("nomic-bert-moe", "encoder"), ("t5encoder", "encoder"), ("t5", "writes another"), ("llada", "diffusion"),
     ("eagle3", "hidden states"), ("clip", "no language model")],
)  # fmt: skip
def test_others_are_refused(architecture: str, word: str, tmp_path: Path) -> None:
    """Whether or not their metadata say that attention isn't causal."""
    ways: list[dict[str, Any]] = [{}, {f"{architecture}.attention.causal": True}]
    for metadata in ways:
        with pytest.raises(ModelFileError, match=rf"model\.gguf .*{word}"):
            checked(tmp_path, architecture, **metadata)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"llama.attention.causal": False}, "attention.causal = false"),
        ({"general.type": "mmproj"}, "projector"),
        ({"general.type": "adapter"}, "adapter"),
        ({"tokenizer.ggml.model": "none"}, "no tokenizer"),
    ],
)
def test_metadata_that_say_so(metadata: dict[str, Any], word: str, tmp_path: Path) -> None:
    """A decoder's architecture is no promise."""
    with pytest.raises(ModelFileError, match=word):
        checked(tmp_path, **metadata)


def test_another_architecture_s_key_says_nothing(tmp_path: Path) -> None:
    """llama.cpp reads the key of the model's own architecture alone."""
    metadata: dict[str, Any] = {"bert.attention.causal": False}
    checked(tmp_path, **metadata)
