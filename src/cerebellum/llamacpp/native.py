"""ctypes access to ggml and llama.cpp: the structs, the functions, the log. No policy here.

`struct ggml_tensor` is public (ggml.h), so a weight's type, strides and data can be read and replaced; `check_layout` compares what
we read through this struct with what the library's own functions say, so that a changed layout is an error and never a wrong number.
"""

from __future__ import annotations

import collections
import ctypes as C
import functools
import hashlib
import os
import sys
from typing import Any

import numpy as np

from cerebellum.errors import EngineError
from cerebellum.llamacpp.binding import LIBRARIES, VERSION, lc

MAX_DIMS, MAX_SRC = 4, 10
OP_NONE = 0
#: More than there are operations before the two that are looked for by name.
_MOST_OPS = 64
USAGE_WEIGHTS = 1
#: `GGML_BACKEND_DEVICE_TYPE_CPU`.
_PROCESSOR = 0
#: `GGML_BACKEND_DEVICE_TYPE_ACCEL`.
_ACCELERATOR = 3
#: `GGML_LOG_LEVEL_WARN`.
_WARNING = 3
#: Thousands of lines a graph, of use to nobody.
_CHATTER = "llama_graph_n_input_tensors:"
#: `GGML_LOG_LEVEL_ERROR`.
_ERROR = 4


class GgmlTensor(C.Structure):
    """`struct ggml_tensor` of ggml.h."""

    _fields_ = (
        ("type", C.c_int),
        ("buffer", C.c_void_p),
        ("ne", C.c_int64 * MAX_DIMS),
        ("nb", C.c_size_t * MAX_DIMS),
        ("op", C.c_int),
        ("op_params", C.c_int32 * 16),
        ("flags", C.c_int32),
        ("src", C.c_void_p * MAX_SRC),
        ("view_src", C.c_void_p),
        ("view_offs", C.c_size_t),
        ("data", C.c_void_p),
        ("name", C.c_char * 64),
        ("extra", C.c_void_p),
        ("pad", C.c_char * 8),
    )


class InitParams(C.Structure):
    """`struct ggml_init_params` of ggml.h."""

    _fields_ = (("mem_size", C.c_size_t), ("mem_buffer", C.c_void_p), ("no_alloc", C.c_bool))


TO_FLOAT = C.CFUNCTYPE(None, C.c_void_p, C.c_void_p, C.c_int64)


