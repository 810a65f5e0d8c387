"""The last step into a box: take away what namespaces leave, then run a script in this very process.

``harden.py FILTERS SCRIPT ARGUMENT…``. FILTERS is a folder with the filters that `syscalls` makes. A new session keyring; no rights left
and none to be had; limits; the filter of system calls. A step that fails ends the process with `REFUSED` before the script runs. A script
without imports of ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys

#: The exit code of a box that could not be closed.
REFUSED = 97
SET_NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2
CAPABILITIES_VERSION = 0x20080522
#: Numbers of keyctl and capget.
CALLS = {"x86_64": (250, 125), "aarch64": (219, 90)}
JOIN_SESSION_KEYRING = 1
#: Of one process: bytes of POSIX queues, of locked memory, and signals that wait.
LIMITS = ((resource.RLIMIT_MSGQUEUE, 0), (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_SIGPENDING, 64))

libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, status: int) -> None:
    """Raise OSError where a call failed."""
    if status < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def new_keyring(keyctl: int) -> None:
    """A session keyring of its own. Where the kernel or an outer filter has none to give, the filter alone keeps keys away."""
    if libc.syscall(keyctl, JOIN_SESSION_KEYRING, None) < 0 and ctypes.get_errno() not in (
        errno.ENOSYS,
        errno.EPERM,
        errno.EDQUOT,
    ):
        checked("session keyring", -1)


def no_rights(capget: int) -> None:
    """This process has no capability. Raises OSError where it has one."""
    head, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    checked("capget", libc.syscall(capget, head, sets))
    if any(sets):
        raise OSError(errno.EPERM, "capabilities are left in the box")
    checked("no new privileges", libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def threads_are_counted() -> bool:
    """Whether the kernel holds this user to a number of processes: root's it doesn't, in whatever namespace."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try:
        child = os.fork()
    except BlockingIOError:
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return False


def take(path: str) -> None:
    """Put a filter in force for good."""
    with open(path, "rb") as stream:
        code = stream.read()

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    program = Program(len(code) // 8, code)
    checked("system-call filter", libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0))


def close(filters: str) -> None:
    """All steps, in an order in which each is still allowed. Raises OSError or ValueError."""
    keyctl, capget = CALLS[os.uname().machine]
    new_keyring(keyctl)
    no_rights(capget)
    for name, most in LIMITS:
        hard = resource.getrlimit(name)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (value, value))
    if not threads_are_counted():
        take(os.path.join(filters, "threadless"))
    take(os.path.join(filters, "allowing"))


def main() -> None:
    filters, script = sys.argv[1:3]
    with open(script, encoding="utf-8") as stream:
        code = compile(stream.read(), script, "exec")
    try:
        close(filters)
    except (OSError, ValueError) as error:
        os.write(2, f"refused: {getattr(error, 'strerror', None) or error}\n".encode())
        os._exit(REFUSED)
    sys.argv[:] = sys.argv[2:]
    exec(code, {"__name__": "__main__", "__file__": script})


if __name__ == "__main__":
    main()
