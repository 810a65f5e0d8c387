"""Hidden names are created anew and follow no link; a name is given to a file that is whole and on the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from cerebellum.errors import OutputError
from cerebellum.files import create_new, publish, write_text
from cerebellum.gguf.imatrix_write import write_importance
from cerebellum.gguf.importance import Importance, Sums
from cerebellum.keys import partial_of
from cerebellum.scoring.metrics import ReferenceRows
from cerebellum.scoring.reference import ReferenceStore

MATRIX = Importance({"blk.0.ffn_gate.weight": Sums(np.ones(4, np.float32), np.array([3]))}, ("text",), 512)
ROWS = ReferenceRows(np.zeros((0, 0), np.float32), np.zeros(0), np.zeros(3), np.zeros(3, np.int64))
#: Writes a file into a folder and says where.
Writer = Callable[[Path], Path]


def text(folder: Path) -> Path:
    write_text(folder / "report.md", "new")
    return folder / "report.md"


def matrix(folder: Path) -> Path:
    write_importance(MATRIX, folder / "imatrix.gguf", partial_of(folder / "imatrix.gguf"))
    return folder / "imatrix.gguf"


def legacy_matrix(folder: Path) -> Path:
    write_importance(MATRIX, folder / "imatrix.dat", partial_of(folder / "imatrix.dat"))
    return folder / "imatrix.dat"


def reference_rows(folder: Path) -> Path:
    store = ReferenceStore(folder, None)
    store.write(0, ROWS)
    return store.path(0)


WRITERS = pytest.mark.parametrize("write", [text, matrix, legacy_matrix, reference_rows])


@WRITERS
@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "pipe", "left by a kill"])
def test_what_lies_under_a_hidden_name_is_not_written_through(tmp_path: Path, write: Writer, kind: str) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("kept")
    for folder in (out, tmp_path / "elsewhere"):
        folder.mkdir()
    hidden = partial_of(out / write(tmp_path / "elsewhere").name)
    if kind == "pipe":
        os.mkfifo(hidden)
    elif kind == "hard link":
        hidden.hardlink_to(precious)
    elif kind == "left by a kill":
        hidden.write_text("half")
    else:
        hidden.symlink_to(precious if kind == "link" else tmp_path / "nothing")
    path = write(out)
    assert precious.read_text() == "kept" and not (tmp_path / "nothing").exists()
    assert path.read_bytes()[:4] == (tmp_path / "elsewhere" / path.name).read_bytes()[:4]
    assert stat.S_ISREG(path.lstat().st_mode) and list(out.iterdir()) == [path]


@WRITERS
def test_the_final_name_may_be_a_link_that_is_replaced(tmp_path: Path, write: Writer) -> None:
    """The link goes, what it points to stays."""
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("kept")
    out.mkdir()
    path = write(out)
    path.unlink()
    path.symlink_to(precious)
    write(out)
    assert precious.read_text() == "kept" and not path.is_symlink()


@WRITERS
def test_a_folder_under_a_hidden_name_is_an_error(tmp_path: Path, write: Writer) -> None:
    path = write(tmp_path)
    partial_of(path).mkdir()
    with pytest.raises(OutputError, match=r"can't (write|save)"):
        write(tmp_path)


@WRITERS
def test_bytes_are_on_the_disk_before_the_name_is_given(
    tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = mock.Mock()
    calls.fsync.side_effect, calls.replace.side_effect = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", calls.fsync)
    monkeypatch.setattr(Path, "replace", lambda *paths: calls.replace(*paths))  # noqa: PLW0108 a function binds
    write(tmp_path)
    assert [call[0] for call in calls.mock_calls] == ["fsync", "replace"]


def test_a_name_that_somebody_else_keeps_taking_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end, and never the other's file."""
    (tmp_path / "x").write_text("theirs")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(FileExistsError):
        create_new(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "theirs"


def test_a_link_is_not_published(tmp_path: Path) -> None:
    """Somebody put it where the whole file was."""
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / ".x.partial").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match=r"symbolic|links"):
        publish(tmp_path / ".x.partial", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.engine
def test_llama_cpp_writes_through_no_link(tmp_path: Path) -> None:
    from cerebellum.llamacpp.process import LlamaBackend
    from tests.llamacpp import tiny

    model, precious = tiny.llama(tmp_path / "model.gguf"), tmp_path / "precious"
    precious.write_text("kept")
    partial_of(tmp_path / "q.gguf").symlink_to(precious)
    LlamaBackend().quantize(model, tmp_path / "q.gguf", "Q8_0")
    assert precious.read_text() == "kept" and not (tmp_path / "q.gguf").is_symlink()
