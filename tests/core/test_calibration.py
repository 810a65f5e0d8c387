"""`run --imatrix auto`: when it is made, on what, how it is kept apart and judged; on a fake backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.errors import InputError, TextError, TypeChoiceError
from cerebellum.gguf.imatrix_write import read_importance, write_importance
from cerebellum.gguf.importance import Importance, Sums
from cerebellum.results import RunResult
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.text.corpus_overlap import N_WORDS, shared_ngrams, word_ids, words_shared

ROLE = "ffn_gate"


def words(n: int, seed: int) -> str:
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 500, n))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(words(3000, 1))
    (tmp_path / "calibration.txt").write_text(words(3000, 2))
    return write_fake_model(tmp_path / "model.gguf", n_blocks=2)


def run(model: Path, backend: FakeBackend | None = None, **more: Any) -> RunResult:
    given = {"text": model.parent / "text.txt", "ctx": 64, "out": model.parent / "out", "n_random": 0, **more}
    return api.choose(model, backend=backend or FakeBackend(), **given)


def test_none_is_made_where_nothing_needs_it(model: Path) -> None:
    assert run(model).facts["imatrix"] is None
    assert not (model.parent / "out" / "imatrix.gguf").exists()


@pytest.mark.parametrize("options", [{"imatrix": "auto"}, {"to": "IQ2_S"}, {"calibration_text": "calibration.txt"}])
def test_one_is_made_where_it_is_asked_for_or_of_use(model: Path, options: dict[str, Any]) -> None:
    """Asked for by name, by a type that needs it, by a text to make it on; the bundled text where none is named."""
    if "calibration_text" in options:
        options = {"calibration_text": model.parent / "calibration.txt"}
    result = run(model, **options)
    assert result.facts["imatrix"]["file"] == "imatrix.gguf"
    made = read_importance(model.parent / "out" / "imatrix.gguf", 512)
    assert made.datasets == ("calibration.txt" if "calibration_text" in options else "general.txt",)
    assert run(model, **options).facts["imatrix"]["sha256"] == result.facts["imatrix"]["sha256"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text,
        lambda text: "shifted by a few words " + text,
        lambda text: words(2000, 3) + " " + text[200:1200] + " " + words(2000, 4),
        lambda text: text.replace(" ", "\r\n\t "),
        lambda text: text.upper(),
    ],
    ids=["same", "shifted", "inside", "spaces", "case"],
)
def test_a_calibration_text_that_holds_what_measures_is_refused(model: Path, spoil: Any) -> None:
    copy = model.parent / "copy.txt"
    copy.write_bytes(spoil((model.parent / "text.txt").read_text()).encode())
    with pytest.raises(TextError, match=r"copy\.txt"):
        run(model, calibration_text=copy)
    assert not (model.parent / "out" / "imatrix.gguf").exists()


def slow_shared(a: Sequence[int], b: Sequence[int], n: int) -> int:
    return len(
        {tuple(a[i : i + n]) for i in range(len(a) - n + 1)} & {tuple(b[i : i + n]) for i in range(len(b) - n + 1)}
    )


def test_shared_runs_are_counted_as_a_slow_count_does() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 5):
        a, b = (rng.integers(0, 4, 200).astype(np.int32) for _ in range(2))
        assert shared_ngrams(a, b, n) == slow_shared(a.tolist(), b.tolist(), n)
    assert shared_ngrams(a[:3], b, 5) == 0


def test_one_word_less_than_a_run_is_no_passage() -> None:
    text = words(N_WORDS, 5)
    assert words_shared(f"before {text} after", [f"other {text} end"]) == 1
    assert words_shared(f"before {text.partition(' ')[2]} after", [f"other {text} end"]) == 0
    assert [len(ids) for ids in word_ids("Das ist: gut.", "図書館 です")] == [5, 5]


def test_a_tensor_that_it_does_not_cover_is_left_out_and_where_none_is_left_the_job_is_refused(model: Path) -> None:
    """Before it begins: no folder is made."""
    half = model.parent / "half.gguf"
    entries = {f"blk.0.{ROLE}.weight": Sums(np.ones(256, np.float32), np.array([1000]))}
    write_importance(Importance(entries, ("x",), 512), half, model.parent / "p")
    with pytest.raises(TypeChoiceError, match=r"none of the 1 chosen tensors can be IQ2_S"):
        run(model, imatrix=half, to="IQ2_S", blocks=(1,))
    assert not (model.parent / "out").exists()
    found = run(model, imatrix=half, to="IQ2_S")
    assert [row.effect.tensor for row in found.sweep.rows] == [f"blk.0.{ROLE}.weight"]
    assert {skip.tensor for skip in found.sweep.plan.skipped} == {f"blk.{n}.{ROLE}.weight" for n in range(1, 2)}


def test_two_ways_to_say_it_are_one_too_many(model: Path) -> None:
    with pytest.raises(InputError, match="calibration_text"):
        run(model, imatrix="none", calibration_text=model.parent / "calibration.txt")


@dataclass(frozen=True)
class Helped(FakeBackend):
    """A base quantized without importance has its embedding in a type that damages."""

    def types(self, source: Path, ftype: str, overrides: Any = (), imatrix: Path | None = None) -> dict[str, str]:
        found = dict(super().types(source, ftype, overrides, imatrix))
        return found if imatrix else {**found, "token_embd.weight": "Q2_K"}


def test_whether_it_helps_is_told_with_an_interval(model: Path) -> None:
    """The planted gain of 0.03 nats a token is found, with its sign, and the file made for it is gone."""
    effects = {
        TensorType("token_embd.weight", "Q2_K"): Effect(kld=0.05),
        TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.02),
    }
    effect = run(model, Helped(effects), imatrix="auto").facts["imatrix"]["effect"]
    assert effect["judgement"]["verdict"] == "improves"
    assert effect["kld"]["low"] < -0.03 < effect["kld"]["high"] < 0 and effect["chunks"] > 10
    assert "Q3_K_M" in effect["sentence"] and not list((model.parent / "out").glob(".without*"))
