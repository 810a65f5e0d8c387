"""Runs a command and says what it took: wall and processor time, peak memory of it and its children, bytes written. Linux only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.peak_memory import children
from benchmarks.running import CommandFailedError, shortened

#: Seconds between two looks at the memory of a running command.
LOOK = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took. Bytes. ``resident`` and ``anonymous`` are peaks of the sum over it and its children: pages of mapped files
    are in the first only. ``written`` is what the kernel counts as sent to storage, ``engine_written`` the part of its children."""

    seconds: float
    cpu_seconds: float
    resident: int
    anonymous: int
    written: int
    engine_written: int
    output: str
    messages: str

    def figures(self) -> dict[str, float]:
        """All but what it printed."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("output", "messages")
        }


def measured(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end; ``output`` is its stdout, ``messages`` its stderr. Raises CommandFailedError."""
    words = [str(word) for word in command]
    print("$", *shortened(words), file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        process = subprocess.Popen(words, stdout=output, stderr=errors, env={**os.environ, **(environment or {})})
        watcher = Watcher(process.pid)
        # Not reaped yet: the kernel still tells what it and the children it waited for have written.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - started
        written = io_of(process.pid).get("write_bytes", 0)
        watcher.stop()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        raise CommandFailedError(
            f"{' '.join(shortened(words))} ended with {process.returncode}:\n{''.join(texts)[-1500:]}"
        )
    return Usage(
        seconds, used.ru_utime + used.ru_stime, watcher.resident, watcher.anonymous, written, watcher.children_written, *texts
    )  # fmt: skip


class Watcher:
    """Looks at a process and its children from a thread until told to stop."""

    def __init__(self, pid: int) -> None:
        self.resident = self.anonymous = 0
        self._written: dict[int, int] = {}
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def children_written(self) -> int:
        """Bytes that all children had sent to storage when last seen."""
        return sum(self._written.values())

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(LOOK):
            family = descendants(self._pid)
            sizes = [resident_of(pid) for pid in (self._pid, *family)]
            self.resident = max(self.resident, sum(size.get("VmRSS", 0) for size in sizes))
            self.anonymous = max(self.anonymous, sum(size.get("RssAnon", 0) for size in sizes))
            for pid in family:
                self._written[pid] = max(self._written.get(pid, 0), io_of(pid).get("write_bytes", 0))


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found = children(pid)
    return [*found, *(below for child in found for below in descendants(child))]


def resident_of(pid: int) -> dict[str, int]:
    """VmRSS, RssAnon and the like of a process in bytes; nothing when it's gone."""
    return {name: value * 1024 for name, value in _fields(pid, "status").items()}


def io_of(pid: int) -> dict[str, int]:
    """The kernel's input and output counters of a process, those of children that it waited for included; nothing when it's gone."""
    return _fields(pid, "io")


def _fields(pid: int, file: str) -> dict[str, int]:
    try:
        return parse_fields(Path(f"/proc/{pid}/{file}").read_text())
    except OSError:
        return {}


def parse_fields(text: str) -> dict[str, int]:
    """The lines ``name: number`` (with or without a unit behind it)."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name: int(value.split()[0]) for name, _, value in lines if value.split() and value.split()[0].isdigit()}


def sizes_in(folder: Path) -> dict[str, int]:
    """Path within the folder → bytes, for every file under it."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Files that are new or of another size → by how many bytes."""
    changes = {name: size - before.get(name, 0) for name, size in after.items()}
    return {name: change for name, change in changes.items() if change or name not in before}
