"""What can be known is said before a model is opened: no reference is measured for a job that can't be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.errors import (
    CerebellumError,
    InputError,
    OutputError,
    OverrideError,
    TensorChoiceError,
    TypeChoiceError,
)
from cerebellum.llamacpp.process import check_device
from cerebellum.llamacpp.protocol import Settings
from cerebellum.progress import Silent
from cerebellum.testing import FakeBackend, write_fake_model


class Unopened(FakeBackend):
    """Writes files and says types; a model that is opened is a failure."""

    def open(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a model was opened")


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"w{i}" for i in range(64 * 30)))
    for name, lines in (("empty", ""), ("nothing", "no_such=Q4_K\n"), ("broken", "blk.0 Q4_K\n")):
        (tmp_path / f"{name}.txt").write_text(lines)
    (tmp_path / "file").write_text("")
    write_fake_model(tmp_path / "model.gguf")
    return tmp_path


CASES: list[tuple[dict[str, Any], type[CerebellumError], str]] = [
    ({"base": "IQ2_XXS", "imatrix": "none", "to": "Q3_K"}, TypeChoiceError, "base IQ2_XXS stores .* needs an importance matrix: give one"),
    ({"base": "Q2_K_S", "imatrix": "none", "to": "Q3_K"}, TypeChoiceError, "base Q2_K_S stores .* as Q2_K, which needs"),
    ({"base": "Q4_0", "pure": True, "to": "Q4_0"}, TensorChoiceError, "nothing to measure: .* is Q4_0 in the base already"),
    ({"exclude": "no_such_tensor"}, OverrideError, "--exclude no_such_tensor is found in no tensor"),
    ({"exclude": ["ffn_up", ""]}, OverrideError, r"exclude \(--exclude\) is empty"),
    ({"base_overrides": "empty.txt"}, OverrideError, "empty.txt hold no line"),
    ({"base_overrides": "nothing.txt"}, OverrideError, "^nothing.txt: the override no_such=Q4_K hits no tensor"),
    ({"base_overrides": "broken.txt"}, OverrideError, "^broken.txt, line 1: 'blk.0' is not an override"),
    ({"text": None}, InputError, "no text: model.gguf isn't the bundled model"),
    ({"out": "file"}, OutputError, "file is a file, no folder"),
    ({"out": "file/deeper"}, OutputError, "file is a file, no folder"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "kind", "message"), CASES, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_a_job_that_cant_be_done_opens_nothing(
    ground: Path, options: dict[str, Any], kind: type[CerebellumError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ground)
    given: dict[str, Any] = {"text": "text.txt", "ctx": 64, "out": "out", **options}
    for verb in (api.sweep, api.choose):
        with pytest.raises(kind, match=message):
            verb("model.gguf", backend=Unopened(), **given)
    assert not (ground / "out").exists()


def test_an_estimate_into_a_file_is_refused(ground: Path) -> None:
    """It writes nothing there, but the run that it is for would."""
    with pytest.raises(OutputError, match="file is a file"):
        api.estimate(ground / "model.gguf", out=ground / "file", text=ground / "text.txt", ctx=64, backend=Unopened())


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_chunks_beyond_the_text_are_told(ground: Path) -> None:
    for chunks, wanted in ((1000, 2), (2, 0)):
        told = Told()
        out = ground / f"out-{chunks}"
        given: dict[str, Any] = {"text": ground / "text.txt", "ctx": 64, "out": out, "chunks": chunks, "blocks": "0"}
        result = api.sweep(ground / "model.gguf", backend=FakeBackend({}), progress=told, **given)
        lines = [note for note in told.notes if f"fewer than the {chunks} wanted (--chunks)" in note]
        assert len(lines) == wanted
        if lines:
            assert (
                f"has {result.facts['splits']['search']['n_chunks']} chunks of 64 tokens for the search text"
                in lines[0]
            )


def test_growth_as_a_share_is_of_the_base(ground: Path) -> None:
    given: dict[str, Any] = {"text": ground / "text.txt", "ctx": 64, "chunks": 2, "blocks": "0", "out": ground / "out"}
    result = api.choose(ground / "model.gguf", backend=FakeBackend({}), max_growth="5%", **given)
    assert result.facts["choice"]["max_growth_bytes"] == int(0.05 * result.base.model.file_bytes) > 0


def test_layers_on_a_gpu_that_isnt_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no question is asked where none are wanted."""
    monkeypatch.setattr("cerebellum.llamacpp.process._can_offload", lambda _where: False)
    with pytest.raises(InputError, match=r"gpu_layers .* is 99, but llama.cpp finds no GPU here: .* doctor"):
        check_device(Settings(n_gpu_layers=99))
    monkeypatch.setattr("cerebellum.llamacpp.process._can_offload", lambda _where: True)
    check_device(Settings(n_gpu_layers=-1))
    monkeypatch.setattr("cerebellum.llamacpp.process._can_offload", None)
    check_device(Settings())
