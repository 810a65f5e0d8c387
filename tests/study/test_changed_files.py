"""A file that changes under a study poisons nothing: whatever size and times it keeps, no row of it is committed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import ChunkScore, Trial, TrialKind, tensor_types_of
from cerebellum.errors import InputError
from cerebellum.files import FileState
from cerebellum.gguf.model_file import read_model
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.scoring.metrics import ReferenceRows
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study import hashes
from cerebellum.study.store import Study
from cerebellum.testing import Effect, FakeBackend, FakeEngine, write_fake_model

GATE = tensor_types_of({"blk.1.ffn_gate.weight": "Q2_K"})[0]
Change = Callable[[Path], None]


def written_over(path: Path) -> None:
    """Other content of the same size and time in the same file, as by ``cp -p`` or ``rsync -t --inplace``."""
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def put_in_its_place(path: Path) -> None:
    """The same in another file of the same name, as by ``rsync -t`` or ``mv``."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    written_over(other)
    other.replace(path)


CHANGES = pytest.mark.parametrize("change", [written_over, put_in_its_place])


@CHANGES
def test_a_hash_is_of_what_lies_there(tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remembered while the file stays, computed anew after a change that keeps size and time."""
    monkeypatch.setattr(hashes, "UNSETTLED_NS", -1)
    read = mock.Mock(side_effect=sha256_file)
    monkeypatch.setattr(hashes, "sha256_file", read)
    (tmp_path / "model.gguf").write_bytes(bytes(100))
    with Study.open(tmp_path / "study.sqlite") as study:
        first = hashes.cached_sha256(study, tmp_path / "model.gguf")
        assert hashes.cached_sha256(study, tmp_path / "model.gguf") == first and read.call_count == 1
        change(tmp_path / "model.gguf")
        again = hashes.cached_sha256(study, tmp_path / "model.gguf")
    assert again == sha256_file(tmp_path / "model.gguf") != first


def test_a_hash_of_a_file_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be written again within one tick of the file system's clock."""
    read = mock.Mock(side_effect=sha256_file)
    monkeypatch.setattr(hashes, "sha256_file", read)
    (tmp_path / "model.gguf").write_bytes(bytes(100))
    with Study.open(tmp_path / "study.sqlite") as study:
        hashes.cached_sha256(study, tmp_path / "model.gguf")
        hashes.cached_sha256(study, tmp_path / "model.gguf")
    assert read.call_count == 2


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: Path) -> str:
        found = sha256_file(path)
        written_over(path)
        return found

    monkeypatch.setattr(hashes, "sha256_file", slowly)
    (tmp_path / "model.gguf").write_bytes(bytes(100))
    with Study.open(tmp_path / "study.sqlite") as study, pytest.raises(InputError, match=r"model\.gguf changed while"):
        hashes.cached_sha256(study, tmp_path / "model.gguf")


@CHANGES
def test_nothing_is_committed_after_a_change(tmp_path: Path, change: Change) -> None:
    """Neither a score nor an answer nor a reference's row; what was committed before stays."""
    model = tmp_path / "model.gguf"
    model.write_bytes(bytes(100))
    rows = ReferenceRows(np.zeros((0, 0), np.float32), np.zeros(0), np.zeros(3), np.zeros(3, np.int64))
    with Study.open(tmp_path / "study.sqlite") as study:
        trial = study.trial(study.series("search", {}), Trial("base", TrialKind.BASE), {"a": "F16"})
        study.watch(FileState.of(model))
        store = ReferenceStore(tmp_path / "rows", None, watched=study.watched)
        study.add_score(trial, ChunkScore(0, 3, 9.1, 30.2, (1.0, 2.0)))
        store.write(0, rows)
        change(model)
        commits: list[Callable[[], None]] = [
            lambda: study.add_score(trial, ChunkScore(1, 3, 9.1, 30.2, (1.0, 2.0))),
            lambda: study.add_answer("file", "request", "reply"),
            lambda: store.write(1, rows),
        ]
        for commit in commits:
            with pytest.raises(InputError, match=r"model\.gguf changed while it was used"):
                commit()
        assert study.chunks_done(trial) == {0} and study.answers("file") == {}
    assert [path.name for path in store.folder.iterdir()] == ["chunk-000000.npz"]


# -- a whole run -------------------------------------------------------------------------------------------------------


class Changing(FakeEngine):
    """Changes a file after so many scores."""

    backend: ChangingBackend

    def _scores(self, *args: Any) -> Iterator[ChunkScore]:
        for score in super()._scores(*args):
            yield score
            self.backend.count()


