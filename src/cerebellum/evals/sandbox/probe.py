"""Run in a new kind of box: tries what must not work there, and says ``contained``, or what did work. A script without imports of ours.

``probe.py VISIBLE…``: the paths that must be read-only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

#: Calls by number: keyctl, add_key, io_uring_setup, perf_event_open, semget, ptrace, unshare, userfaultfd, bpf, mount, execve.
REFUSED = {
    "x86_64": (250, 248, 425, 298, 64, 101, 272, 323, 321, 165, 59),
    "aarch64": (219, 217, 425, 241, 190, 117, 97, 282, 280, 40, 221),
}
AF_INET, AF_NETLINK, AF_VSOCK = 2, 16, 40
SOCKET = {"x86_64": 41, "aarch64": 198}

libc = ctypes.CDLL(None, use_errno=True)


def answers(number: int, *arguments: int) -> bool:
    """Whether the kernel does more than refuse this call."""
    return not (libc.syscall(number, *arguments, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM)


def open_doors(visible: list[str]) -> list[str]:
    """What a box lets through that it must not."""
    machine = os.uname().machine
    doors = [f"system call {number}" for number in REFUSED[machine] if answers(number)]
    doors += [f"sockets of family {n}" for n in (AF_INET, AF_NETLINK, AF_VSOCK) if answers(SOCKET[machine], n, 1)]
    devices = [entry.path for entry in os.scandir("/dev") if not entry.is_symlink()]
    closed = [*visible, *devices]
    doors += [f"{path} can be written" for path in closed if not os.statvfs(path).f_flag & os.ST_RDONLY]
    doors += ["the user is root"] if 0 in os.getresuid() + os.getresgid() else []
    try:
        if os.fork() == 0:
            os._exit(0)
        doors.append("processes can be started")
    except PermissionError:
        pass
    return doors


if __name__ == "__main__":
    print("; ".join(open_doors(sys.argv[1:])) or "contained")
