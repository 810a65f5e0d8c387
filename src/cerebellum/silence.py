"""Standard output of native code that prints for its own developers, thrown away."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Nothing that native code prints inside reaches the process's standard output. Not for threads that print meanwhile."""
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else None
    sys.stdout.flush()
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        if flush is not None:
            flush(None)  # what C's own buffer still holds
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)
