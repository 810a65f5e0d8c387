"""Kinds of boxes: how a command is made to run in one. Whether a kind works here is found by trying it."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cerebellum.evals.sandbox import syscalls

#: Begins the name of every box's folder; its owner's process id follows.
PREFIX = "cerebellum-box-"
#: Seconds after which the folder of an owner that is gone is no longer in use by anyone.
STALE = 600.0

Kind = Literal["namespaces", "user namespace", "bubblewrap", "none"]

HERE = Path(__file__).parent
#: Bytes that a program may write in all.
SCRATCH_BYTES = 32 << 20
#: Users that nobody is; each box takes one at random, so that the number of its threads can be limited.
FIRST_UID, N_UIDS = 1_900_000_000, 50_000_000
#: A program of a box has an id of at least this; smaller ones are given to people and services.
LEAST_UID = 30_000
#: What root needs to make namespaces and to leave its rights behind: bits of CapEff.
RIGHTS = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_CHROOT": 18, "CAP_SYS_ADMIN": 21}
#: How a box says that it could not be closed.
REFUSED = "refused: "


@contextlib.contextmanager
def box_folder() -> Iterator[Path]:
    """A new folder for a box, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as name:
        yield Path(name)


def remove_stale() -> None:
    """Folders that a killed Cerebellum of the same user left."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError, ValueError):
            status, owner = path.lstat(), int(path.name.removeprefix(PREFIX).partition("-")[0])
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > STALE and not is_alive(owner):
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

    def command(self, folder: Path, script: str, *arguments: str) -> list[str]:
        """A Python ``script`` of this package in a new box that can read ``folder``, which gets what the box needs."""
        if self.kind == "none":
            return python(script, *arguments)
        write_filters(folder)
        closed = python("harden.py", str(folder), str(HERE / script), *arguments)
        if self.kind == "bubblewrap":
            return [*python("tied.py", str(os.getpid())), *bubblewrap(visible(folder)), "--", *closed]
        root = folder / "root"
        root.mkdir(exist_ok=True)
        user = own_user() if self.kind == "namespaces" else ("-", "-")
        parent = str(os.getpid())
        return [*python("enter.py", parent, str(root), *user, str(SCRATCH_BYTES)), *visible(folder), "--", *closed]

    @property
    def asked_to_end(self) -> bool:
        """Whether the outermost process of such a box ends all the others itself when it gets SIGTERM (`tied`)."""
        return self.kind == "bubblewrap"

    def refusal(self) -> str:
        """Why this kind can't be had here, "" where a program that tries the walls of such a box finds them whole."""
        return self._lacking() or self._tried()

    def _lacking(self) -> str:
        """What is missing before one is tried."""
        if not sys.platform.startswith("linux"):
            return "only Linux has it"
        if platform.machine() not in syscalls.MACHINES:
            return f"its table of system calls has {' and '.join(syscalls.MACHINES)}, and this is {platform.machine()}"
        if self.kind == "bubblewrap" and not shutil.which("bwrap"):
            return "not installed"
        return missing_rights() if self.kind == "namespaces" else ""

    def _tried(self) -> str:
        """What a box does with a program that tries its walls: "", the wall that is open, or why the box can't be made."""
        with box_folder() as folder:
            folder.chmod(0o755)  # whoever the box ends as reads it
            command = self.command(folder, "probe.py", *visible(folder))
            try:
                done = subprocess.run(command, capture_output=True, timeout=20, cwd=folder, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
        answer = done.stdout.decode("utf-8", "replace").strip()
        if done.returncode == 0 and answer == "contained":
            return ""
        errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return (answer or (errors[-1] if errors else f"ended with {done.returncode}")).removeprefix(REFUSED)[:200]

    def works(self) -> bool:
        """Whether this kind can be had here."""
        return not self.refusal()

    def __str__(self) -> str:
        walls = "no network, no other files or processes, few system calls"
        texts = {
            "namespaces": f"namespaces of its own ({walls}), as a user that nobody is",
            "user namespace": f"a user namespace of its own ({walls}), without rights",
            "bubblewrap": f"bubblewrap ({walls}), without rights",
            "none": "NO sandbox: a process with limits, on this machine's files and network",
        }
        return texts[self.kind]


def python(script: str, *arguments: str) -> list[str]:
    """A script of this package, run by an interpreter that takes nothing from its surroundings."""
    return [interpreter(), "-I", "-S", "-B", str(HERE / script), *arguments]


def visible(folder: Path) -> list[str]:
    """What a box can read."""
    return [*map(str, needed()), str(HERE), str(folder)]


def write_filters(folder: Path) -> None:
    """The filters of system calls, where `harden` reads them."""
    machine = platform.machine()
    for name, code in (
        ("allowing", syscalls.allowing_filter(machine)),
        ("threadless", syscalls.threadless_filter(machine)),
    ):
        (folder / name).write_bytes(code)
        (folder / name).chmod(0o644)  # whoever the box ends as reads it


def bubblewrap(paths: Sequence[str]) -> list[str]:
    """bubblewrap, with what a box needs; nothing in it can be written but /tmp.

    It has no devices: bubblewrap can't bind one read-only, and root's box could change the mode of the machine's own /dev/null. That name
    leads to a plain file in the scratch.
    """
    binds = [word for path in paths for word in ("--ro-bind", path, path)]
    user = ["--unshare-all", *no_nesting(), "--uid", "65534", "--gid", "65534"]
    ends = ["--die-with-parent", "--new-session", "--clearenv"]
    scratch = ["--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--symlink", "/tmp/null", "/dev/null"]
    return ["bwrap", *user, *ends, *scratch, *binds, "--remount-ro", "/", "--chdir", "/tmp"]


def missing_rights() -> str:
    """What keeps this process from making namespaces as root, "" where nothing does."""
    if os.geteuid() != 0:
        return "only root can"
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    lacking = [name for name, bit in RIGHTS.items() if not effective >> bit & 1]
    if lacking:
        return f"root without {', '.join(lacking)}"
    return "" if all(map(free_ids, ("uid_map", "gid_map"))) else "root of a container that has no user to spare"


def own_user() -> tuple[str, str]:
    """A user's and a group's number for one box, drawn from those that nobody has."""
    draw = random.SystemRandom()
    uids, gids = free_ids("uid_map"), free_ids("gid_map")
    return str(draw.choice(uids)), str(draw.choice(gids))


@functools.cache
def free_ids(name: Literal["uid_map", "gid_map"]) -> range:
    """Numbers that nobody has: `N_UIDS` of them on a plain system; in a container the upper half of the widest range that it maps."""
    lines = Path(f"/proc/self/{name}").read_text(encoding="ascii").splitlines()
    ranges = [range(int(first), int(first) + int(count)) for first, _, count in map(str.split, lines)]
    if any(FIRST_UID in each and FIRST_UID + N_UIDS in each for each in ranges):
        return range(FIRST_UID, FIRST_UID + N_UIDS)
    widest = max(ranges, key=len, default=range(0))
    return range(max(LEAST_UID, widest.start + len(widest) // 2), widest.stop)


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
    """What the interpreter reads: itself, its libraries and the system's. Not the whole folder that it was installed in: that may be a
    person's home."""
    python = (
        interpreter(),
        *map(sysconfig.get_path, ("stdlib", "platstdlib")),
        sysconfig.get_config_var("LIBDIR") or "/lib",
    )
    paths = [*map(Path, map(os.path.realpath, python)), *map(Path, ("/usr", "/lib", "/lib64", "/etc/ld.so.cache"))]
    kept: list[Path] = []
    for path in paths:
        if path.exists() and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return tuple(path for path in kept if not any(path != o and path.is_relative_to(o) for o in kept))


@functools.cache
def refusals() -> dict[Kind, str]:
    """Why each kind can't be had here, best kind first, up to the one that can ("").

    As root the best is namespaces by hand: they end as a user that nobody is, whose threads the kernel counts. bubblewrap comes
    last: it may be allowed where we are not, but it can't bound the number of empty files in its scratch.
    """
    kinds: tuple[Kind, ...] = ("namespaces", "user namespace", "bubblewrap")
    causes: dict[Kind, str] = {}
    for kind in kinds:
        causes[kind] = Box(kind).refusal()
        if not causes[kind]:
            break
    return causes


def working_box() -> Box | None:
    """The best kind that works here; None where there is none."""
    return next((Box(kind) for kind, cause in refusals().items() if not cause), None)
