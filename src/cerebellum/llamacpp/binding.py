"""llama-cpp-python's declarations of llama.cpp's functions, and nothing else of that package.

Its front imports chat formats, a cache on disk and readers of images, which take longer than all of llama.cpp does to load.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cerebellum.errors import EngineError

__all__ = ["LIBRARIES", "VERSION", "lc"]

_PACKAGE = "llama_cpp"
#: Of the environment: where llama-cpp-python looks for llama.cpp.
_FOLDER = "LLAMA_CPP_LIB_PATH"


def _declarations() -> ModuleType:
    """The module ``llama_cpp.llama_cpp``, imported without its package's front, which stays importable afterwards."""
    spec = find_spec(_PACKAGE) if _PACKAGE not in sys.modules else None
    if spec is None:
        return _loaded()
    sys.modules[_PACKAGE] = module_from_spec(spec)
    try:
        return _loaded()
    finally:
        del sys.modules[_PACKAGE]


def _loaded() -> ModuleType:
    try:
        return importlib.import_module(f"{_PACKAGE}.llama_cpp")
    except FileNotFoundError as error:
        if folder := os.environ.get(_FOLDER):
            raise EngineError(
                f"there is no llama.cpp in {folder}, which {_FOLDER} names; name its folder, or unset it"
            ) from error
        raise


if TYPE_CHECKING:
    import llama_cpp.llama_cpp as lc
else:
    lc = _declarations()

#: Of llama-cpp-python.
VERSION = version("llama_cpp_python")
#: The folder that llama.cpp was loaded from: the package's own, or ``LLAMA_CPP_LIB_PATH``.
LIBRARIES = Path(str(lc._base_path))
