"""What the trials of a sweep write: a study is begun with one trial, then the other trials are run in it and all changes are seen.

The engine's process counts its own bytes sent to storage (the kernel's `write_bytes`; as it starts, some records of the file system are
among them: numba makes unnamed files to see whether its cache can be written); the folder and the system's folder for temporary
files are listed before, during and after.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import Usage, grown, measured, sizes_in

#: Seconds between two looks at the folders while trials run.
LOOK = 0.05
DATABASE = ("study.sqlite", "study.sqlite-journal", "study.sqlite-wal", "study.sqlite-shm")


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes: the database's growth, the most that its journal held, all that the commanding process sent to storage (both of them,
    pages rewritten), what the engine sent, and other files that ever appeared or grew, by name. ``usage`` is of the run watched."""

    usage: Usage
    database: int
    journal: int
    process: int
    engine: int
    others: dict[str, int]


def trials_write(begin: Sequence[str | Path], go_on: Sequence[str | Path], study: Path, temporary: Path) -> Written:
    """Run ``begin``, then ``go_on``, which both write to ``study``; the second is watched. Raises CommandFailedError."""
    temporary.mkdir(exist_ok=True)
    measured(begin)
    before = {**named("study", study), **named("temporary", temporary)}
    seen: dict[str, int] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            for name, change in grown(before, {**named("study", study), **named("temporary", temporary)}).items():
                seen[name] = max(seen.get(name, 0), change)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        usage = measured(go_on, {"TMPDIR": str(temporary)})
    finally:
        done.set()
        watcher.join()
    return summed_up(usage, before, {**named("study", study), **named("temporary", temporary)}, seen)


def summed_up(usage: Usage, before: dict[str, int], after: dict[str, int], seen: dict[str, int]) -> Written:
    """From the sizes before and after, and the largest growth seen between."""
    database = after.get("study/study.sqlite", 0) - before.get("study/study.sqlite", 0)
    journal = max((seen.get(f"study/{name}", 0) for name in DATABASE[1:]), default=0)
    for name, change in grown(before, after).items():
        seen[name] = max(seen.get(name, 0), change)
    own = {f"study/{name}" for name in DATABASE}
    others = {name: change for name, change in seen.items() if name not in own}
    return Written(usage, database, journal, usage.written - usage.engine_written, usage.engine_written, others)


def named(prefix: str, folder: Path) -> dict[str, int]:
    """The files under a folder, the folder's name before each."""
    return {f"{prefix}/{name}": size for name, size in sizes_in(folder).items()}
