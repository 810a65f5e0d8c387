"""What is computed on, in words."""

from __future__ import annotations

import platform
from pathlib import Path

from cerebellum.cores import n_cores
from cerebellum.llamacpp.protocol import Backend, Settings
from cerebellum.quoting import name


def hardware(backend: Backend, settings: Settings) -> str:
    """The processor with its cores, and with layers on a GPU the devices that llama.cpp sees. Raises `EngineError`."""
    words = [f"{processor()}, {n_cores()} cores"]
    if settings.n_gpu_layers:
        words += backend.native().devices
    return "; ".join(words)


def processor() -> str:
    """The processor's name as Linux knows it, else the kind of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return name(next(named, "") or platform.processor() or platform.machine())
