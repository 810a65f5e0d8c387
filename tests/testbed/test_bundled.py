"""What ships: whole, as its generator makes it, computed by llama.cpp as by transformers, and trained."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from cerebellum import bundled
from testbed import card, curve, evaluate, questions, tasks
from testbed.baselines import Trigram
from testbed.bundle import SUMS, TEXT_BYTES, sums
from testbed.documents import text_of
from testbed.model import SHAPES, VOCAB
from testbed.runner import Runner

FOLDER = bundled.FOLDER
MB = 1_000_000


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """The bundled model, opened."""
    with Runner(bundled.MODEL, n_ctx=1024, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """What was measured when the model was bundled."""
    found: dict[str, Any] = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    return found


def test_sums_are_those_of_the_files() -> None:
    """Every file is listed with its hash, and nothing else is."""
    assert (FOLDER / SUMS).read_text(encoding="utf-8") == sums(FOLDER)


def test_it_is_small() -> None:
    """All of it in 32 MB; each text under 250 kB."""
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 32 * MB
    assert all(path.stat().st_size < MB / 4 for path in (bundled.SEARCH_TEXT, bundled.REPORT_TEXT))


@pytest.mark.parametrize("split", ["search", "report"])
def test_texts_are_the_generators(split: str) -> None:
    """The shipped texts are what the generator writes for these splits today."""
    assert (FOLDER / f"{split}.txt").read_text(encoding="utf-8") == text_of(split, TEXT_BYTES)


def test_questions_are_the_generators() -> None:
    """The shipped sets are the held-out ones that the generator makes today."""
    assert {path.stem: questions.read(path) for path in bundled.QUESTIONS.iterdir()} == questions.sets()


def test_card_and_curve_are_made_from_the_figures(figures: dict[str, Any]) -> None:
    """No figure on the card was typed by hand."""
    log = questions.read(FOLDER / "training.jsonl")
    lines = {f"{name}, report split": figures["perplexity"][name]["nats"] for name in ("unigram", "trigram")}
    assert (FOLDER / "MODEL.md").read_text(encoding="utf-8") == card.text(figures, log)
    assert (FOLDER / "training.svg").read_text(encoding="utf-8") == curve.svg(log, lines)


def test_its_shape_is_that_of_the_published_case(figures: dict[str, Any]) -> None:
    """Sizes in the file's header, matrices whose rows are multiples of 256, 8 to 20 million parameters, no output matrix."""
    shape = SHAPES[figures["shape"]]
    file = gguf.GGUFReader(bundled.MODEL)
    fields = {name.removeprefix("gemma4."): field.contents() for name, field in file.fields.items()}
    assert fields["block_count"] == shape.blocks >= 14
    assert fields["attention.shared_kv_layers"] == shape.shared
    assert fields["attention.sliding_window"] == shape.window
    assert fields["feed_forward_length"] == shape.feed_forwards
    names = {tensor.name for tensor in file.tensors}
    assert "per_layer_token_embd.weight" in names and "output.weight" not in names
    assert all(t.shape[0] % 256 == 0 for t in file.tensors if len(t.shape) == 2)
    assert {t.tensor_type.name for t in file.tensors if len(t.shape) == 2} == {"F16"}
    assert 8 * MB < sum(t.n_elements for t in file.tensors) < 20 * MB


@pytest.mark.engine
def test_logits_are_those_of_transformers(runner: Runner) -> None:
    """The kept sample of transformers' logits, over eight sliding windows: llama.cpp gives them, and the same best tokens."""
    kept = json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))
    assert len(kept["tokens"]) >= 8 * SHAPES["world-14"].window
    logits = runner.logits(kept["tokens"])
    grid = logits[:: kept["every_token"], :: kept["every_logit"]]
    assert np.abs(grid - np.array(kept["logits"])).max() < 0.1
    assert (logits.argmax(1) == np.array(kept["best"])).mean() > 0.995


@pytest.mark.engine
def test_texts_hold_eighty_chunks(runner: Runner) -> None:
    """Both texts are long enough for 80 chunks of 512 tokens, and begin with the reference's tokens."""
    kept = json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))["tokens"]
    sizes = {
        path: runner.tokenize(path.read_text(encoding="utf-8")) for path in (bundled.SEARCH_TEXT, bundled.REPORT_TEXT)
    }
    assert all(len(tokens) >= 80 * 512 for tokens in sizes.values())
    assert sizes[bundled.REPORT_TEXT][: len(kept)] == kept


@pytest.mark.engine
@pytest.mark.train
@pytest.mark.parametrize("path", [bundled.SEARCH_TEXT, bundled.REPORT_TEXT], ids=["search", "report"])
def test_tokens_are_those_of_hf(runner: Runner, path: Path) -> None:
    """llama.cpp reads the whole text as HF tokenizers do."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the `train` extra: pip install -e '.[train]'")
    text = path.read_text(encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json")).encode(text).ids
    assert runner.tokenize(text) == [runner.bos, *theirs]


@pytest.mark.engine
def test_it_has_learned_the_text(runner: Runner, figures: dict[str, Any]) -> None:
    """On held-out text its perplexity is less than two thirds of a trigram's that counted a part of its training text."""
    chunks = evaluate.chunks_of(runner.tokenize(bundled.REPORT_TEXT.read_text(encoding="utf-8")), runner.bos)[:8]
    trigram = Trigram(evaluate.training_tokens(runner, 2 * MB), VOCAB)
    model = evaluate.model_nll(runner, chunks).mean()
    assert model < evaluate.baseline_nll(trigram.nll_nats, chunks).mean() + math.log(2 / 3)
    told = figures["perplexity"]
    assert told["model"]["perplexity"] < told["trigram"]["perplexity"] * 2 / 3 < told["unigram"]["perplexity"]


@pytest.mark.engine
@pytest.mark.parametrize("name", ["facts", "endings", "functions"])
def test_it_has_learned_to_answer(runner: Runner, figures: dict[str, Any], name: str) -> None:
    """The first questions of each held-out set are answered far better than by chance, as the stored figures say."""
    answer, which, chance = tasks.TASKS[name]
    rows = questions.sets()[which][:24]
    assert sum(answer(runner, rows)) / len(rows) > chance + 0.2
    assert figures["held out"][name]["low"] > chance + 0.25


def test_sums_notice_a_change(tmp_path: Path) -> None:
    """A changed byte changes the line, a new file adds one."""
    (tmp_path / "a").write_bytes(b"1")
    before = sums(tmp_path)
    assert before == f"{hashlib.sha256(b'1').hexdigest()}  a\n"
    (tmp_path / "a").write_bytes(b"2")
    assert sums(tmp_path) != before
