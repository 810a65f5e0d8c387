"""`run --imatrix auto`: when it is made, on what, how it is kept apart and judged; on a fake backend."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.errors import EngineDied, InputError, TextError, TypeChoiceError
from cerebellum.gguf.imatrix_write import read_importance, write_importance
from cerebellum.gguf.importance import Importance, Sums
from cerebellum.progress import Silent
from cerebellum.results import RunResult
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.text.corpus_overlap import word_ids, words_overlap
from cerebellum.text.overlap import MOST_SHARED, N_GRAM, PASSAGE, Overlap
from cerebellum.verbs.calibration_texts import check_apart

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
        lambda text: words(2000, 3) + " " + text + " " + words(2000, 4),
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


def test_words_are_compared_without_spaces_and_case() -> None:
    """A run of N_GRAM words is shared, one word less is not; signs and letters of scripts without spaces count as words."""
    text = words(N_GRAM, 5)
    assert words_overlap(f"other {text} end", [f"before {text.upper()}\r\n\tafter"]) == Overlap(
        N_GRAM / (N_GRAM + 2), N_GRAM
    )
    assert words_overlap(f"other {text} end", [f"before {text.partition(' ')[2]} after"]) == Overlap(0.0, 0)
    assert [len(ids) for ids in word_ids("Das ist: gut.", "図書館 です")] == [5, 5]


@pytest.mark.parametrize(
    ("n_shared", "n_own", "refused"),
    [
        (PASSAGE, 20_000, True), (PASSAGE - 1, 20_000, False),
        (200, round(200 / MOST_SHARED), True), (200, round(200 / MOST_SHARED) + 50, False),
    ],
)  # fmt: skip
def test_one_threshold_for_all_texts(tmp_path: Path, n_shared: int, n_own: int, refused: bool) -> None:
    """A passage, or a tenth, as between search and report text."""
    shared = words(n_shared, 5)
    (tmp_path / "own.txt").write_text(shared + " " + words(n_own - n_shared, 6))
    (tmp_path / "makes.txt").write_text(words(3000, 7) + " " + shared + " " + words(3000, 8))
    if refused:
        with pytest.raises(TextError, match=r"makes\.txt, which made .* % of own\.txt"):
            check_apart(tmp_path / "makes.txt", [None, tmp_path / "own.txt"], "made")
    else:
        check_apart(tmp_path / "makes.txt", [tmp_path / "own.txt"])


def conversations(path: Path, seed: int, n: int = 40, system: str = "", form: str = "messages") -> Path:
    """JSON lines of conversations with one system prompt."""
    lines = []
    for i in range(n):
        turns = [("system", system), ("user", words(30, 1000 * seed + i)), ("assistant", words(60, 2000 * seed + i))]
        talk = (
            [{"role": role, "content": text} for role, text in turns]
            if form == "messages"
            else [
                {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text} for role, text in turns
            ]
        )
        lines.append(json.dumps({form: talk}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_conversations_are_compared_by_what_is_said(tmp_path: Path) -> None:
    """One system prompt in two unrelated files is no passage; the same conversations in another form, or as plain text, are."""
    system = words(400, 99)
    one = conversations(tmp_path / "one.jsonl", 1, system=system)
    check_apart(conversations(tmp_path / "two.jsonl", 2, system=system), [one])
    for copy in (
        conversations(tmp_path / "three.jsonl", 1, form="conversations"),
        conversations(tmp_path / "four.jsonl", 1, system="another"),
    ):
        with pytest.raises(TextError, match="which makes the importance matrix, holds 100 %"):
            check_apart(copy, [one])
    plain = tmp_path / "plain.txt"
    plain.write_text("\n\n".join(f"{words(30, 1000 + i)}\n{words(60, 2000 + i)}" for i in range(40)))
    with pytest.raises(TextError, match="plain"):
        check_apart(plain, [one])


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


@dataclass(frozen=True)
class Needy(FakeBackend):
    """A stock mix that holds a type which needs a matrix, though its name doesn't say so, as IQ3_XS does."""

    def types(self, source: Path, ftype: str, overrides: Any = (), imatrix: Path | None = None) -> dict[str, str]:
        found = dict(super().types(source, ftype, overrides, imatrix))
        return {**found, "blk.0.attn_q.weight": "IQ3_XXS"} if ftype == "IQ3_XS" else found


def test_what_the_mix_really_holds_decides(model: Path) -> None:
    """IQ3_XS is IQ3_S by name, and stores queries as IQ3_XXS; Q2_K_S is Q2_K, which it wants a matrix for. Neither base can be had
    without one, so nothing is compared."""
    for base, backend in (("IQ3_XS", Needy()), ("Q2_K_S", FakeBackend())):
        result = run(model, backend, base=base, to="Q5_K", out=model.parent / base)
        assert result.facts["imatrix"]["file"] == "imatrix.gguf" and "effect" not in result.facts["imatrix"]
    assert run(model, Needy(), base="Q4_K_M", out=model.parent / "other").facts["imatrix"] is None


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


@dataclass(frozen=True)
class Broken(FakeBackend):
    """A base without the importance matrix can be written and not be opened."""

    def open(self, path: Path, *more: Any, **named: Any) -> Any:  # type: ignore[override]
        if path.name.startswith(".without-imatrix"):
            raise EngineDied("opening: llama.cpp's process died")
        return super().open(path, *more, **named)


def test_a_base_without_it_that_can_t_be_measured_is_told_and_ends_nothing(model: Path) -> None:
    told = Told()
    result = run(model, Broken(), imatrix="auto", progress=told)
    assert result.sweep.rows and "effect" not in result.facts["imatrix"]
    told_of = [note for note in told.notes if "can't be told" in note]
    assert told_of == [
        "warning: whether the importance matrix helps can't be told: without it opening: llama.cpp's process died"
    ]
    assert not list((model.parent / "out").glob(".without*"))


def test_the_comparison_is_in_the_estimate(model: Path) -> None:
    """One pass over the search text, where there is a matrix and the base could do without."""
    given: dict[str, Any] = {"text": model.parent / "text.txt", "ctx": 64, "chunks": 8, "backend": FakeBackend()}
    jobs: list[dict[str, Any]] = [{"like": "Q3_K_M", "types": "Q2_K,Q3_K,Q4_K"}, {"role": "ffn_gate", "to": "Q2_K"}]
    for job in jobs:
        plain, made = (api.estimate(model, imatrix=which, **given, **job) for which in ("none", "auto"))
        assert (made.n_trials, made.trial_chunks) == (plain.n_trials, plain.trial_chunks + 8)


def test_a_ladder_compares_it_once(model: Path) -> None:
    told = Told()
    options: dict[str, Any] = {
        "text": model.parent / "text.txt",
        "ctx": 64,
        "chunks": 4,
        "out": model.parent / "out",
        "imatrix": "auto",
    }
    api.ladder(
        model, "Q3_K_M,Q4_K_M,Q5_K_M", backend=FakeBackend(), n_shuffled=0, refine=False, progress=told, **options
    )
    assert len([note for note in told.notes if note.startswith("the importance matrix at ")]) == 1


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
