"""An engine's own devices and cores: what its process sees of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cerebellum.errors import EngineError

#: The beginning of llama.cpp's names of devices → the environment variable that says which of them a process sees.
VISIBLE = {
    "CUDA": "CUDA_VISIBLE_DEVICES",
    "ROCm": "HIP_VISIBLE_DEVICES",
    "MUSA": "MUSA_VISIBLE_DEVICES",
    "Vulkan": "GGML_VK_VISIBLE_DEVICES",
}
_DEVICE = re.compile(rf"({'|'.join(VISIBLE)})([0-9]+)")


def pinnable(devices: Sequence[str]) -> tuple[str, ...]:
    """Names of the devices that a process can be given for its own; ``devices``: ``name: description``."""
    names = [device.partition(":")[0] for device in devices]
    return tuple(name for name in names if _DEVICE.fullmatch(name))


def visible(devices: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that let a process see ``devices`` alone, by the names that they have in ``environment``. Raises `EngineError`."""
    matches = [_DEVICE.fullmatch(device) for device in devices]
    kinds = {match[1] for match in matches if match}
    if None in matches or len(kinds) != 1:
        raise EngineError(
            f"an engine can't be given {', '.join(devices)} for its own: devices of one kind that can be hidden are wanted"
        )
    variable = VISIBLE[kinds.pop()]
    there = [word for word in environment.get(variable, "").split(",") if word.strip()]
    numbers = [int(match[2]) for match in matches if match]
    if there and max(numbers) >= len(there):
        raise EngineError(
            f"{variable} names {len(there)} devices, and {devices[numbers.index(max(numbers))]} is none of them"
        )
    chosen = {variable: ",".join(there[n].strip() if there else str(n) for n in numbers)}
    return (
        {**chosen, "CUDA_DEVICE_ORDER": environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
        if variable.startswith("CUDA")
        else chosen
    )
