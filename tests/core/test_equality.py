"""Nouns that hold arrays can be compared: by value, never with an error."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from cerebellum.domain import Chunk, Turns
from cerebellum.llamacpp.generate.protocol import Continuation, Prompt
from cerebellum.scoring.metrics import ReferenceRows

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "cerebellum"
#: How the package writes "an array" in an annotation.
ARRAYS = ("npt.NDArray", "Tokens", "Mask", "Floats", "Doubles", "Ids", "Bytes")


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def rows(*values: float) -> ReferenceRows:
    x = np.array(values)
    return ReferenceRows(x.astype(np.float32)[None], x, x, ints(1).astype(np.int64))


@pytest.mark.parametrize(
    ("one", "same", "others"),
    [
        (Chunk(0, ints(1, 2)), Chunk(0, ints(1, 2)),
         [Chunk(1, ints(1, 2)), Chunk(0, ints(1, 3)), Chunk(0, ints(1, 2), np.array([True, False])), Chunk(0, ints(1, 2, 3))]),
        (Turns(np.array([0, 2]), np.array([True, False]), 0, 1), Turns(np.array([0, 2]), np.array([True, False]), 0, 1),
         [Turns(np.array([0, 2]), np.array([True, True]), 0, 1)]),
        (Continuation(ints(1), ints(2)), Continuation(ints(1), ints(2)), [Continuation(ints(1, 2), ints(2))]),
        (Prompt(ints(1)), Prompt(ints(1)), [Prompt(ints(1), seed=1), Prompt(ints(2))]),
        (rows(1.0, 2.0), rows(1.0, 2.0), [rows(1.0, 2.5)]),
    ],
)  # fmt: skip
def test_equal_by_value(one: object, same: object, others: list[object]) -> None:
    """Equal, in a set once; another array, or none, is another thing; anything else is unequal."""
    assert one == same and len({one, same}) == 1
    for other in others:
        assert one != other
    assert one != "a chunk" and one is not None


def test_no_dataclass_compares_arrays_by_its_generated_eq() -> None:
    """Of the whole package: who holds an array says how it is compared."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            decorators = [ast.unparse(d) for d in node.decorator_list]
            generated = any(d.startswith("dataclass") and "eq=False" not in d for d in decorators)
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and "compare=False" not in ast.unparse(f)]
            arrays = [f for f in fields if ast.unparse(f.annotation).split(" | ")[0].startswith(ARRAYS)]
            wrong += [f"{path.name}: {node.name}" for _ in arrays[:1] if generated]
    assert wrong == []
