"""Kinds of boxes: how a command is made to run in one. Whether a kind works here is found by trying it."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: Begins the name of every box's folder; its owner's process id follows.
PREFIX = "cerebellum-box-"
#: Seconds after which the folder of an owner that is gone is no longer in use by anyone.
STALE = 600.0

Kind = Literal["namespaces", "bubblewrap", "none"]

HERE = Path(__file__).parent
#: Bytes that a program may write in all.
SCRATCH_BYTES = 32 << 20
#: Users that nobody is; each box takes one at random, so that the number of its processes can be limited.
FIRST_UID, N_UIDS = 1_900_000_000, 50_000_000


@contextlib.contextmanager
def box_folder() -> Iterator[Path]:
    """A new folder for a box, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as name:
        yield Path(name)


def remove_stale() -> None:
    """Folders that a killed Cerebellum of the same user left."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError, ValueError):
            found, owner = path.lstat(), int(path.name.removeprefix(PREFIX).partition("-")[0])
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > STALE and not is_alive(owner):
                shutil.rmtree(path, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


@dataclass(frozen=True, slots=True)
class Box:
    """A kind of isolation."""

    kind: Kind

    def command(self, folder: Path, words: Sequence[str]) -> list[str]:
        """Python with ``words``, in a new box that can read ``folder``."""
        python = [interpreter(), "-I", "-S", "-B", *words]
        visible = [*map(str, needed()), str(HERE), str(folder)]
        if self.kind == "namespaces":
            place = folder / "root"
            place.mkdir(exist_ok=True)
            uid = str(FIRST_UID + random.SystemRandom().randrange(N_UIDS))
            enter = [interpreter(), "-I", "-S", "-B", str(HERE / "enter.py")]
            return [*enter, str(place), uid, str(SCRATCH_BYTES), *visible, "--", *python]
        if self.kind == "bubblewrap":
            binds = [word for path in visible for word in ("--ro-bind", path, path)]
            own = [
                "--unshare-all",
                *no_nesting(),
                "--uid",
                "65534",
                "--gid",
                "65534",
                "--die-with-parent",
                "--new-session",
                "--clearenv",
            ]
            scratch = ["--dev", "/dev", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
            return ["bwrap", *own, *scratch, *binds, "--chdir", "/tmp", "--", *python]
        return python

    def works(self) -> bool:
        """Whether a command that does nothing ends well in such a box."""
        with box_folder() as folder:
            command = self.command(folder, ["-c", "print('here')"])
            try:
                done = subprocess.run(command, capture_output=True, timeout=20, cwd=folder, check=False)
            except (OSError, subprocess.TimeoutExpired):
                return False
            return done.returncode == 0 and done.stdout.strip() == b"here"

    def __str__(self) -> str:
        texts = {
            "namespaces": "namespaces of its own (no network, no other files or processes), as nobody",
            "bubblewrap": "bubblewrap (no network, no other files or processes)",
            "none": "NO sandbox: a process with limits, on this machine's files and network",
        }
        return texts[self.kind]


@functools.cache
def no_nesting() -> tuple[str, ...]:
    """bubblewrap's options that forbid user namespaces in its box, where it has them (from 0.8 on)."""
    known = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False).stdout
    return ("--unshare-user", "--disable-userns") if "--disable-userns" in known else ()


@functools.cache
def interpreter() -> str:
    """The real interpreter behind a virtual environment's."""
    return os.path.realpath(sys.executable)


@functools.cache
def needed() -> tuple[Path, ...]:
    """What the interpreter reads: its own installation and the system's libraries."""
    paths = [Path(os.path.realpath(sys.base_prefix)), *map(Path, ("/usr", "/lib", "/lib64", "/etc/ld.so.cache"))]
    found: list[Path] = []
    for path in paths:
        if path.exists() and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return tuple(path for path in found if not any(path != o and path.is_relative_to(o) for o in found))


@functools.cache
def working_box() -> Box | None:
    """The best kind that works here; None where there is none.

    As root it is namespaces by hand: they end as a user that nobody is, whose processes can be counted. What bubblewrap starts for root
    is root's to the kernel, and may fork without end until its time is up.
    """
    if not sys.platform.startswith("linux"):
        return None
    kinds: list[Kind] = ["namespaces"]
    if os.geteuid() != 0 and shutil.which("bwrap"):
        kinds.insert(0, "bubblewrap")
    return next((box for box in map(Box, kinds) if box.works()), None)
