"""Our exporter: llama.cpp computes from its file what transformers computes, and reads text as HF tokenizers do.

On a model with random weights, so that the check stands apart from the one that ships (`test_bundled.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the `train` extra: pip install -e '.[train]'")
pytest.importorskip("transformers", reason="needs the `train` extra: pip install -e '.[train]'")
tokenizers = pytest.importorskip("tokenizers", reason="needs the `train` extra: pip install -e '.[train]'")

from testbed import export, reference  # noqa: E402
from testbed.documents import text_of  # noqa: E402
from testbed.export import weights_of, write  # noqa: E402
from testbed.model import BOS, END_OF_TURN, SHAPES, START_OF_TURN, new_model, train_tokenizer  # noqa: E402
from testbed.runner import Runner  # noqa: E402

pytestmark = pytest.mark.train
TEXT = text_of("report", 4_000)
ODD = "Größe: 12 €  \t\n\n\n  naïve — “quoted” 漢字 🙂\r\n\x00 don't we'll   trailing  "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: a tokenizer and a checkpoint with random weights.

    Queries are kept small. With random ones of usual size attention is so sharp that the rounding of keys to F16 is amplified from block to
    block, and a right file differs from transformers by a fifth of the logits' spread.
    """
    folder = tmp_path_factory.mktemp("run")
    train_tokenizer(text_of("train", 300_000), folder / "tokenizer.json")
    model = new_model(SHAPES["world-14"], seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.04) if parameter.dim() == 2 else parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            parameter.mul_(0.2 if "q_norm" in name else 1)
    torch.save({"model": model.state_dict()}, folder / "checkpoint.pt")
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """The run as a GGUF."""
    path = run / "model.gguf"
    write(path, "world-14", weights_of(run), run / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def opened(exported: Path) -> Any:
    """The GGUF in llama.cpp."""
    with Runner(exported, n_ctx=1024, threads=1) as runner:
        yield runner


@pytest.mark.engine
def test_logits_are_those_of_transformers(opened: Runner, exported: Path) -> None:
    """Over eight sliding windows of text the logits agree to a hundredth of their spread, near the start and far on."""
    shape = SHAPES["world-14"]
    tokens = opened.tokenize(TEXT)[:1024]
    assert len(tokens) == 8 * shape.window
    ours, theirs = opened.logits(tokens), reference.transformers_logits(exported, shape, tokens)
    for part in (slice(0, shape.window), slice(shape.window, None), slice(-shape.window, None)):
        found = reference.agreement(ours[part], theirs[part])
        assert found["mean_abs_difference"] < 0.01 * found["spread"]
        assert found["max_abs_difference"] < 0.1 * found["spread"]
        assert found["top1_agreement"] > 0.97


@pytest.mark.engine
def test_a_wrong_rotation_would_be_seen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every dimension of a full-attention head turned, the check above would fail by far."""
    shape, wrong = SHAPES["world-14"], run / "turning.gguf"
    monkeypatch.setattr(export, "FOREVER", 1.0)
    export.write(wrong, "world-14", export.weights_of(run), run / "tokenizer.json")
    with Runner(wrong, n_ctx=512, threads=1) as runner:
        tokens = runner.tokenize(TEXT)[:512]
        found = reference.agreement(runner.logits(tokens), reference.transformers_logits(wrong, shape, tokens))
    assert found["mean_abs_difference"] > 0.1 * found["spread"]


@pytest.mark.parametrize("text", [TEXT, ODD, "", " ", "\n"], ids=["report", "odd", "empty", "space", "line break"])
@pytest.mark.engine
def test_tokens_are_those_of_hf(opened: Runner, run: Path, text: str) -> None:
    """The same ids for text of the world and for anything else, with BOS before them."""
    theirs = tokenizers.Tokenizer.from_file(str(run / "tokenizer.json")).encode(text).ids
    assert opened.tokenize(text) == [BOS, *theirs]
    assert opened.tokenize(text, bos=False) == theirs
    assert opened.text(theirs) == text


@pytest.mark.engine
def test_special_tokens_are_read_on_request_only(opened: Runner, run: Path) -> None:
    """A chat's marks are single tokens where special tokens are read, and plain text where they aren't."""
    chat = "<start_of_turn>user\nWhere does Mira live?<end_of_turn>\n"
    theirs = tokenizers.Tokenizer.from_file(str(run / "tokenizer.json")).encode(chat).ids
    read = opened.tokenize(chat, bos=False, special=True)
    assert read == theirs and read[0] == START_OF_TURN and END_OF_TURN in read
    assert START_OF_TURN not in opened.tokenize(chat)


def test_the_same_weights_give_the_same_bytes(run: Path, exported: Path) -> None:
    """Nothing of the day, the machine or the path goes into the file."""
    again = run / "elsewhere" / "again.gguf"
    write(again, "world-14", weights_of(run), run / "tokenizer.json")
    assert again.read_bytes() == exported.read_bytes()


def test_a_weight_without_a_name_is_refused(run: Path) -> None:
    """A tensor that llama.cpp's gemma4 doesn't know is an error, and no file is left."""
    weights = {**weights_of(run), "model.layers.0.surprise.weight": np.zeros((256, 256), np.float32)}
    with pytest.raises(ValueError, match=r"model\.layers\.0\.surprise\.weight has no name"):
        write(run / "wrong.gguf", "world-14", weights, run / "tokenizer.json")
    assert not (run / "wrong.gguf").exists()


def test_a_missing_weight_is_noticed(run: Path) -> None:
    """Reading back a file that lacks a tensor is an error, not a model with a random matrix in it."""
    weights = weights_of(run)
    del weights["model.layers.3.mlp.gate_proj.weight"]
    write(run / "lacking.gguf", "world-14", weights, run / "tokenizer.json")
    with pytest.raises(ValueError, match=r"blk\.3\.ffn_gate\.weight"):
        reference.load_into(new_model(SHAPES["world-14"]), SHAPES["world-14"], run / "lacking.gguf")
