"""`imatrix`: continued, joined, refused; on a backend of planted failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cerebellum
from cerebellum.domain import Model
from cerebellum.errors import CerebellumError, EngineDied, InputError, ModelFileError, OutputError, TextError
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.keys import partial_of
from cerebellum.progress import Silent
from cerebellum.testing import FakeBackend, Fault, write_fake_model
from cerebellum.verbs.imatrix import ImatrixOptions, MadeImatrix, tell_too_long

NAME, CTX = "blk.0.attn_q.weight", 2048  # one chunk at a time


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "model.gguf", n_blocks=2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.txt"
    path.write_text(" ".join(f"w{i}" for i in range(5 * CTX)))
    return path


def make(
    model: Path, text: Path | None, out: Path, backend: FakeBackend | None = None, **options: object
) -> MadeImatrix:
    return cerebellum.imatrix(model, text, out=out, ctx=CTX, backend=backend or FakeBackend(), **options)  # type: ignore[arg-type]


def test_a_killed_call_goes_on_and_ends_the_same(model: Path, text: Path, tmp_path: Path) -> None:
    """What was collected is kept, isn't there under the final name, and the file is the one of a call never killed."""
    whole = make(model, text, tmp_path / "whole.gguf")
    out = tmp_path / "stopped.gguf"
    with pytest.raises(EngineDied):
        make(model, text, out, FakeBackend(faults=(Fault(chunk=3, dies=True),)))
    assert not out.exists() and partial_of(out).exists()
    made = make(model, text, out)
    assert (made.n_before, made.n_chunks, made.sha256) == (3, 5, whole.sha256)
    assert not list(tmp_path.glob(".*")), "something was left"


@pytest.mark.parametrize(
    ("in_job", "advice"), [(False, "give a smaller --ctx"), (True, "cerebellum imatrix --ctx 256 makes another one")]
)
def test_chunks_longer_than_the_model_is_made_for_are_told_with_what_helps(in_job: bool, advice: str) -> None:
    """A job's --ctx isn't that of its importance matrix."""
    small = Model(Path("small.gguf"), "llama", "small", 2, "F16", 256, (), 0)
    job = ImatrixOptions(small.path, Path("imatrix.gguf"), in_job=in_job)
    told = Told()
    tell_too_long(job, small, told)
    assert len(told.notes) == 1 and "512 tokens" in told.notes[0] and advice in told.notes[0]
    tell_too_long(job, replace(small, context_length=512), told)
    assert len(told.notes) == 1


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_more_chunks_are_added_to_what_there_is_and_nothing_is_done_twice(
    model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.gguf"
    assert make(model, text, out, chunks=2).n_before == 0
    assert make(model, text, out, chunks=4).n_before == 2
    again = make(model, text, out, chunks=4)
    assert again.n_before == 4 and again.sha256 == make(model, text, tmp_path / "b.gguf", chunks=4).sha256
    assert make(model, text, out, chunks=3).n_before == 0, "fewer chunks are made anew"


def test_files_are_joined_with_the_weight_of_their_rows(model: Path, text: Path, tmp_path: Path) -> None:
    one, other = make(model, text, tmp_path / "a.gguf", chunks=3), make(model, text, tmp_path / "b.gguf", chunks=1)
    joined = make(model, None, tmp_path / "ab.gguf", add=[one.path, other.path])
    on_top = make(model, text, tmp_path / "top.gguf", chunks=1, add=one.path)
    parts = [read_importance(path, CTX).entries[NAME] for path in (one.path, other.path)]
    for path in (joined.path, on_top.path):
        found = read_importance(path, CTX)
        np.testing.assert_array_equal(found.entries[NAME].values, parts[0].values + parts[1].values)
        assert found.entries[NAME].counts.tolist() == [4 * CTX] and found.datasets == (str(text),) * 2
    assert joined.n_chunks == 0


def test_the_older_form_is_written_by_its_name(model: Path, text: Path, tmp_path: Path) -> None:
    new, old = make(model, text, tmp_path / "m.gguf"), make(model, text, tmp_path / "m.dat")
    found, expected = load_imatrix(old.path), load_imatrix(new.path)
    assert found.n_chunks == expected.n_chunks == 5
    np.testing.assert_allclose(found.entries[NAME], expected.entries[NAME], rtol=1e-6)


def refused(kind: type[CerebellumError], words: str, *args: object, **options: object) -> None:
    with pytest.raises(kind, match=words):
        make(*args, **options)  # type: ignore[arg-type]


def test_bad_input_is_one_clear_error(model: Path, text: Path, tmp_path: Path) -> None:
    """Each: nothing given, a wrong name, an empty and a short text, another model's, an importance matrix as the model, cut, foreign."""
    empty, short, out = tmp_path / "empty.txt", tmp_path / "short.txt", tmp_path / "o.gguf"
    empty.write_text("\n")
    short.write_text("a few words")
    refused(InputError, "--text", model, None, out)
    refused(InputError, r"\.gguf", model, text, tmp_path / "o.bin")
    refused(TextError, "empty", model, empty, out)
    refused(TextError, "tokens", model, short, out)
    made = make(model, text, tmp_path / "m.gguf", chunks=2)
    refused(ModelFileError, "importance matrix", made.path, text, out)
    other = write_fake_model(tmp_path / "other.gguf", n_blocks=2, width=512)
    refused(ModelFileError, "another model", other, text, out, add=made.path)
    refused(OutputError, "--force", other, text, made.path)
    refused(OutputError, "which this command reads", model, text, model)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(made.path.read_bytes()[:-200])
    refused(ModelFileError, "cut", model, text, out, add=cut)
    refused(ModelFileError, "general|importance", model, text, out, add=model)
    assert not out.exists()


def test_force_replaces(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    out.write_text("mine")
    refused(OutputError, "--force", model, text, out)
    assert out.read_text() == "mine"
    assert make(model, text, out, force=True).n_entries == 12
