"""A recipe that was solved for from a sensitivity map, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cerebellum.allocation.sensitivity import Expected, SensitivityMap, corrected
from cerebellum.allocation.sizes import Target
from cerebellum.gguf.overrides import Overrides


@dataclass(frozen=True, slots=True)
class Planned:
    """``types``: of the tensors in the map's table; ``overrides`` name every tensor that llama.cpp quantizes, so that no mix decides one.
    ``predicted``: mean KL divergence from the source, damages added up. ``overrides_path`` None: not written."""

    sensitivity: SensitivityMap
    target: Target
    limit: int
    types: Mapping[str, str]
    file_bytes: int
    predicted: Expected
    overrides: Overrides
    overrides_path: Path | None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Measured over predicted KL divergence of the recipes that the allocation measured, smallest first."""
        return tuple(sorted(c.measured / c.predicted for c in self.sensitivity.checks if c.predicted > 0.0))

    @property
    def expected(self) -> Expected:
        """The prediction, corrected by what measured recipes turned out to be."""
        return corrected(self.predicted, self.ratios)

    @property
    def quantize(self) -> str:
        """The stock command that makes the file."""
        from cerebellum.quoting import shell_file

        facts = self.sensitivity.facts
        words = ["llama-quantize"]
        words += ["--imatrix", shell_file(str(facts["imatrix"]["file"]))] if facts.get("imatrix") else []
        words += [
            "--tensor-type-file",
            shell_file(self.overrides_path.name if self.overrides_path else "OVERRIDES.txt"),
        ]
        return " ".join([*words, shell_file(str(facts["model"]["file"])), "OUT.gguf", str(facts["base"]["ftype"])])
