"""Go into namespaces by hand: no network, no other processes, a file system of what Python needs and a small scratch.

``enter.py PLACE UID SCRATCH_BYTES READ_ONLY… -- COMMAND…``. As root it becomes the user UID (nobody's); otherwise a user namespace gives it
the right to do this, and takes it away when the command starts. A script without imports of ours.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH = 2
SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, status: int) -> None:
    """Raise OSError where a call failed."""
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    checked(f"mount {target}", libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]))


def show(path: str, root: str, read_only: bool = True) -> None:
    """Bind what is at ``path`` to the same place under ``root``."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb"):
            pass
    mount(path, target, None, BIND | REC)
    if read_only:
        mount("none", target, None, BIND | REMOUNT | RDONLY | NOSUID | NODEV)


def make_root(place: str, scratch_bytes: int, read_only: list[str]) -> None:
    """A file system of nothing but what is to be read, some devices, and a /tmp; then it is all there is.

    The root is changed once more, into a folder of the new one: the kernel makes no user namespace for a process whose root was
    changed, so that the program can't become root of one and mount what no limit counts.
    """
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", place, "tmpfs", NOSUID | NODEV, f"size={scratch_bytes},mode=755,nr_inodes=4096")
    box = place + "/box"
    for path in read_only:
        show(path, box)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        show(device, box, read_only=False)
    os.makedirs(box + "/tmp", exist_ok=True)
    os.chmod(box + "/tmp", 0o777)
    os.chdir(place)
    checked("pivot_root", libc.syscall(PIVOT_ROOT[platform.machine()], b".", b"."))
    checked("umount", libc.umount2(b".", DETACH))
    os.chroot("/box")
    os.chdir("/tmp")


def no_shared_segments() -> None:
    """None of System V's segments and queues in this namespace: no limit of a process counts them. Older kernels let root alone do it."""
    for name in ("shmall", "shmmni", "msgmni"):
        try:
            with open(f"/proc/sys/kernel/{name}", "w", encoding="ascii") as stream:
                stream.write("0")
        except OSError:
            pass


def become_nobody(uid: int, was_root: bool) -> None:
    """Give up what is not needed, for good."""
    libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if was_root:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def map_user(uid: int, gid: int) -> None:
    """In the new user namespace this user is nobody."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
            stream.write(text)


def outlive(child: int) -> None:
    """Wait for ``child``, whoever else ends before it, and end as it did."""
    for fd in (0, 1):
        os.close(fd)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) % 256)


def end_with_parent() -> None:
    """Changing the user clears it."""
    libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Three processes: one outside waits; the first inside, which the program can neither signal nor trace, waits too, and all that is
    inside ends with it, whatever the program did to itself; the third becomes the command.
    """
    place, uid, scratch_bytes, *rest = sys.argv[1:]
    end = rest.index("--")
    read_only, command = rest[:end], rest[end + 1 :]
    was_root, own, group = os.geteuid() == 0, os.geteuid(), os.getegid()
    flags = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | (0 if was_root else NEWUSER)
    checked("unshare", libc.unshare(flags))
    if not was_root:
        map_user(own, group)
    end_with_parent()
    if first := os.fork():
        outlive(first)
    end_with_parent()
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    no_shared_segments()
    make_root(place, int(scratch_bytes), read_only)
    if program := os.fork():
        outlive(program)
    become_nobody(int(uid), was_root)
    os.execve(command[0], command, {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LC_ALL": "C.UTF-8"})


if __name__ == "__main__":
    main()
