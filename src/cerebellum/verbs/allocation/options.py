"""What an allocation is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from cerebellum.allocation.candidates import TypeRules
from cerebellum.allocation.sensitivity import SensitivityMap
from cerebellum.allocation.sizes import Target
from cerebellum.profiles.origin import Origin

#: The stock mix whose bytes are taken where no size is named.
DEFAULT_LIKE = "Q4_K_M"


@dataclass(frozen=True, slots=True)
class AllocationOptions:
    """``target``: the size; ``rules``: what types tensors may take; ``n_shuffled``: control recipes with the same types shuffled within
    their roles. ``refine``: improve the recipe by measurement, for ``refine_minutes`` at most (None: up to as much text as the
    anchors took).
    ``seed`` draws shuffles and the order of chunks. ``sensitivity``: a map whose anchors are taken; none are measured. ``origin``: what is
    carried over from another model, probed first. ``label``: the
    quantization label in the file's name (None: that of the stock mix that it is compared with). ``compares_imatrix``: measure whether the
    importance matrix helps the base, where there is one."""

    target: Target = field(default_factory=lambda: Target(like=DEFAULT_LIKE))
    rules: TypeRules = field(default_factory=TypeRules)
    n_shuffled: int = 20
    refine: bool = True
    refine_minutes: float | None = None
    seed: int = 0
    sensitivity: SensitivityMap | None = None
    label: str | None = None
    origin: Origin | None = None
    compares_imatrix: bool = True
