"""The study database against its contract: written once, bound to one subject, never lost, never taken for another."""

from __future__ import annotations

import contextlib
import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerebellum.domain import ChunkScore, Trial, TrialKind, tensor_types_of
from cerebellum.errors import OutputError, StudyError
from cerebellum.study import store
from cerebellum.study.store import APPLICATION_ID, MIGRATIONS, Study

TYPES = {"a.weight": "Q3_K", "b.weight": "Q3_K"}
TRIAL = Trial("a to Q2_K", TrialKind.SINGLE, tensor_types_of({"a.weight": "Q2_K"}))
TAIL = np.array([0.1, 0.2, 0.3], np.float32).tobytes()
PLAIN = ChunkScore(0, 3, 9.1, 30.2, (1.0, 2.0))
FULL = ChunkScore(7, 3, 9.1, 30.2, (0.1, 1 / 3), 0.6, 0.14, 0.0, 2, -0.01, 1e-5, 1e-12, TAIL)

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "study.sqlite"


@pytest.fixture
def study(path: Path) -> Iterator[Study]:
    with Study.open(path) as study:
        yield study


def new_trial(study: Study, trial: Trial = TRIAL) -> int:
    return study.trial(study.series("search", {"text": "x"}), trial, TYPES)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_come_back_as_they_were(study: Study, path: Path) -> None:
    """With and without a reference, to the last bit, in another process's eyes too."""
    trial = new_trial(study)
    for score in (FULL, PLAIN):
        study.add_score(trial, score)
    expected = {0: PLAIN, 7: FULL}
    assert study.scores(trial) == expected and study.chunks_done(trial) == {0, 7}
    with Study.open(path, read_only=True) as reader:
        assert reader.scores(trial) == expected


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(finite, finite, st.lists(finite, max_size=9).map(tuple), st.none() | finite, st.none() | st.binary(max_size=64))
def test_any_finite_score_survives(
    study: Study, nll: float, nll2: float, tempered: tuple[float, ...], kld: float | None, tail: bytes | None
) -> None:
    """Every double, subnormals and signed zeros included, comes back equal."""
    trial = new_trial(study)
    chunk = len(study.chunks_done(trial))
    score = ChunkScore(chunk, 1, nll, nll2, tempered, kld=kld, kld_tokens=tail)
    study.add_score(trial, score)
    assert study.scores(trial)[chunk] == score


def test_writing_the_same_again_is_nothing(study: Study) -> None:
    """A rewrite of an equal score is accepted and changes nothing."""
    trial = new_trial(study)
    for _ in range(3):
        study.add_score(trial, FULL)
    assert study.scores(trial) == {7: FULL}


@pytest.mark.parametrize(
    "change", [{"nll": 9.100000000000001}, {"kld": None}, {"tempered": (0.1,)}, {"kld_tokens": TAIL[:-4] + b"\0" * 4}]
)
def test_another_result_is_refused_and_the_first_stays(study: Study, change: dict[str, object]) -> None:
    """A score that differs in any sum, by one bit even, is an error: finished results never change."""
    trial = new_trial(study)
    study.add_score(trial, FULL)
    with pytest.raises(StudyError, match=r"already holds another result for trial 1, chunk 7"):
        study.add_score(trial, replace(FULL, **change))  # type: ignore[arg-type]
    assert study.scores(trial) == {7: FULL}


@pytest.mark.parametrize("change", [{"nll": math.nan}, {"kld": math.nan}, {"tempered": (1.0, math.inf)}])
def test_a_sum_that_is_not_a_number_is_refused_by_name(study: Study, change: dict[str, object]) -> None:
    """A broken model's NaN is an error that says so; above all it isn't stored as "not measured"."""
    trial = new_trial(study)
    with pytest.raises(StudyError, match="trial 1, chunk 7 is not a finite number"):
        study.add_score(trial, replace(FULL, **change))  # type: ignore[arg-type]
    assert study.chunks_done(trial) == set()


# -- trials and series -------------------------------------------------------------------------------------------------


def test_equal_types_are_one_trial(study: Study) -> None:
    """Labels and order of swaps don't matter, types do; a swap to what the base has is the base."""
    base = new_trial(study, Trial("base", TrialKind.BASE))
    both = tensor_types_of({"a.weight": "Q2_K", "b.weight": "Q8_0"})
    assert new_trial(study) == new_trial(study, replace(TRIAL, label="another name", kind=TrialKind.RECIPE))
    assert new_trial(study, Trial("x", TrialKind.RECIPE, both)) == new_trial(
        study, Trial("y", TrialKind.RECIPE, both[::-1])
    )
    assert new_trial(study, Trial("same", TrialKind.SINGLE, tensor_types_of({"a.weight": "Q3_K"}))) == base
    assert len({base, new_trial(study), new_trial(study, Trial("x", TrialKind.RECIPE, both))}) == 3


