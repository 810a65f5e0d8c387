"""What `fit` finds: how much memory a model takes with each context, and which is the largest that fits."""

from __future__ import annotations

from dataclasses import dataclass

from cerebellum.gguf.memory import Allocated, ContextUse, Footprint


@dataclass(frozen=True, slots=True)
class FitRow:
    """One context."""

    n_ctx: int
    footprint: Footprint
    fits: bool


@dataclass(frozen=True, slots=True)
class FitSize:
    """The size of a file to make: ``file_bytes``, so that a device of ``limit`` bytes holds its weights beside ``cache`` and ``compute``
    with a context of ``n_ctx`` tokens. ``host``: what of the file is not on the device (tables that are only looked up in, the header)."""

    model: str
    limit: int
    n_ctx: int
    cache: int
    compute: int
    file_bytes: int

    @property
    def weights(self) -> int:
        """Bytes of the device that are left for weights."""
        return self.limit - self.cache - self.compute

    @property
    def host(self) -> int:
        return self.file_bytes - self.weights


@dataclass(frozen=True, slots=True)
class Fit:
    """``limit``: bytes of the device that llama.cpp may take. ``largest``: tokens of context that fit, 0 for none. ``trained``: the context
    that the model was trained for. ``n_layers``: of the model, the output counted; ``layers_that_fit``: with the context asked for, or the
    smallest row's. ``checked``: what llama.cpp itself says for ``checked_ctx``, None where it wasn't asked."""

    model: str
    architecture: str
    file_bytes: int
    limit: int
    use: ContextUse
    rows: tuple[FitRow, ...]
    largest: int
    trained: int
    n_layers: int
    layers_that_fit: int
    checked: Allocated | None = None
    checked_ctx: int = 0
    notes: tuple[str, ...] = ()
