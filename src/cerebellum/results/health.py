"""What `doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """``state``: *ok*, *missing* (something can't be used), *warning*, or *broken* (nothing can be measured). ``mend``: the command that
    helps, or ""."""

    group: str
    what: str
    state: str
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Native:
    """What llama.cpp says of itself: devices as ``name: description``, kernels' features of the CPU, the build."""

    build: str
    devices: tuple[str, ...]
    features: tuple[str, ...]
    can_offload: bool