def test_series_are_kept_apart_by_their_facts(study: Study) -> None:
    """The same trial in another series is another trial; the name and the order of facts don't make a series."""
    first = study.series("search", {"a": 1, "b": [1, 2]})
    assert study.series("renamed", {"b": [1, 2], "a": 1}) == first
    other = study.series("search", {"a": 1, "b": [2, 1]})
    assert other != first and study.series_facts(other) == {"a": 1, "b": [2, 1]}
    here, there = study.trial(first, TRIAL, TYPES), study.trial(other, TRIAL, TYPES)
    study.add_score(here, PLAIN)
    assert here != there and study.scores(there) == {}


def test_failures_and_commands_are_rows(study: Study) -> None:
    """A failure keeps its reason, and does not stand in the way of a later score."""
    trial = new_trial(study)
    study.add_failure(trial, "llama.cpp died (SIGABRT)")
    study.add_score(trial, PLAIN)
    study.add_command(["cerebellum", "run", "ümläut.gguf"])
    ((label, at, reason),) = study.failures()
    assert (label, reason) == ("a to Q2_K", "llama.cpp died (SIGABRT)") and at.endswith("+00:00")
    assert [argv for _, argv in study.commands()] == [["cerebellum", "run", "ümläut.gguf"]]


def test_a_failure_is_in_force_until_it_is_taken_back(study: Study) -> None:
    """Of its own series, the last reason of several; taken back it is still told."""
    here, there = study.series("s", {}), study.series("t", {"other": 1})
    trial = study.trial(here, TRIAL, TYPES)
    study.add_failure(trial, "first")
    study.add_failure(trial, "second")
    assert study.failed_trials(here) == {trial: "second"} and study.failed_trials(there) == {}
    assert study.retry_failures() == 2 and study.failed_trials(here) == {}
    assert [reason for *_, reason in study.failures()] == ["first", "second"]


def test_failures_of_a_study_made_before_are_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Cerebellum retried what failed, so a failure may stand beside a trial that is whole by now."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", MIGRATIONS[:2])
        with Study.open(path) as study:
            trial = new_trial(study)
            study._db.execute("INSERT INTO failure VALUES (?, '2026-01-01T00:00:00+00:00', 'died')", (trial,))
            study._db.commit()
    with Study.open(path) as study:
        assert [reason for *_, reason in study.failures()] == ["died"] and study.failed_trials(1) == {}


def test_facts_are_replaced(study: Study, path: Path) -> None:
    """The last value of a fact counts; one that was never stored is None."""
    study.set_fact("choice", {"a": [1, 2.5, None]})
    study.set_fact("choice", {"a": 2})
    assert study.fact("choice") == {"a": 2} and study.fact("other") is None


def test_a_study_is_of_one_subject(path: Path) -> None:
    """The same subject may come again; another is refused, and both are named."""
    for _ in range(2):
        with Study.open(path) as study:
            study.bind({"source": "abc", "base": "def"}, "model A")
    with Study.open(path) as study, pytest.raises(StudyError, match=r"holds a study of model A, not of model B"):
        study.bind({"source": "abc", "base": "xyz"}, "model B")


# -- who may open it ---------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_readers_are_not(study: Study, path: Path) -> None:
    """While one works, another is told to wait; reading is free; afterwards it is free for the next."""
    trial = new_trial(study)
    study.add_score(trial, PLAIN)
    code = f"from pathlib import Path; from cerebellum.study.store import Study; Study.open(Path({str(path)!r}))"
    other = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "StudyError: another cerebellum is working on" in other.stderr
    with pytest.raises(StudyError, match="another cerebellum is working on"):
        Study.open(path)
    with Study.open(path, read_only=True) as reader:
        assert reader.scores(trial) == {0: PLAIN}
    study.close()
    Study.open(path).close()


def test_a_reader_can_not_write(study: Study, path: Path) -> None:
    """Read-only means it."""
    trial = new_trial(study)
    with Study.open(path, read_only=True) as reader, pytest.raises(OutputError, match="readonly"):
        reader.add_score(trial, PLAIN)


def test_a_study_that_is_not_there_is_not_made_by_reading(path: Path) -> None:
    """Looking at nothing is an error and leaves nothing."""
    with pytest.raises(StudyError, match="there is no study at"):
        Study.open(path, read_only=True)
    assert not path.parent.exists()