@dataclass(frozen=True)
class ChangingBackend(FakeBackend):
    """See `Changing`."""

    after: int = 0
    change: Callable[[], None] = lambda: None
    counts: list[int] = field(default_factory=lambda: [0])

    def count(self) -> None:
        self.counts[0] += 1
        if self.counts[0] == self.after:
            self.change()

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        engine = Changing(self, read_model(model), settings, sources)
        engine.backend = self
        return engine


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    for name, n in (("text", 97), ("other", 89)):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name}{i * i % (100 * n + 3)}" for i in range(64 * 12)))
    write_fake_model(tmp_path / "model.gguf")
    write_fake_model(tmp_path / "reference.gguf")
    return tmp_path


def sweep(ground: Path, backend: FakeBackend, out: str) -> dict[str, Any]:
    """The rows of a small sweep: label → chunk → score."""
    api.sweep(
        ground / "model.gguf", text=ground / "text.txt", report_text=ground / "other.txt", ctx=64, out=ground / out, backend=backend,
        reference=ground / "reference.gguf", role="ffn_gate", to="Q2_K",
    )  # fmt: skip
    return rows(ground / out)


def rows(out: Path) -> dict[str, Any]:
    with Study.open(out / "study.sqlite", read_only=True) as study:
        labels: Sequence[tuple[int, str]] = study._rows("SELECT id, label FROM trial ORDER BY label, id")
        return {f"{label} {number}": study.scores(number) for number, label in labels if study.scores(number)}


@CHANGES
@pytest.mark.parametrize("name", ["model.gguf", "reference.gguf"])
def test_a_file_that_changes_while_a_sweep_runs_ends_it(ground: Path, name: str, change: Change) -> None:
    """The message names it; once the original is back the study ends as one that was never disturbed."""
    effects = {GATE: Effect(nll=0.01, kld=0.002)}
    whole = sweep(ground, FakeBackend(effects), "undisturbed")
    shutil.copy2(ground / name, ground / "original")
    with pytest.raises(InputError, match=f"{name} changed while it was used"):
        sweep(ground, ChangingBackend(effects, after=5, change=lambda: change(ground / name)), "out")
    kept = rows(ground / "out")
    assert 0 < sum(map(len, kept.values())) < sum(map(len, whole.values()))
    shutil.copy2(ground / "original", ground / name)
    assert sweep(ground, FakeBackend(effects), "out") == whole


def test_a_text_that_changes_while_a_sweep_runs_changes_nothing(ground: Path) -> None:
    """It is read once, and its rows are under the key of the tokens that were read."""
    effects = {GATE: Effect(nll=0.01, kld=0.002)}
    whole = sweep(ground, FakeBackend(effects), "undisturbed")

    def change() -> None:
        (ground / "text.txt").write_text("another text " * 4000)

    assert sweep(ground, ChangingBackend(effects, after=5, change=change), "out") == whole


@CHANGES
def test_a_perplexity_is_of_one_model(ground: Path, change: Change) -> None:
    """No study is there, yet no figure is given of a model that changed in its midst."""
    backend = ChangingBackend(after=3, change=lambda: change(ground / "model.gguf"))
    with pytest.raises(InputError, match=r"model\.gguf changed while it was used"):
        api.perplexity(ground / "model.gguf", ground / "text.txt", ctx=64, backend=backend)


@CHANGES
def test_answers_are_of_one_model(ground: Path, change: Change) -> None:
    """A reply that comes after the change is not kept."""
    with Study.open(ground / "study.sqlite") as study:
        sha256 = hashes.cached_sha256(study, ground / "model.gguf")
        study.add_answer(sha256, "first", "{}")
        change(ground / "model.gguf")
        with pytest.raises(InputError, match=r"model\.gguf changed while it was used"):
            study.add_answer(sha256, "second", "{}")
        assert study.answers(sha256) == {"first": "{}"}


@CHANGES
def test_an_importance_matrix_that_changes_is_noticed(ground: Path, change: Change) -> None:
    """It is read again for each tensor that is quantized, so a study watches it like the model."""
    from cerebellum.gguf.imatrix_write import write_importance
    from cerebellum.gguf.importance import Importance, Sums

    matrix = ground / "imatrix.gguf"
    tensors = read_model(ground / "model.gguf").tensors
    sums = {t.name: Sums(np.ones(t.row_length, np.float32), np.array([3])) for t in tensors}
    write_importance(Importance(sums, ("elsewhere",), 64), matrix, ground / "partial")
    backend = ChangingBackend(after=9, change=lambda: change(matrix))
    with pytest.raises(InputError, match=r"imatrix\.gguf changed while it was used"):
        api.sweep(
            ground / "model.gguf", text=ground / "text.txt", report_text=ground / "other.txt", ctx=64, out=ground / "out",
            backend=backend, imatrix=matrix, role="ffn_gate", to="Q2_K",
        )  # fmt: skip
