"""Compiles numeric functions with numba, ahead of their use and once on a machine: the machine code is kept on disk.

The code's folder is named by a hash of all that decides it: the sources of what is compiled, the versions of numba and llvmlite, and
the processor. So code of another version or another machine is never taken, and processes that compile at the same time write the
same. Where no folder can be written, the code is made anew in memory (seconds).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding as llvm
import numba
from numba.core import codegen, config

from cerebellum.cached import cache_folder

Function = TypeVar("Function", bound=Callable[..., Any])

#: Files whose text is part of the compiled code.
_SOURCES = ("compiled.py", "simd.py", "fastmath.py", "kernels.py", "squares.py")


@functools.cache
def compiler_id() -> str:
    """numba's and llvmlite's versions and the processor that LLVM compiles for: another of these may round another way."""
    features = codegen.get_host_cpu_features()
    kind = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {features} {config.CPU_NAME} {config.CPU_FEATURES}"
    return f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, {hashlib.sha256(kind.encode()).hexdigest()}"


def inlined(function: Function) -> Function:
    """For functions that compiled ones call: compiled with them, rounding as written (no fast math)."""
    return cast(Function, numba.njit(nogil=True)(function))


def compiled(signature: str) -> Callable[[Function], Function]:
    """Compile for one numba ``signature`` now, or take the code from the cache. Holds no lock of the interpreter while it runs."""

    def decorate(function: Function) -> Function:
        with _cache_folder(code_folder()) as kept:
            return cast(Function, numba.njit(signature, nogil=True, cache=kept, boundscheck=False)(function))

    return decorate


@functools.cache
def code_folder() -> Path | None:
    """Where the machine code is kept: beside the package, else in the user's cache; None where neither can be written."""
    digest = hashlib.sha256(compiler_id().encode())
    here = Path(__file__).parent
    for name in _SOURCES:
        digest.update((here / name).read_bytes())
    return cache_folder(f"kernels-{digest.hexdigest()[:16]}", here, config.CACHE_DIR)  # NUMBA_CACHE_DIR


@contextmanager
def _cache_folder(folder: Path | None) -> Iterator[bool]:
    """Point numba's cache at ``folder`` for the functions that are made inside; whether there is one."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or "")
    try:
        yield folder is not None
    finally:
        config.CACHE_DIR = before
