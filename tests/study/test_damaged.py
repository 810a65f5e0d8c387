"""A study that was altered, or whose files are something else, ends in one clear error: never in a wrong number, a wait or a traceback."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from cerebellum.domain import ChunkScore, Trial, TrialKind
from cerebellum.errors import CerebellumError, OutputError, StudyError
from cerebellum.study import store
from cerebellum.study.store import Study

SCORE = ChunkScore(7, 3, 9.1, 30.2, (0.1, 1 / 3), 0.6, -0.0, 0.0, 2, -0.01, 1e-5, 1e-12, b"\0\1\2\3")


def filled(path: Path) -> Path:
    """Two trials with a score each, an answer, a fact, a command."""
    with Study.open(path) as study:
        series = study.series("search", {"text": "x"})
        for label, kind in (("base", "Q3_K"), ("one", "Q2_K")):
            study.add_score(study.trial(series, Trial(label, TrialKind.BASE), {"a": kind}), SCORE)
        study.add_answer("file", "request", "{}")
        study.set_fact("choice", [1])
        study.add_command(["cerebellum", "run"])
        study.bind({"weights": "abc"}, "model.gguf")
    return path


def everything(path: Path) -> None:
    """All that a run reads of a study."""
    with Study.open(path) as study:
        study.bind({"weights": "abc"}, "model.gguf")
        study.series_facts(1)
        study.fact("choice")
        study.answers("file")
        study.commands()
        study.failures()
        study.older_trials(99)
        for trial in (1, 2):
            assert study.scores(trial) == {7: SCORE}


def altered(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE score SET nll = nll + 1e-9 WHERE trial = 1",
        "UPDATE score SET kld = NULL WHERE trial = 2",
        "UPDATE score SET tempered = x'00' WHERE trial = 1",
        "UPDATE score SET kld_tokens = x'00' WHERE trial = 1",
        "UPDATE score SET chunk = 8 WHERE trial = 1",
        "UPDATE score SET n_tokens = 4 WHERE trial = 1",
        "UPDATE score SET digest = '' WHERE trial = 1",
        "UPDATE score SET digest = (SELECT digest FROM score WHERE trial = 2) WHERE trial = 1",
        "UPDATE trial SET key = 'types:0' WHERE id = 1",
        "UPDATE series SET facts = '[]'",
        "UPDATE series SET facts = '{'",
        "UPDATE series SET key = 'series:0'",
        "UPDATE answer SET reply = '[]'",
        "UPDATE fact SET value = 'nonsense'",
        "UPDATE fact SET value = '[1, 2]' WHERE name = 'subject'",
        "UPDATE fact SET value = '{}' WHERE name = 'subject'",
        "UPDATE fact SET value = '" + "[" * 100_000 + "'",
        "UPDATE command SET argv = 'x'",
        "DELETE FROM trial WHERE id = 1",
        "DELETE FROM series",
        "DROP TABLE answer",
        "ALTER TABLE score DROP COLUMN kld",
        "PRAGMA user_version = -1",
        "PRAGMA user_version = 1",
    ],
)  # fmt: skip
def test_what_was_altered_is_refused(tmp_path: Path, statement: str) -> None:
    path = filled(tmp_path / "study.sqlite")
    everything(path)
    altered(path, statement)
    with pytest.raises(StudyError, match=r"study\.sqlite"):
        everything(path)


def test_tables_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Any type in any column, where somebody made the tables without STRICT."""
    path = filled(tmp_path / "study.sqlite")
    db = sqlite3.connect(path)
    db.executescript(
        "ALTER TABLE score RENAME TO old; CREATE TABLE score AS SELECT * FROM old; UPDATE score SET tempered = 5, nll = 'much'"
    )
    db.close()
    with pytest.raises(StudyError):
        everything(path)


def test_rows_of_an_older_study_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get their digests when the study is brought up to date."""
    path = filled(tmp_path / "study.sqlite")
    altered(path, "ALTER TABLE score DROP COLUMN digest")
    altered(path, "ALTER TABLE answer DROP COLUMN digest")
    altered(path, "PRAGMA user_version = 4")
    everything(path)
    altered(path, "UPDATE score SET nll = 1.0")
    with pytest.raises(StudyError, match="trial 1, chunk 7"):
        everything(path)


@pytest.mark.parametrize("name", ["study.sqlite", ".study.sqlite.lock", "study.sqlite-wal", "study.sqlite-journal"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing", "link to a file"])
def test_other_things_than_files_are_never_waited_for_nor_written_through(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe as lock would be waited for without end; a link as lock would empty what it points to."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    path = out / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(precious if kind == "link to a file" else tmp_path / "nothing")
    try:
        Study.open(out / "study.sqlite").close()
    except CerebellumError as error:
        assert "study.sqlite" in str(error) or "can't write in" in str(error)
    assert precious.read_text() == "kept"
    if name.endswith("lock"):
        assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_goes_while_a_run_works_ends_it(tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    with Study.open(out / "study.sqlite") as study:
        trial = study.trial(study.series("search", {}), Trial("base", TrialKind.BASE), {"a": "F16"})
        study.add_score(trial, SCORE)
        if how == "moved":
            out.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(out)
        if how == "replaced":
            filled(out / "study.sqlite")
        with pytest.raises(OutputError, match=r"study\.sqlite"):
            study.add_score(trial, ChunkScore(8, 3, 9.1, 30.2, (1.0, 2.0)))


def test_a_digest_is_of_values_and_types() -> None:
    digests = [
        store.row_digest(*row) for row in ((1,), (1.0,), ("1",), (b"1",), (None,), ("",), ("1", ""), ("", "1"), ())
    ]
    assert len(set(digests)) == len(digests)
    assert store.row_digest(0.0) == store.row_digest(-0.0), "SQLite keeps no negative zero"
