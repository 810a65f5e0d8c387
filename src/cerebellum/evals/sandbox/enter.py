"""Go into namespaces by hand: no network, no other processes, a file system of what Python needs and a small scratch.

``enter.py PARENT PLACE UID GID SCRATCH_BYTES READ_ONLY… -- COMMAND…``. PARENT is the process that began this; the box ends with it. With a
UID (which needs root's rights) the command runs as that user; with "-" a user namespace gives the right to do this, and takes it away when
the command starts. A step that fails ends with a line that says which. A script without imports of ours.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
#: Options of a mount, as mountinfo writes them, that a remount must name to keep.
OPTIONS = {
    "nosuid": NOSUID,
    "nodev": NODEV,
    "noexec": NOEXEC,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "relatime": 1 << 21,
}
DETACH = 2
SET_PDEATHSIG, SET_DUMPABLE = 1, 4
MOUNT_SETATTR, RECURSIVE, HERE = 442, 0x8000, -100
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NOBODY = 65534
#: The exit code of a box that could not be made.
REFUSED = 97

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


def show(path: str, root: str, device: bool = False) -> None:
    """Bind what is at ``path``, and what is mounted below, to the same place under ``root``, read-only. A device is written to all the
    same, but its mode, owner and times are those of the machine's own file and must stay."""
    target = root + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb"):
            pass
    mount(path, target, None, BIND | REC)
    make_read_only(target, RDONLY | NOSUID | (NOEXEC if device else NODEV))


def make_read_only(target: str, flags: int) -> None:
    """A mount and all below it; other options stay, since some are locked. In one call, or before Linux 5.12 one by one."""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    if libc.syscall(MOUNT_SETATTR, HERE, os.fsencode(target), RECURSIVE, attributes, size) == 0:
        return
    for point, options in mounts(target):
        kept = sum(flag for option, flag in OPTIONS.items() if option in options and not flags & flag)
        mount("none", point, None, BIND | REMOUNT | flags | kept)


def mounts(root: str) -> list[tuple[str, list[str]]]:
    """Where something is mounted at or below ``root``, and with which options."""
    with open("/proc/self/mountinfo", "rb") as stream:
        lines = [line.split() for line in stream]
    every = [(unescaped(words[4]), words[5].decode().split(",")) for words in lines]
    return [(point, options) for point, options in every if point == root or point.startswith(root + "/")]


def unescaped(word: bytes) -> str:
    """A path of mountinfo: spaces and the like stand there as a backslash and three octal digits."""
    first, *rest = word.split(b"\\")
    return os.fsdecode(first + b"".join(bytes([int(each[:3], 8)]) + each[3:] for each in rest))


def check_read_only(box: str) -> None:
    """Raise OSError where something in ``box`` is mounted to be written."""
    for point, options in mounts(box):
        if "ro" not in options:
            raise OSError(f"{point.removeprefix(box)} could not be mounted read-only")


def make_root(folder: str, scratch_bytes: int, read_only: list[str]) -> None:
    """A file system of nothing but what is to be read, some devices, and a /tmp; then it is all there is.

    The root is changed once more, into a folder of the new one: the kernel makes no user namespace for a process whose root was
    changed, so that the program can't become root of one and mount what no limit counts.
    """
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", folder, "tmpfs", NOSUID | NODEV, f"size={scratch_bytes},mode=755,nr_inodes=4096")
    box = folder + "/box"
    for path in read_only:
        show(path, box)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        show(device, box, device=True)
    check_read_only(box)
    os.makedirs(box + "/tmp", exist_ok=True)
    os.chmod(box + "/tmp", 0o777)
    os.chdir(folder)
    checked("pivot_root", libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."))
    checked("umount", libc.umount2(b".", DETACH))
    os.chroot("/box")
    os.chdir("/tmp")


def become(uid: int, gid: int) -> None:
    """A user that nobody is, for good."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def map_user(uid: int, gid: int) -> None:
    """In the new user namespace this user is nobody."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
                stream.write(text)
        except OSError as error:
            raise OSError(error.errno, f"{name}: {error.strerror}") from error


def outlive(child: int) -> None:
    """Wait for ``child``, whoever else ends before it, and end as it did."""
    for fd in (0, 1):
        os.close(fd)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) % 256)


def end_with_parent() -> None:
    """When the parent ends, this process does."""
    checked("prctl", libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def fork_with_line() -> int:
    """As fork; the child ends with its parent, even where that was gone before the child could ask for this."""
    line, held = os.pipe()
    if child := os.fork():
        os.close(line)
        return child
    os.close(held)
    end_with_parent()
    watch = select.poll()
    watch.register(line, select.POLLHUP)
    if watch.poll(0):
        os._exit(1)
    os.close(line)
    return 0


def enter() -> None:
    """Three processes: one outside waits; the first inside, which the program can neither signal nor trace, waits too, and all that is
    inside ends with it, whatever the program did to itself; the third becomes the command. Raises OSError.
    """
    parent, folder, uid, gid, scratch_bytes, *rest = sys.argv[1:]
    end = rest.index("--")
    read_only, command = rest[:end], rest[end + 1 :]
    user, group = os.geteuid(), os.getegid()
    checked("unshare", libc.unshare(NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | (NEWUSER if uid == "-" else 0)))
    if uid == "-":
        map_user(user, group)
    end_with_parent()
    if os.getppid() != int(parent):
        os._exit(1)
    if first := fork_with_line():
        outlive(first)
    checked("prctl", libc.prctl(SET_DUMPABLE, 0, 0, 0, 0))
    make_root(folder, int(scratch_bytes), read_only)
    if program := os.fork():
        outlive(program)
    if uid != "-":
        become(int(uid), int(gid))
    os.execve(command[0], command, {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LC_ALL": "C.UTF-8"})


def main() -> None:
    try:
        enter()
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        os.write(2, f"refused: {error.strerror or error}{where}\n".encode())
        os._exit(REFUSED)


if __name__ == "__main__":
    main()
