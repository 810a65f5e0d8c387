"""A recipe: a base mix and the type of every tensor that differs, with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cerebellum.domain import Model, block_of
from cerebellum.keys import content_key

#: The version that is written; a newer one is refused.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean KL divergence, nats a token, with its limits where they are known."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class ModelId:
    """The model that a recipe was made on. ``fingerprint``: hash of its tensors' names and shapes, the same for every quantization."""

    architecture: str = ""
    name: str = ""
    blocks: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """``types``: tensor → type. ``complete``: every tensor that llama.cpp would quantize is named, and the base decides nothing.

    ``made_with``: hashes and names (tool, build, source, text, imatrix …); ``verified``: how the figures were verified, in words.
    """

    base: str
    types: Mapping[str, str]
    complete: bool = False
    model: ModelId = field(default_factory=ModelId)
    objective: str = ""
    expected: Figure | None = None
    measured: Figure | None = None
    made_with: Mapping[str, str] = field(default_factory=dict)
    verified: str = ""

    @property
    def key(self) -> str:
        """Content key of what decides a file's types: the base and the named types."""
        return content_key("recipe", {"base": self.base, "types": dict(self.types)})

    def depth(self, tensor: str) -> float | None:
        """Relative depth of a tensor's block, 0 to 1; None outside the blocks or where the number of blocks isn't known."""
        block = block_of(tensor)
        if block is None or self.model.blocks < 2:
            return None
        return block / (self.model.blocks - 1)


def model_id(model: Model) -> ModelId:
    """Who a model is, whatever its types."""
    shapes = sorted((t.name, list(t.shape)) for t in model.tensors)
    return ModelId(model.architecture, model.name, model.n_blocks, content_key("shapes", [model.architecture, *shapes]))


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor that two recipes treat differently; None: the recipe leaves it to its base."""

    tensor: str
    ours: str | None
    theirs: str | None


def differences(ours: Recipe, theirs: Recipe) -> tuple[Difference, ...]:
    """Tensors that are not named alike, in the order of blocks."""
    names = {n for n in {*ours.types, *theirs.types} if ours.types.get(n) != theirs.types.get(n)}
    return tuple(Difference(n, ours.types.get(n), theirs.types.get(n)) for n in sorted(names, key=file_order))


def file_order(name: str) -> tuple[int, str]:
    """Sorts tensors by block, those outside the blocks first."""
    block = block_of(name)
    return (-1 if block is None else block, name)
