"""Two files tensor by tensor: how many bytes differ, and how much that changes the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cerebellum.gguf.model_file import WeightSource, open_weights

#: Rows that are dequantized at a time.
_ROWS = 256


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """``n_differing`` of ``n_bytes`` differ; ``change``: root mean square of the weights' change as a share of the weights' own, infinite
    where names, shapes or types don't agree or a weight is not finite."""

    tensor: str
    n_differing: int
    n_bytes: int
    change: float


def tensor_differences(ours: Path, theirs: Path) -> Iterator[TensorDifference]:
    """The tensors whose stored bytes aren't the same in both files, in the order of the first; then those that only the second has."""
    first, second = open_weights(ours), open_weights(theirs)
    others = {t.name: t for t in second.model.tensors}
    for tensor in first.model.tensors:
        other = others.pop(tensor.name, None)
        if other != tensor:
            yield TensorDifference(tensor.name, tensor.n_bytes, tensor.n_bytes, float("inf"))
        elif difference := _difference(first, second, tensor.name):
            yield difference
    for name, other in others.items():
        yield TensorDifference(name, other.n_bytes, other.n_bytes, float("inf"))


def _difference(first: WeightSource, second: WeightSource, name: str) -> TensorDifference | None:
    ours, theirs = first.raw(name), second.raw(name)
    kind, differing, moved, power = first.tensor(name).type, 0, 0.0, 0.0
    for start in range(0, len(ours), _ROWS):
        a, b = ours[start : start + _ROWS], theirs[start : start + _ROWS]
        n = int(np.count_nonzero(a != b))
        differing += n
        if n:
            w, v = _weights(a, kind), _weights(b, kind)
            moved += float(np.square(w - v).sum())
            power += float(np.square(v).sum())
    if not differing:
        return None
    share = (moved / power) ** 0.5 if power > 0.0 and np.isfinite(moved + power) else float("inf")
    return TensorDifference(name, differing, ours.size, share)


def _weights(data: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.float64]:
    """The stored rows as numbers."""
    import gguf

    with np.errstate(all="ignore"):
        weights = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    return np.asarray(weights, dtype=np.float64)
