"""Cerebellum: find the mixed-precision quantization that a GGUF model deserves, by measured ablation in memory.

`cerebellum.run`, `sweep`, `measure`, `bench`, `validity`, `quantize`, `perplexity`, `inspect` and `demo` are the commands as functions
(`cerebellum.api`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cerebellum.api import allocate, bench, demo, inspect, measure, perplexity, quantize, run, sweep, validity
    from cerebellum.errors import CerebellumError

__all__ = [
    "CerebellumError",
    "__version__",
    "allocate",
    "bench",
    "demo",
    "inspect",
    "measure",
    "perplexity",
    "quantize",
    "run",
    "sweep",
    "validity",
]


def __getattr__(name: str) -> Any:
    """The verbs are imported when they are first asked for: importing the package stays light."""
    import importlib

    if name == "CerebellumError":
        return importlib.import_module("cerebellum.errors").CerebellumError
    if name in __all__:
        return getattr(importlib.import_module("cerebellum.api"), name)
    raise AttributeError(f"module 'cerebellum' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
