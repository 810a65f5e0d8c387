"""The noise floor in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cerebellum.figures import significant
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results import Noise


def noise_line(noise: Noise) -> str:
    """The floor, what made it, and on how much text."""
    parts = []
    for change in noise.changes:
        figures = [f"reference {_tiny(change.reference)}"] if change.reference is not None else []
        figures += [f"base {_tiny(change.base)}"] if change.base is not None else []
        parts.append(f"{change.change}: {', '.join(figures)}")
    return (
        f"Noise floor {_tiny(noise.floor)} thousandths of a nat: what harmless changes do to mean KLD on {noise.n_chunks} chunks of the "
        f"search text ({'; '.join(parts)}). A smaller difference is none."
    )


def _tiny(x: float | None) -> str:
    return "?" if x is None else significant(x * MILLI, 2)
