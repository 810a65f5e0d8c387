"""What this build of llama.cpp is made for: its devices and the CPU features that its kernels use."""

from __future__ import annotations

import re

from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import VERSION, lc
from cerebellum.results.health import Native

_FEATURE = re.compile(r"(\w+) = 1")


def native_facts() -> Native:
    """Nothing is computed."""
    native.native_log()
    system = lc.llama_print_system_info().decode("utf-8", "replace")
    return Native(
        build=f"llama-cpp-python {VERSION}",
        devices=native.devices(),
        features=tuple(_FEATURE.findall(system)),
        can_offload=bool(lc.llama_supports_gpu_offload()),
    )
