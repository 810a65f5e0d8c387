"""Hold a command that starts processes of its own: all of them end with it, with this process and with this process's parent.

``tied.py PARENT COMMAND…``. bubblewrap asks the kernel to end it with its parent only after it has begun its box: where it is killed
before, the box stays for ever. Here what loses its parent becomes a child of this process, which ends it: when the command has ended, when
PARENT has, and on SIGTERM. A script without imports of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
#: The exit code of a box that could not be made.
REFUSED = 97
AWAITED = {signal.SIGTERM, signal.SIGCHLD}

libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, status: int) -> None:
    """Raise OSError where a call failed."""
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def ask_kernel(parent: int) -> None:
    """To give this process whatever is begun below it and loses its parent, and SIGTERM when ``parent`` ends. Raises OSError."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    checked("subreaper", libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    checked("prctl", libc.prctl(SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0))
    if os.getppid() != parent:
        os._exit(1)


def start(command: list[str]) -> int:
    """The process that became the command. Standard input and output are its alone."""
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            refuse(error)
    for descriptor in (0, 1):
        os.close(descriptor)
    return child


def wait_for(child: int) -> int:
    """The exit code of ``child``; that of a process killed where SIGTERM came first."""
    while signal.sigwait(AWAITED) == signal.SIGCHLD:
        for pid, status in ended():
            if pid == child:
                return os.waitstatus_to_exitcode(status) % 256
    return -signal.SIGKILL % 256


def ended() -> Iterator[tuple[int, int]]:
    """Children that have ended, with how they did."""
    try:
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            yield pair
    except ChildProcessError:
        return


def end_all() -> None:
    """Kill each child; those of a killed one become ours, and are killed in turn."""
    try:
        while True:
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
    except OSError:  # none is left, one is another user's, or there is no /proc: the exit code is still told
        return


def children() -> Iterator[int]:
    """This process's children, by /proc."""
    this = str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                parent = stream.read().rpartition(b")")[2].split()[1]
        except OSError:
            continue  # it ended meanwhile
        if parent == this:
            yield int(name)


def refuse(error: OSError) -> None:
    """Say why there is no box, and end."""
    os.write(2, f"refused: {error.strerror or error}\n".encode())
    os._exit(REFUSED)


def main() -> None:
    try:
        ask_kernel(int(sys.argv[1]))
        child = start(sys.argv[2:])
    except OSError as error:
        refuse(error)
    code = wait_for(child)
    end_all()
    os._exit(code)


if __name__ == "__main__":
    main()
