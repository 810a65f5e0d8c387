"""What a base is made of beside its file type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cerebellum.domain import Model, Tensor, TensorType, tensor_types_of
from cerebellum.gguf.overrides import Overrides, overrides_for


@dataclass(frozen=True, slots=True)
class MixOptions:
    """``exclude``: patterns, as in an override file, of tensors that stay as the source has them. ``overrides``: a file of lines for the
    base. ``pure``: every tensor at the file type's own type, no mix."""

    exclude: tuple[str, ...] = ()
    overrides: Path | None = None
    pure: bool = False

    @property
    def shapes_base(self) -> bool:
        """Whether the base is another file than the file type alone makes."""
        return bool(self.exclude or self.overrides or self.pure)


@dataclass(frozen=True, slots=True)
class Mix:
    """Override lines, first match first, and the tensors that stay as they are with the reason; ``cannot``: what was found impossible."""

    lines: Overrides = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    cannot: Mapping[TensorType, str] = field(default_factory=dict)

    def leaving_out(self, tensor: Tensor, kind: str, why: str, source: Model) -> Mix:
        """The same, but ``tensor`` stays as ``source`` has it."""
        keep = overrides_for(tensor_types_of({tensor.name: tensor.type}), source)
        cannot = {**self.cannot, TensorType(tensor.name, kind): why}
        return Mix((*keep, *self.lines), {**self.left_out, tensor.name: why}, cannot)
