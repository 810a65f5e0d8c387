"""What a change does only because something changed: the floor under the effects of single tensors of a quantized source.

A CPU multiplies quantized weights by inputs that it rounds to 8 bits. Any change before such a product, however small, makes some inputs
round to the other side, and the logits move. More changed tensors don't move them much further. So this part of an effect says nothing of
the tensor, and doesn't add up. It is measured on tensors stored as a type that keeps their values, in several blocks: it falls with depth,
for it needs products that come after.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cerebellum.allocation.damage import Anchor
from cerebellum.domain import Tensor
from cerebellum.gguf.types import TYPES

#: In how many blocks the floor is measured, and on how many tensors of each.
BLOCKS, TENSORS = 6, 2
#: Relative deviation that a single effect's floor has at least.
LEAST_SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Floor:
    """``values``: nats a token at ``blocks``, falling; ``spread``: standard deviation of one tensor's floor around them, relative."""

    blocks: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    spread: float = LEAST_SPREAD

    @property
    def whole(self) -> float:
        """Of a change before all blocks, which is that of any number of changes, nats a token."""
        return max(self.values, default=0.0)

    def at(self, tensor: Tensor) -> float:
        """Of a change of ``tensor``, nats a token: none of the output matrix, after which nothing is rounded."""
        if not self.blocks or tensor.name.startswith("output"):
            return 0.0
        return float(np.interp(-1 if tensor.block is None else tensor.block, self.blocks, self.values))

    def without(self, anchor: Anchor, tensor: Tensor) -> Anchor:
        """The anchor less its floor. The floor's own spread is added to its standard error."""
        floor = self.at(tensor)
        error = float(np.hypot(anchor.std_error, self.spread * floor))
        return replace(anchor, effect=anchor.effect - floor, std_error=error) if floor else anchor


def harmless_types(tensors: Mapping[str, Tensor], types: Mapping[str, str]) -> dict[str, str]:
    """Tensor → a type that keeps its values to a hundredth of its step: two small tensors in each of some blocks, the first and the last
    among them. ``types``: the source's. Empty where no block of it is quantized."""
    blocks: dict[int, list[Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        if tensor.block is not None and TYPES[types[name]].quantized:
            blocks[tensor.block].append(tensor)
    order = sorted(blocks)
    chosen = {order[round(i)] for i in np.linspace(0, len(order) - 1, BLOCKS)} if order else set()
    small = [t for b in sorted(chosen) for t in sorted(blocks[b], key=lambda t: (t.n_elements, t.name))[:TENSORS]]
    return {t.name: "F16" if types[t.name] == "Q8_0" else "Q8_0" for t in small}


def fit_floor(effects: Mapping[str, float], tensors: Mapping[str, Tensor]) -> Floor:
    """The floor of the effects (tensor → nats a token) of harmless types: least squares, falling with the block."""
    from scipy.optimize import isotonic_regression

    by_block: dict[int, list[float]] = defaultdict(list)
    for name, effect in effects.items():
        by_block[tensors[name].block or 0].append(max(effect, 0.0))
    if not by_block:
        return Floor()
    blocks = tuple(sorted(by_block))
    counts = [len(by_block[b]) for b in blocks]
    values = isotonic_regression([float(np.mean(by_block[b])) for b in blocks], weights=counts, increasing=False).x
    off = [x / v - 1.0 for b, v in zip(blocks, values, strict=True) for x in by_block[b] if v > 0.0]
    spread = max(float(np.sqrt(np.mean(np.square(off)))) if off else 0.0, LEAST_SPREAD)
    return Floor(blocks, tuple(map(float, values)), spread)