class TypeTraits(C.Structure):
    """`struct ggml_type_traits` of ggml.h, up to the function that turns a row into floats."""

    _fields_ = (
        ("type_name", C.c_char_p),
        ("block_size", C.c_int64),
        ("block_size_interleave", C.c_int64),
        ("type_size", C.c_size_t),
        ("is_quantized", C.c_bool),
        ("to_float", C.c_void_p),
    )


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_row_size": (C.c_size_t, (C.c_int, C.c_int64)),
    "ggml_type_size": (C.c_size_t, (C.c_int,)),
    "ggml_blck_size": (C.c_int64, (C.c_int,)),
    "ggml_type_name": (C.c_char_p, (C.c_int,)),
    "ggml_nbytes": (C.c_size_t, (C.c_void_p,)),
    "ggml_get_name": (C.c_char_p, (C.c_void_p,)),
    "ggml_get_data": (C.c_void_p, (C.c_void_p,)),
    "ggml_op_name": (C.c_char_p, (C.c_int,)),
    "ggml_nrows": (C.c_int64, (C.c_void_p,)),
    "ggml_get_type_traits": (C.POINTER(TypeTraits), (C.c_int,)),
    "ggml_fp16_to_fp32_row": (None, (C.c_void_p, C.c_void_p, C.c_int64)),
    "ggml_bf16_to_fp32_row": (None, (C.c_void_p, C.c_void_p, C.c_int64)),
    "ggml_quantize_init": (None, (C.c_int,)),
    "ggml_quantize_requires_imatrix": (C.c_bool, (C.c_int,)),
    "ggml_quantize_chunk": (
        C.c_size_t,
        (C.c_int, C.c_void_p, C.c_void_p, C.c_int64, C.c_int64, C.c_int64, C.c_void_p),
    ),
    "ggml_validate_row_data": (C.c_bool, (C.c_int, C.c_void_p, C.c_size_t)),
    "ggml_init": (C.c_void_p, (InitParams,)),
    "ggml_free": (None, (C.c_void_p,)),
    "ggml_tensor_overhead": (C.c_size_t, ()),
    "ggml_new_tensor": (C.c_void_p, (C.c_void_p, C.c_int, C.c_int, C.POINTER(C.c_int64))),
    "ggml_backend_tensor_set": (None, (C.c_void_p, C.c_void_p, C.c_size_t, C.c_size_t)),
    "ggml_backend_tensor_get": (None, (C.c_void_p, C.c_void_p, C.c_size_t, C.c_size_t)),
    "ggml_backend_buffer_get_type": (C.c_void_p, (C.c_void_p,)),
    "ggml_backend_buffer_set_usage": (None, (C.c_void_p, C.c_int)),
    "ggml_backend_buffer_is_host": (C.c_bool, (C.c_void_p,)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (C.c_void_p, (C.c_void_p, C.c_void_p)),
    "ggml_backend_buffer_free": (None, (C.c_void_p,)),
    "ggml_backend_dev_name": (C.c_char_p, (C.c_void_p,)),
    "ggml_backend_dev_description": (C.c_char_p, (C.c_void_p,)),
    "ggml_backend_dev_type": (C.c_int, (C.c_void_p,)),
}
#: Of libggml, which knows the devices.
_OF_DEVICES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_dev_count": (C.c_size_t, ()),
    "ggml_backend_dev_get": (C.c_void_p, (C.c_size_t,)),
}


@functools.cache
def ggml() -> Any:
    """libggml-base with typed functions. Raises `EngineError` where llama-cpp-python doesn't bundle it."""
    return _library("ggml-base", _SIGNATURES)


def _library(stem: str, signatures: dict[str, tuple[Any, tuple[Any, ...]]]) -> Any:
    name = {"darwin": f"lib{stem}.dylib", "win32": f"{stem}.dll"}.get(sys.platform, f"lib{stem}.so")
    path = LIBRARIES / name
    try:
        library = C.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"llama-cpp-python has no usable {name}: {error}; reinstall it") from error
    for function, (result, arguments) in signatures.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


@functools.cache
def devices() -> tuple[str, ...]:
    """What this llama.cpp can compute on beside the processor: names and descriptions."""
    library, base = _library("ggml", _OF_DEVICES), ggml()
    handles = [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]
    return tuple(
        f"{base.ggml_backend_dev_name(each).decode()}: {base.ggml_backend_dev_description(each).decode()}"
        for each in handles
        if base.ggml_backend_dev_type(each) != _PROCESSOR
    )


@functools.cache
def has_accelerator() -> bool:
    """Whether a library beside ggml's own kernels (BLAS) takes part of what the processor computes."""
    library, base = _library("ggml", _OF_DEVICES), ggml()
    handles = [library.ggml_backend_dev_get(i) for i in range(library.ggml_backend_dev_count())]
    return any(base.ggml_backend_dev_type(each) == _ACCELERATOR for each in handles)


@functools.cache
def build_id() -> str:
    """Identity of all that computes: llama.cpp's package, a hash of its libraries and of the CPU features that they use, the devices
    beside the processor (not their drivers), numpy's version, and what the sums were compiled by and for
    (`cerebellum.scoring.loops.compiled`): another of these may round another way.
    """
    import numba  # not needed to quantize

    from cerebellum.scoring.loops.compiled import compiler_id

    digest = hashlib.sha256()
    for path in sorted(LIBRARIES.iterdir()):
        if path.is_file() and ("ggml" in path.name or path.name.startswith(("libllama.", "llama."))):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    digest.update(lc.llama_print_system_info())
    digest.update("".join(devices()).encode())
    digest.update(compiler_id().encode())
    return f"llama-cpp-python {VERSION}, numba {numba.__version__}, numpy {np.__version__} ({digest.hexdigest()[:16]})"


