"""Cerebellum: find the mixed-precision quantization that a GGUF model deserves, by measured ablation in memory.

`cerebellum.run`, `transfer`, `plan`, `sweep`, `measure`, `compare`, `bench`, `validity`, `quantize`, `imatrix`, `perplexity`, `inspect`,
`fit`, `try_model`, `doctor` and `demo` are the commands as functions (`cerebellum.api`).
"""

from __future__ import annotations

import sys

__version__ = "0.1.0"

TYPE_CHECKING = False  # `typing` is not imported before the current folder is off the path
if TYPE_CHECKING:
    from typing import Any

    from cerebellum.api import (
        Allocation,
        AllocationLadder,
        BenchResult,
        Estimate,
        FileComparison,
        Fit,
        LadderResult,
        MadeImatrix,
        Measurement,
        Merged,
        Model,
        Part,
        Perplexity,
        Planned,
        Published,
        Quantized,
        RunResult,
        SplitModel,
        SweepResult,
        allocate,
        bench,
        choose,
        compare,
        demo,
        doctor,
        estimate,
        estimate_sweep,
        fetch,
        fit,
        imatrix,
        inspect,
        ladder,
        measure,
        merge,
        perplexity,
        plan,
        publish,
        quantize,
        run,
        run_part,
        split,
        sweep,
        sweep_part,
        transfer,
        try_model,
        validity,
    )
    from cerebellum.errors import CerebellumError

if sys.argv[:1] == [
    "-m"
]:  # Python looks for this package as `python -m cerebellum` asks, with the current folder first on the path
    from cerebellum.safe_path import leave_current_folder

    leave_current_folder()

__all__ = [
    "Allocation",
    "AllocationLadder",
    "BenchResult",
    "CerebellumError",
    "Estimate",
    "FileComparison",
    "Fit",
    "LadderResult",
    "MadeImatrix",
    "Measurement",
    "Merged",
    "Model",
    "Part",
    "Perplexity",
    "Planned",
    "Published",
    "Quantized",
    "RunResult",
    "SplitModel",
    "SweepResult",
    "__version__",
    "allocate",
    "bench",
    "choose",
    "compare",
    "demo",
    "doctor",
    "estimate",
    "estimate_sweep",
    "fetch",
    "fit",
    "imatrix",
    "inspect",
    "ladder",
    "measure",
    "merge",
    "perplexity",
    "plan",
    "publish",
    "quantize",
    "run",
    "run_part",
    "split",
    "sweep",
    "sweep_part",
    "transfer",
    "try_model",
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
