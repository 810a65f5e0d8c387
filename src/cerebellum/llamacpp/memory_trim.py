"""Drop pages of mapped files that this process no longer needs from its memory. Linux; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: `MADV_DONTNEED` of madvise(2): a page of a file that is touched again comes back from the file.
_DONT_NEED = 4

_SIZES = ("Rss", "Anonymous", "Swap")
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Mapping:
    """A stretch of memory: ``rights`` as in r-xp, the file (empty: none), bytes ``resident``, and ``private`` bytes, which this process has
    changed, in memory or swapped out."""

    start: int
    end: int
    rights: str
    path: str
    resident: int
    private: int


@functools.cache
def drop_compiler() -> None:
    """Link the compiled loops, then give back the pages of their compiler: of LLVM alone some 65 MB. Once in a process."""
    import llvmlite

    with absent("scipy.linalg.cython_blas"):  # numba looks for it, and none of the loops multiplies matrices
        from cerebellum.scoring.loops import kernels  # noqa: F401

    give_back(Path(llvmlite.__file__).parent)


@contextmanager
def absent(module: str) -> Iterator[None]:
    """Whoever imports ``module`` meanwhile is told that there is none, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def give_back(folder: Path) -> int:
    """Unmap the resident pages of the files below ``folder`` that are as they are in the files; the bytes given back.

    Only mappings that nobody can write and that hold no page of this process's own (one that the loader has relocated, say): nothing
    can be lost. What is touched again is read again. The system may still have the pages in its cache, and can drop them from there.
    """
    below = f"{folder.resolve()}{os.sep}"
    try:
        clean = [m for m in mappings() if m.path.startswith(below) and "w" not in m.rights and not m.private]
    except OSError:
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(m.resident for m in clean if madvise(m.start, m.end - m.start, _DONT_NEED) == 0)


def mappings(table: Path = Path("/proc/self/smaps")) -> Iterator[Mapping]:
    """This process's mappings. Raises `OSError` where the system has no such table."""
    head: re.Match[str] | None = None
    sizes: dict[str, int] = {}
    for line in table.read_text(errors="surrogateescape").split("\n"):
        if begun := _MAPPING.match(line):
            head, sizes = begun, {}
            continue
        name, _, value = line.partition(":")
        if name in _SIZES:
            sizes[name] = int(value.split()[0]) * 1024
        if head and len(sizes) == len(_SIZES):
            start, end, rights, path = head.groups()
            yield Mapping(int(start, 16), int(end, 16), rights, path, sizes["Rss"], sizes["Anonymous"] + sizes["Swap"])
            head = None
