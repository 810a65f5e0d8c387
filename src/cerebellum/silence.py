"""Standard output of native code that prints for its own developers, thrown away; and descriptors that every program takes for open."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Nothing that native code prints inside reaches the process's standard output. Not for threads that print meanwhile.

    Where standard output is closed, nothing is to be silenced.
    """
    import ctypes

    flush = ctypes.CDLL(None).fflush if os.name == "posix" else None
    if sys.stdout is not None:
        with contextlib.suppress(ValueError):  # closed in Python, whatever its descriptor is
            sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        if flush is not None:
            flush(None)  # what C's own buffer still holds
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def open_standard_streams() -> None:
    """Descriptors 0, 1 and 2 are open: those that this process was started without lead nowhere.

    Otherwise the next file gets the number, a database for example, and what native code prints would be written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), "utf-8", "backslashreplace"))
