"""Cerebellum: find the mixed-precision quantization that a GGUF model deserves, by measured ablation in memory.

`cerebellum.run`, `transfer`, `plan`, `sweep`, `measure`, `compare`, `bench`, `validity`, `quantize`, `imatrix`, `perplexity`, `inspect`,
`fit`, `try_model`, `doctor` and `demo` are the commands as functions (`cerebellum.api`, whose names are this package's).
"""

from __future__ import annotations

import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # `typing` is not imported before the current folder is off the path
if TYPE_CHECKING:
    from cerebellum.api import *  # noqa: F403
    from cerebellum.api import __all__ as __all__
    from cerebellum.errors import CerebellumError as CerebellumError

if sys.argv[:1] == [
    "-m"
]:  # Python looks for this package as `python -m cerebellum` asks, with the current folder first on the path
    from cerebellum.safe_path import leave_current_folder

    leave_current_folder()


if not TYPE_CHECKING:

    def __getattr__(name):
        """The verbs are imported when they are first asked for: importing the package, or a module of it, stays light."""
        import importlib.util

        is_name = name == "__all__" or not name.startswith("__")
        if not is_name or importlib.util.find_spec(f"cerebellum.{name}") is not None:
            raise AttributeError(f"module 'cerebellum' has no attribute {name!r}")
        if name == "CerebellumError":
            return importlib.import_module("cerebellum.errors").CerebellumError
        api = importlib.import_module("cerebellum.api")
        if name == "__all__":
            return ["CerebellumError", "__version__", *api.__all__]
        if name in api.__all__:
            return getattr(api, name)
        raise AttributeError(f"module 'cerebellum' has no attribute {name!r}")

    def __dir__():
        return sorted(__getattr__("__all__"))
