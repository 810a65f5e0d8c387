"""The study database: every measurement, committed as it arrives, under a key of all that can change it.

The contract, before any method:

* A **subject** is what the study is of (source, base, importance matrix, by content). One study has one; another subject is refused.
* A **series** is everything two numbers must share to be compared: subject, text by its tokens, split into chunks, settings, build,
  metric version, reference. Its key is a hash of these facts; a study holds several series (search text, report text).
* A **trial** is a set of realized types in a series. Two labels with the same types are one trial, measured once.
* A **score** is a trial's sums over one chunk. It is written once and never changed; resuming is the set of those that are missing.
  Its digest binds it to its trial and series: a row that was altered or moved is refused when it is read. So is an altered answer.
* A **failure** is a row with its reason. It is in force until it is taken back: then the trial is tried again.
* An **answer** is what one file replied to one request of a benchmark, by content alone: any study may hold answers of any file.
* A **fact** is a named JSON value: hashes, choices, what was written.

One process writes at a time (a lock beside the file says so); anyone may read. Schema changes are appended to `MIGRATIONS`, each in one
transaction with the number that records it; a newer or foreign file is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from cerebellum.domain import ChunkScore, Trial
from cerebellum.errors import OutputError, StudyError
from cerebellum.files import FileState
from cerebellum.keys import canonical_json, content_key
from cerebellum.stats.intervals import not_finite

APPLICATION_ID = 0x43524231  # "CRB1"

#: SQLite's: a killed process loses nothing; a power cut may take the last moments with it.
SYNCHRONOUS = "NORMAL"
MIGRATIONS = (
    """
    CREATE TABLE fact (            -- named JSON values; 'subject' says what the study is of
        name  TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
    CREATE TABLE series (          -- what numbers must share to be compared
        id    INTEGER PRIMARY KEY,
        key   TEXT NOT NULL UNIQUE,  -- hash of facts
        name  TEXT NOT NULL,         -- for people: 'search', 'report'
        facts TEXT NOT NULL          -- canonical JSON
    ) STRICT;
    CREATE TABLE trial (           -- a set of realized types in a series
        id     INTEGER PRIMARY KEY,
        series INTEGER NOT NULL REFERENCES series(id),
        key    TEXT NOT NULL,        -- hash of every tensor's realized type
        label  TEXT NOT NULL,
        kind   TEXT NOT NULL,
        swaps  TEXT NOT NULL,        -- JSON {tensor: type}, away from the base
        UNIQUE (series, key)
    ) STRICT;
    CREATE TABLE score (           -- sums over the scored tokens of one chunk, in nats; never changed
        trial      INTEGER NOT NULL REFERENCES trial(id),
        chunk      INTEGER NOT NULL,
        n_tokens   INTEGER NOT NULL,
        nll        REAL NOT NULL,
        nll2       REAL NOT NULL,
        tempered   BLOB NOT NULL,    -- float64, little endian: NLL sums at the inverse temperatures
        kld        REAL,             -- sum of KL(reference || trial); NULL without a reference
        kld2       REAL,
        kld_slack  REAL,             -- how much larger the true sum could be (0 when exact)
        same_top   INTEGER,
        dp         REAL,
        dp2        REAL,
        dp4        REAL,
        kld_tokens BLOB,             -- float32, little endian: per token, for the tail
        PRIMARY KEY (trial, chunk)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE failure (         -- a trial that ended in an error
        trial  INTEGER NOT NULL REFERENCES trial(id),
        at     TEXT NOT NULL,        -- UTC, ISO 8601
        reason TEXT NOT NULL
    ) STRICT;
    CREATE TABLE command (         -- the command lines that worked on this study
        at   TEXT NOT NULL,
        argv TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE answer (          -- what a file replied to a request of a benchmark; never changed
        file    TEXT NOT NULL,       -- hash of the file's content, build and settings
        request TEXT NOT NULL,       -- hash of the tokens and how to go on
        reply   TEXT NOT NULL,       -- JSON
        PRIMARY KEY (file, request)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE failure ADD COLUMN retried TEXT;  -- when it was taken back, to be tried again; NULL: in force
    UPDATE failure SET retried = at;              -- until now every trial that failed was tried again
    """,
    """
    -- Of metric version 8 on: the variance that drawing the reference's words adds to kld (0 where its rows are complete).
    ALTER TABLE score RENAME COLUMN kld_slack TO kld_var;
    """,
    """
    -- The hash of a row and of what it belongs to: a row that was altered, or moved to another trial, is refused.
    ALTER TABLE score ADD COLUMN digest TEXT NOT NULL DEFAULT '';
    ALTER TABLE answer ADD COLUMN digest TEXT NOT NULL DEFAULT '';
    UPDATE score SET digest = (
        SELECT row_digest(series.key, trial.key, chunk, n_tokens, nll, nll2, tempered, kld, kld2, kld_var, same_top, dp, dp2, dp4,
                          kld_tokens)
        FROM trial JOIN series ON series.id = trial.series WHERE trial.id = score.trial
    ) WHERE trial IN (SELECT trial.id FROM trial JOIN series ON series.id = trial.series);
    UPDATE answer SET digest = row_digest(file, request, reply);
    """,
)

_SCORE_COLUMNS = (
    "chunk n_tokens nll nll2 tempered kld kld2 kld_var same_top dp dp2 dp4 kld_tokens"
).split()  # fmt: skip
_REAL_COLUMNS = frozenset("nll nll2 kld kld2 kld_var dp dp2 dp4".split())


@dataclass(frozen=True, slots=True)
class Progressed:
    """A trial under way: its perplexity on ``n_chunks`` chunks of a series, and its mean KL divergence, nats a token, where there is a
    reference."""

    series: str
    label: str
    kind: str
    n_chunks: int
    perplexity: float
    kld: float | None


class Study:
    """An open study database. Use `Study.open` and close it, or a ``with`` block."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._watched: dict[Path, FileState] = {}
        self._in_batch = False
        self._file: tuple[int, int] | None = None

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open or create the study at ``path``. Raises `StudyError` (foreign, newer, in use) or `OutputError`."""
        if read_only and not path.exists():
            raise StudyError(f"there is no study at {path}")
        with ExitStack() as stack:
            lock = None if read_only else _take_lock(path)
            if lock is not None:
                stack.callback(lock.release)
            try:
                _check_regular(path, "study")
                connection = sqlite3.connect(f"{path.resolve().as_uri()}{'?mode=ro' if read_only else ''}", uri=True)
                stack.callback(connection.close)
                study = cls(path, connection, lock)
                connection.create_function("row_digest", -1, row_digest, deterministic=True)
                study._check_or_migrate(read_only)
                study._file = _identity(path)
            except sqlite3.Error as error:
                raise _storage_error(path, error) from error
            stack.pop_all()  # now the study's own to close
            return study

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._lock:
            self._lock.release()

    def _check_or_migrate(self, read_only: bool) -> None:
        identity = self._db.execute("PRAGMA application_id").fetchone()[0]
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        empty = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if identity != APPLICATION_ID and not (empty and identity == 0):
            raise StudyError(f"{self.path} is a database, but not a Cerebellum study; choose another output folder")
        if version < 0:
            raise StudyError(
                f"{self.path} is damaged: its schema has the number {version}; choose another output folder"
            )
        if version > len(MIGRATIONS):
            raise StudyError(f"{self.path} was written by a newer Cerebellum (schema {version}); upgrade to open it")
        if read_only:
            return
        self._db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        self._db.execute("PRAGMA journal_mode=WAL")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._db.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION_ID}; {script} PRAGMA user_version={number}; COMMIT;"
            )

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All that is written in this block is committed together at its end, or not at all where the block raises."""
        with self._transaction():
            self._in_batch = True
            try:
                yield
            finally:
                self._in_batch = False

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._in_batch:
            yield self._db
            return
        try:
            with self._db:
                yield self._db
        except sqlite3.Error as error:
            raise _storage_error(self.path, error) from error
        self._check_own_file()

    def _check_own_file(self) -> None:
        if self._file is not None and _identity(self.path) != self._file:
            raise OutputError(
                f"{self.path} was removed or replaced while it was written to: what is measured now can't be kept; run the same command "
                "again"
            )

    def _rows(self, query: str, *values: Any) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _storage_error(self.path, error) from error

    # -- files that measurements come of ---------------------------------------------------------------------------------

    def watch(self, state: FileState) -> None:
        """From now on no measurement is taken once this file is in another state. A later state of the same path replaces the earlier."""
        self._watched[state.path] = state

    @property
    def watched(self) -> tuple[FileState, ...]:
        """The files that are watched."""
        return tuple(self._watched.values())

    def check_files(self) -> None:
        """Raises `InputError` where a watched file has changed, `OutputError` where the study itself is gone."""
        self._check_own_file()
        for state in self.watched:
            state.check()

    # -- facts -------------------------------------------------------------------------------------------------------

    def bind(self, subject: Mapping[str, Any], describe: str) -> None:
        """Make ``subject`` the study's, or check that it is. Raises `StudyError` where the study is of something else."""
        known = self.fact("subject")
        if known is None:
            self.set_fact("subject", {"key": content_key("subject", subject), "facts": subject, "name": describe})
            return
        if not isinstance(known, dict) or not isinstance(known.get("name"), str):
            raise self._damaged("the fact 'subject'")
        if known.get("key") != content_key("subject", subject):
            other = f"not of {describe}"
            if known["name"] == describe:
                other = "with other content or another importance matrix"
            raise StudyError(
                f"{self.path.parent} holds a study of {known['name']}, {other}; choose another output folder"
            )

    def fact(self, name: str) -> Any:
        """The fact called ``name``, or None."""
        rows = self._rows("SELECT value FROM fact WHERE name = ?", name)
        return self._json(rows[0][0], f"the fact {name!r}") if rows else None

    def set_fact(self, name: str, value: Any) -> None:
        """Store a fact, replacing one of the same name."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, json.dumps(value, sort_keys=True)))

    def add_command(self, argv: list[str]) -> None:
        """Note a command line that works on this study."""
        with self._transaction() as db:
            db.execute("INSERT INTO command VALUES (?, ?)", (_now(), json.dumps(argv)))

    # -- measurements ------------------------------------------------------------------------------------------------

    def series(self, name: str, facts: Mapping[str, Any]) -> int:
        """The id of the series with these facts, made if new; of the one that it was found to be one with, where another build's was."""
        key = content_key("series", facts)
        if (one_with := (self.fact("admitted series") or {}).get(key)) is not None:
            for (number,) in self._rows("SELECT id FROM series WHERE key = ?", one_with):
                return int(number)
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO series (key, name, facts) VALUES (?, ?, ?)", (key, name, canonical_json(facts))
            )
        return int(self._rows("SELECT id FROM series WHERE key = ?", key)[0][0])

    def series_facts(self, series: int) -> dict[str, Any]:
        """The facts a series was made with."""
        for text, key in self._rows("SELECT facts, key FROM series WHERE id = ?", series):
            facts = self._json(text, f"the series {series}")
            if isinstance(facts, dict) and content_key("series", facts) == key:
                return facts
        raise self._damaged(f"the series {series}")

    def trial(self, series: int, trial: Trial, base_types: Mapping[str, str]) -> int:
        """The id of a trial in a series, made if new."""
        tensor_types = json.dumps({s.tensor: s.type for s in trial.tensor_types}, sort_keys=True)
        return self.add_trial(series, trial.key(base_types), trial.label, trial.kind.value, tensor_types)

    def add_trial(self, series: int, key: str, label: str, kind: str, swaps: str) -> int:
        """The id of the trial with this content key in a series, made if new."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO trial (series, key, label, kind, swaps) VALUES (?, ?, ?, ?, ?)",
                (series, key, label, kind, swaps),
            )
        return int(self._rows("SELECT id FROM trial WHERE series = ? AND key = ?", series, key)[0][0])

    def all_series(self) -> list[tuple[int, str, str]]:
        """(id, key, name) of every series, in the order in which they were made."""
        return [
            (int(n), str(key), str(name)) for n, key, name in self._rows("SELECT id, key, name FROM series ORDER BY id")
        ]

    def trials(self, series: int) -> list[tuple[int, str, str, str, str]]:
        """(id, key, label, kind, swaps as JSON) of every trial of a series, in the order in which they were made."""
        return self._rows("SELECT id, key, label, kind, swaps FROM trial WHERE series = ? ORDER BY id", series)

    def add_score(self, trial: int, score: ChunkScore) -> None:
        """Commit one measurement. A second one of the same chunk must be equal, and every sum finite, else `StudyError`.

        Raises `InputError`, and commits nothing, where a watched file has changed.
        SQLite keeps a NaN as NULL, which would read as "not measured".
        """
        if odd := not_finite(score):
            raise StudyError(f"a sum of trial {trial}, chunk {score.chunk} is not a finite number: {odd}")
        self.check_files()
        values = [_stored(name, getattr(score, name)) for name in _SCORE_COLUMNS]
        values[4] = struct.pack(f"<{len(score.tempered)}d", *score.tempered)
        values.append(row_digest(*self._keys_of(trial), *values))
        marks = ", ".join("?" * (len(values) + 1))
        with self._transaction() as db:
            done = db.execute(f"INSERT OR IGNORE INTO score VALUES ({marks})", (trial, *values))
        if done.rowcount == 0 and self.scores(trial)[score.chunk] != score:
            raise StudyError(f"{self.path} already holds another result for trial {trial}, chunk {score.chunk}")

    def scores(self, trial: int) -> dict[int, ChunkScore]:
        """Chunk id → score, of all that is measured of a trial."""
        columns = ", ".join([*_SCORE_COLUMNS, "digest"])
        rows = self._rows(f"SELECT {columns} FROM score WHERE trial = ? ORDER BY chunk", trial)
        keys = self._keys_of(trial) if rows else ()
        return {row[0]: self._score(trial, keys, row) for row in rows}

    def _keys_of(self, trial: int) -> tuple[str, str]:
        """The keys of the series and of the trial."""
        query = "SELECT series.key, trial.key FROM trial JOIN series ON series.id = trial.series WHERE trial.id = ?"
        for series, key in self._rows(query, trial):
            return series, key
        raise self._damaged(f"the trial {trial}")

    def _score(self, trial: int, keys: tuple[str, ...], row: tuple[Any, ...]) -> ChunkScore:
        """The measurement in a row of `_SCORE_COLUMNS` and a digest. Raises `StudyError` where it isn't what was committed."""
        *values, digest = row
        if digest != row_digest(*keys, *values):
            raise self._damaged(f"the measurement of trial {trial}, chunk {row[0]}")
        named = dict(zip(_SCORE_COLUMNS, values, strict=True))
        named["tempered"] = struct.unpack(f"<{len(named['tempered']) // 8}d", named["tempered"])
        return ChunkScore(**named)

    def _json(self, text: str, what: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(what) from error

    def _damaged(self, what: str) -> StudyError:
        return StudyError(
            f"{self.path} is damaged: {what} is not what was written; take the file from a backup, or choose another output folder"
        )

    def older_trials(self, metric_version: int) -> list[tuple[str, int]]:
        """(label, metric version) of trials that are measured with an older metric version and not yet with this one."""
        rows = self._rows(
            "SELECT trial.key, label, json_extract(facts, '$.metric_version') FROM trial JOIN series ON series.id = trial.series "
            "WHERE EXISTS (SELECT 1 FROM score WHERE score.trial = trial.id) ORDER BY trial.id"
        )
        done = {key for key, _, version in rows if version == metric_version}
        return [
            (str(label), int(v)) for key, label, v in rows if v is not None and v < metric_version and key not in done
        ]

    def progressed(self, most: int) -> list[Progressed]:
        """The newest trials that anything was measured of, at most ``most``, newest first: means over their chunks so far."""
        rows = self._rows(
            "SELECT series.name, label, kind, count(*), sum(n_tokens), sum(nll), sum(kld) FROM score JOIN trial ON trial.id = score.trial "
            "JOIN series ON series.id = trial.series GROUP BY trial.id ORDER BY trial.id DESC LIMIT ?",
            most,
        )
        return [
            Progressed(
                str(series),
                str(label),
                str(kind),
                n,
                math.exp(min(nll / tokens, 700.0)),
                None if kld is None else kld / tokens,
            )
            for series, label, kind, n, tokens, nll, kld in rows
            if tokens
        ]

    def chunks_done(self, trial: int) -> set[int]:
        """The chunks a trial has been measured on."""
        return {row[0] for row in self._rows("SELECT chunk FROM score WHERE trial = ?", trial)}

    def answers(self, file: str) -> dict[str, str]:
        """Request → reply, of all that a file has answered; ``file`` is the hash of its content, build and settings."""
        replies = {}
        for request, reply, digest in self._rows("SELECT request, reply, digest FROM answer WHERE file = ?", file):
            if digest != row_digest(file, request, reply):
                raise self._damaged(f"the answer to {request}")
            replies[request] = reply
        return replies

    def add_answer(self, file: str, request: str, reply: str) -> None:
        """Commit one reply. One that is there stays. Raises `InputError`, and commits nothing, where a watched file has changed."""
        self.check_files()
        values = (file, request, reply, row_digest(file, request, reply))
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?)", values)

    def add_failure(self, trial: int, reason: str, at: str = "") -> None:
        """Note that a trial ended in an error; ``at``: when (UTC, ISO 8601), now by default."""
        with self._transaction() as db:
            db.execute("INSERT INTO failure (trial, at, reason) VALUES (?, ?, ?)", (trial, at or _now(), reason))

    def failures_of(self, trial: int) -> list[tuple[str, str, bool]]:
        """(time, reason, whether it is in force) of a trial's failures."""
        rows = self._rows("SELECT at, reason, retried IS NULL FROM failure WHERE trial = ? ORDER BY rowid", trial)
        return [(str(at), str(reason), bool(in_force)) for at, reason, in_force in rows]

    def answered_files(self) -> list[str]:
        """The files that answers are of, as `answers` takes them."""
        return [str(file) for (file,) in self._rows("SELECT DISTINCT file FROM answer ORDER BY file")]

    def facts_like(self, beginning: str) -> dict[str, Any]:
        """Name → value of the facts whose names begin so."""
        rows = self._rows("SELECT name, value FROM fact WHERE substr(name, 1, ?) = ?", len(beginning), beginning)
        return {str(name): self._json(value, f"the fact {name!r}") for name, value in rows}

    def failed_trials(self, series: int) -> dict[int, str]:
        """Trial → reason, of the failures in a series that are in force; of several the last."""
        rows = self._rows(
            "SELECT trial, reason FROM failure JOIN trial ON trial.id = failure.trial "
            "WHERE series = ? AND retried IS NULL ORDER BY failure.rowid",
            series,
        )
        return {int(trial): str(reason) for trial, reason in rows}

    def retry_failures(self) -> int:
        """Take all failures back, so that their trials are tried again; how many."""
        with self._transaction() as db:
            return db.execute("UPDATE failure SET retried = ? WHERE retried IS NULL", (_now(),)).rowcount

    def failures(self) -> list[tuple[str, str, str]]:
        """(label, time, reason) of every failure."""
        rows = self._rows("SELECT label, at, reason FROM failure JOIN trial ON trial.id = failure.trial ORDER BY at")
        return [(str(label), str(at), str(reason)) for label, at, reason in rows]

    def commands(self) -> list[tuple[str, list[str]]]:
        """(time, argv) of every command noted."""
        rows = self._rows("SELECT at, argv FROM command ORDER BY at")
        return [(at, self._json(argv, f"the command of {at}")) for at, argv in rows]


def row_digest(*values: str | int | float | bytes | None) -> str:
    """40 hex digits of the sha256 of a row's values, each with its type and length: numbers as 8 bytes, little endian, -0.0 as 0.0."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, float):
            kind, data = b"f", struct.pack("<d", value + 0.0)  # SQLite keeps no -0.0
        elif isinstance(value, int):
            kind, data = b"i", struct.pack("<q", value)
        else:
            kind, data = (
                (b"b", value) if isinstance(value, bytes) else (b"s", (value or "").encode("utf-8", "surrogatepass"))
            )
        digest.update((b"n" if value is None else kind) + struct.pack("<Q", len(data)) + data)
    return digest.hexdigest()[:40]


def _stored(column: str, value: Any) -> Any:
    """``value`` in the type that SQLite gives back."""
    return float(value) if column in _REAL_COLUMNS and value is not None else value


def _identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of a file; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _check_regular(path: Path, what: str) -> None:
    """Raises `StudyError` where something else than a file lies at ``path``: a pipe would be waited for without end."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 follows links, as SQLite does
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise StudyError(
            f"the {what} {path} is no regular file (a folder, a pipe or a device?); remove it, or choose another output folder"
        )


def _take_lock(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_path = path.with_name(f".{path.name}.lock")
        _check_regular(lock_path, "lock")
        lock = FileLock(lock_path)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyError(
            f"another cerebellum is working on {path}; wait for it or choose another output folder"
        ) from error
    except OSError as error:
        raise OutputError(f"can't write in {path.parent}: {error.strerror or error}") from error
    return lock


def _storage_error(path: Path, error: sqlite3.Error) -> Exception:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return OutputError(f"can't write {path}: {text}; free some space and run the same command again")
    if "readonly" in text or "unable to open" in text:
        return OutputError(f"can't write {path}: {text}")
    return StudyError(f"{path} can't be used as a study: {text}; give another folder with --out, or move the file away")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