@functools.cache
def empty_ops() -> frozenset[int]:
    """Numbers of the operations that compute nothing: views and reshapes."""
    names = {b"NONE", b"RESHAPE", b"VIEW", b"PERMUTE", b"TRANSPOSE"}
    ops, number = set(), 0
    while names:
        name = ggml().ggml_op_name(number)
        if name in names:
            names.remove(name)
            ops.add(number)
        number += 1
    return frozenset(ops)


@functools.cache
def op_number(name: str) -> int:
    """The number of the operation that ggml calls ``name``. Raises `EngineError` where there is none."""
    for number in range(_MOST_OPS):
        if ggml().ggml_op_name(number) == name.encode():
            return number
    raise EngineError(f"this llama.cpp has no operation {name}; install the pinned llama-cpp-python")


def tensor_at(pointer: int) -> GgmlTensor:
    """The struct at an address; changes to it are changes to the library's tensor."""
    return C.cast(pointer, C.POINTER(GgmlTensor)).contents


#: How lines end that only say that there was an error.
_SAYS_NOTHING = ("failed to load model", "failed to initialize the context", "failed to initialize context")


class NativeLog:
    """Keeps the last lines that llama.cpp logged, quietly; those of its warnings in ``warned`` and of its errors in ``failed`` too. One
    for the process: `native_log`."""

    def __init__(self, keep: int = 20_000) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=keep)
        self.warned: collections.deque[str] = collections.deque(maxlen=keep)
        self.failed: collections.deque[str] = collections.deque(maxlen=keep)
        self._partial, self._level = "", 0
        self._callback = lc.llama_log_callback(self._take)

    def _take(self, level: int, text: bytes, _user: Any) -> None:
        if not self._partial:  # what follows on the same line may have the level "continued"
            self._level = level
        self._partial += text.decode("utf-8", "replace")
        *whole, self._partial = self._partial.split("\n")
        telling = [line for line in whole if line.strip() and not line.startswith(_CHATTER)]
        self.lines.extend(telling)
        if self._level == _WARNING:
            self.warned.extend(telling)
        if self._level == _ERROR:
            self.failed.extend(telling)
        self._level = level

    def clear(self) -> None:
        """Before a call whose errors are to be told: what was logged before is none of them."""
        self.lines.clear()
        self.failed.clear()

    def errors(self) -> str:
        """The last few lines that llama.cpp logged as errors, for a message; where there are none its last lines."""
        lines = [line.strip() for line in self.failed]
        telling = [line for line in lines if not line.endswith(_SAYS_NOTHING)] or lines
        return "; ".join(telling[-3:]) or "; ".join(list(self.lines)[-2:])


@functools.cache
def native_log() -> NativeLog:
    """Start the backend once and take its log.

    llama.cpp then builds a graph for each batch. One that it keeps may hold views of weights that have been swapped since, and nodes
    that a replay has left out.
    """
    os.environ["LLAMA_GRAPH_REUSE_DISABLE"] = "1"
    log = NativeLog()
    lc.llama_log_set(log._callback, C.c_void_p(0))
    lc.llama_backend_init()
    return log


def check_layout(pointer: int) -> None:
    """Compare a weight read through `GgmlTensor` with the library's own answers. Raises `EngineError` if they differ."""
    t, library = tensor_at(pointer), ggml()
    data = library.ggml_get_data(pointer)
    rows = t.ne[1] * t.ne[2] * t.ne[3]
    same = (
        t.name == library.ggml_get_name(pointer)
        and t.data == data
        and rows == library.ggml_nrows(pointer)
        and t.nb[1] == library.ggml_row_size(t.type, t.ne[0])
        and t.nb[1] * rows == library.ggml_nbytes(pointer)
    )
    if not same:
        raise EngineError("this llama.cpp lays out struct ggml_tensor differently; install the pinned llama-cpp-python")
