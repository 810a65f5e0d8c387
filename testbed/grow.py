"""A sibling of another depth begins with its elder's blocks: which block begins as which, and the weights put there.

A block keeps its kind (sliding or full attention) and its side of the shared keys and values. Within such a group the first begins as the
first and the last as the last, because the last block that owns keys and values is the one that later blocks read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from testbed.model import SHAPES, Shape, new_model
from testbed.reference import load_into

LAYER = re.compile(r"\.layers\.(\d+)\.")
BY_BLOCK = ("embed_tokens_per_layer.weight", "per_layer_model_projection.weight")  # one axis is blocks × per_layer


def _groups(shape: Shape) -> dict[tuple[str, bool], list[int]]:
    """The blocks of each kind and side, in order."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for block, kind in enumerate(shape.kinds):
        groups.setdefault((kind, block >= shape.blocks - shape.shared), []).append(block)
    return groups


def origins(shape: Shape, elder: Shape) -> list[int]:
    """[blocks]: the elder's block that each block of ``shape`` begins as. Raises `ValueError` if the elder lacks such a kind."""
    olds, chosen = _groups(elder), [0] * shape.blocks
    for group, blocks in _groups(shape).items():
        if group not in olds:
            raise ValueError(f"the elder has no block of kind {group}")
        old = olds[group]
        for i, block in enumerate(blocks):
            share = i / (len(blocks) - 1) if len(blocks) > 1 else 1.0
            chosen[block] = old[int(share * (len(old) - 1) + 0.5)]
    return chosen


def elder_of(path: Path) -> Shape:
    """The shape of the GGUF at ``path``, by its number of blocks. Raises `ValueError` if no shape has that many."""
    import gguf

    field = gguf.GGUFReader(str(path)).fields["gemma4.block_count"]
    blocks = int(field.parts[-1][0])
    for shape in SHAPES.values():
        if shape.blocks == blocks:
            return shape
    raise ValueError(f"{path} has {blocks} blocks; the shapes have {sorted(s.blocks for s in SHAPES.values())}")


def grow(model: Any, shape: Shape, path: Path) -> None:
    """Fill a fresh model of ``shape`` with the weights of the GGUF at ``path``, block by block."""
    import torch

    elder = elder_of(path)
    old = new_model(elder)
    load_into(old, elder, path)
    source, blocks = old.state_dict(), origins(shape, elder)
    with torch.no_grad():
        for key, target in model.state_dict().items():
            if key.endswith(BY_BLOCK):
                target.copy_(_chosen(source[key], blocks, shape.per_layer, axis=int("embed" in key)))
            else:
                target.copy_(source[LAYER.sub(lambda match: f".layers.{blocks[int(match[1])]}.", key)])


def _chosen(value: Any, blocks: list[int], width: int, axis: int) -> Any:
    """The slices of ``width`` of the chosen blocks, side by side along ``axis``."""
    import torch

    return torch.cat([value.narrow(axis, block * width, width) for block in blocks], dim=axis)
