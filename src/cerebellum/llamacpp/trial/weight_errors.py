"""What storing a tensor in another type does to its weights: quantized by ggml, turned back into floats, compared. No forward pass.

The error is the importance-weighted squared error that llama.cpp's own quantizers minimize: sum of importance · (stored - source)², the
importance of a column being the importance matrix's value, 1 where there is none. A sample of rows stands for a large tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cerebellum.domain import Tensor
from cerebellum.errors import EngineError
from cerebellum.gguf import model_file
from cerebellum.gguf.types import quant_type
from cerebellum.llamacpp.protocol import WeightErrors
from cerebellum.llamacpp.trial.quantizer import Bytes, Floats, imatrix_rows, quantize_rows, to_floats
from cerebellum.parallel import Threads

#: Fewest rows sampled of each expert (or of a plain matrix), where it has so many.
LEAST_ROWS = 32


def weight_errors(
    path: Path,
    imatrix: Path | None,
    wanted: Sequence[tuple[str, Sequence[str]]],
    sampled: int,
    n_threads: int,
    judge: Path | None = None,
) -> Iterator[WeightErrors]:
    """The errors of each (tensor, types) of the GGUF at ``path``, one tensor at a time.

    ``sampled``: about how many weights of a tensor are looked at. ``judge``: the importance matrix that weighs the errors; None: the one
    that quantizes. Raises a `CerebellumError`.
    """
    weights = model_file.open_weights(path)
    entries = model_file.load_imatrix(imatrix).entries if imatrix else {}
    judging = entries if judge is None else model_file.load_imatrix(judge).entries
    threads = Threads.of(n_threads)
    try:
        for name, types in wanted:
            tensor = weights.tensor(name)
            importance = imatrix_rows(tensor, entries.get(name))
            weights_of = imatrix_rows(tensor, judging.get(name))
            yield _errors(tensor, weights.raw(name), types, importance, weights_of, sampled, threads)
    finally:
        threads.close()


def _errors(
    tensor: Tensor,
    raw: Bytes,
    types: Sequence[str],
    importance: Floats | None,
    judging: Floats | None,
    sampled: int,
    threads: Threads,
) -> WeightErrors:
    sample, rows = sample_rows(tensor, raw, sampled)
    share = len(raw) / max(len(rows), 1)
    source = to_floats(quant_type(tensor.type), rows, tensor.row_length)
    column = column_importance(sample, judging)
    errors, cannot = {}, []
    for kind in types:
        try:
            stored = quantize_rows(sample, rows, kind, importance, threads)
        except EngineError:  # a value too large for the type's scales
            cannot.append(kind)
            continue
        again = to_floats(quant_type(kind), stored, tensor.row_length)
        error = share * weighted_squares(again - source, column)
        if math.isfinite(error):
            errors[kind] = error
        else:
            cannot.append(kind)
    return WeightErrors(tensor.name, errors, share * weighted_squares(source, column), tuple(cannot))


def sample_rows(tensor: Tensor, raw: Bytes, sampled: int) -> tuple[Tensor, Bytes]:
    """Equally spaced rows of every expert, about ``sampled`` weights in all, as a smaller tensor with its bytes."""
    experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
    per_expert = len(raw) // experts
    n_rows = min(per_expert, max(LEAST_ROWS, sampled // (tensor.row_length * experts)))
    places = (np.arange(n_rows) * per_expert + per_expert // 2) // max(n_rows, 1)
    every = (np.arange(experts)[:, None] * per_expert + places[None, :]).reshape(-1)
    shape = (tensor.row_length, n_rows, experts) if experts > 1 else (tensor.row_length, n_rows)
    return Tensor(tensor.name, shape, tensor.type), np.ascontiguousarray(raw[every])


def column_importance(sample: Tensor, importance: Floats | None) -> npt.NDArray[np.float64] | None:
    """Importance of each weight of the sampled rows, [rows, row length] or broadcast to it; None: all alike."""
    if importance is None:
        return None
    return np.repeat(importance.astype(np.float64), sample.shape[1], axis=0)


def weighted_squares(values: Floats, importance: npt.NDArray[np.float64] | None) -> float:
    """Sum of importance · value²."""
    squares = values.astype(np.float64) ** 2
    return float(squares.sum() if importance is None else (squares * importance).sum())