def test_a_folder_that_is_a_file_is_said_so(tmp_path: Path) -> None:
    """No folder to write in: an output error that names it."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match=r"can't write in .*out"):
        Study.open(tmp_path / "out" / "study.sqlite")


def raw(path: Path, *statements: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize("read_only", [False, True])
def test_foreign_databases_are_refused_and_left_alone(path: Path, read_only: bool) -> None:
    """Another program's database is not ours to change."""
    raw(path, "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(StudyError, match=r"study\.sqlite is a database, but not a Cerebellum study"):
        Study.open(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_newer_databases_are_refused_and_left_alone(path: Path, read_only: bool) -> None:
    """A schema from the future asks for an upgrade."""
    Study.open(path).close()
    raw(path, f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(StudyError, match=rf"newer Cerebellum \(schema {len(MIGRATIONS) + 1}\); upgrade"):
        Study.open(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_refused(path: Path, read_only: bool) -> None:
    """Text, or a head that was overwritten."""
    path.parent.mkdir()
    path.write_bytes(b"not a database at all " * 100)
    with pytest.raises(StudyError, match=r"study\.sqlite can't be used as a study: file is not a database"):
        Study.open(path, read_only=read_only)


def test_a_refused_study_can_be_opened_again_once_it_is_repaired(path: Path) -> None:
    """A refusal gives the lock back."""
    path.parent.mkdir()
    path.write_bytes(b"x" * 4096)
    with pytest.raises(StudyError):
        Study.open(path)
    path.unlink()
    Study.open(path).close()


def test_damaged_pages_are_an_error_that_names_the_file(path: Path) -> None:
    """Overwritten in the middle: never a wrong number, never a bare sqlite3 error."""
    with Study.open(path) as study:
        trial = new_trial(study)
        for chunk in range(200):
            study.add_score(trial, replace(FULL, chunk=chunk))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StudyError, match=r"study\.sqlite can't be used as a study"), Study.open(path) as study:
        study.scores(trial)


# -- migrations --------------------------------------------------------------------------------------------------------


def schema(path: Path) -> tuple[int, int, set[str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        return db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0], names


def test_a_new_study_has_all_migrations(path: Path) -> None:
    """Its head says whose it is and how far it has come; opening again changes nothing."""
    for _ in range(2):
        Study.open(path).close()
        assert schema(path) == (
            APPLICATION_ID,
            len(MIGRATIONS),
            {"fact", "series", "trial", "score", "failure", "command", "answer"},
        )


def test_an_old_study_is_brought_up_to_date_with_its_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later migration runs once, on open, and keeps what was measured."""
    with Study.open(path) as study:
        trial = new_trial(study)
        study.add_score(trial, FULL)
    monkeypatch.setattr(store, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (x TEXT) STRICT;"))
    for _ in range(2):
        with Study.open(path) as study:
            assert study.scores(trial) == {7: FULL}
    assert schema(path)[1:] == (len(MIGRATIONS) + 1, {*schema(path)[2]}) and "later" in schema(path)[2]


def test_a_migration_that_fails_leaves_the_study_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statements and its number are one transaction."""
    with Study.open(path) as study:
        trial = new_trial(study)
        study.add_score(trial, FULL)
    before = schema(path)
    with monkeypatch.context() as patch:
        patch.setattr(
            store, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (x TEXT) STRICT; INSERT INTO none VALUES (1);")
        )
        with pytest.raises(StudyError, match="can't be used as a study: no such table"):
            Study.open(path)
    assert schema(path) == before
    with Study.open(path) as study:
        assert study.scores(trial) == {7: FULL}


# -- sudden death ------------------------------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from cerebellum.domain import ChunkScore, Trial, TrialKind
from cerebellum.study.store import Study
study = Study.open(Path(sys.argv[1]))
trial = study.trial(study.series("s", {}), Trial("base", TrialKind.BASE), {"a": "F16"})
for chunk in range(100_000):
    study.add_score(trial, ChunkScore(chunk, 3, chunk / 3, 1.0, (0.1,), kld_tokens=bytes(400)))
    print(chunk, flush=True)
"""


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_a_killed_writer_loses_nothing_it_had_committed(path: Path) -> None:
    """SIGKILL in the midst of writing: every score that was said to be saved is there, and the study opens for the next."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], env=environment(), stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(150)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    assert writer.returncode == -signal.SIGKILL
    with Study.open(path) as study:
        trial = study.trial(study.series("s", {}), Trial("base", TrialKind.BASE), {"a": "F16"})
        scores = study.scores(trial)
        assert said == list(range(len(said))) and set(said) <= set(scores)
        assert all(score.nll == chunk / 3 for chunk, score in scores.items())
        assert len(scores) in (len(said), len(said) + 1)
        study.add_score(trial, ChunkScore(100_000, 1, 1.0, 1.0))


def test_an_answer_is_kept_by_file_and_request_and_never_changed(path: Path) -> None:
    with Study.open(path) as study:
        study.add_answer("file a", "request 1", "[-1.5]")
        study.add_answer("file a", "request 1", "[-9.0]")
        study.add_answer("file b", "request 1", "[-2.5]")
    with Study.open(path) as study:
        assert study.answers("file a") == {"request 1": "[-1.5]"} and study.answers("file b") == {"request 1": "[-2.5]"}
        assert study.answers("file c") == {}
