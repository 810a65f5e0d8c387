"""Adding up squares, compiled: the loop of an importance matrix."""

from __future__ import annotations

from typing import Any

from cerebellum.scoring.loops.compiled import compiled


@compiled("void(Array(float32, 1, 'C', readonly=True), int64[::1], int64[::1], int64, float32[::1])")
def add_squares(data: Any, rows: Any, sums: Any, n: int, out: Any) -> None:
    """Add the squares of ``n`` values from ``data[rows[i]]`` on to ``out[sums[i]]`` and those after it, for each i in turn.

    Each square and each sum is rounded to float32, as llama-imatrix's are.
    """
    for i in range(len(rows)):
        row, first = rows[i], sums[i]
        for j in range(n):
            x = data[row + j]
            out[first + j] += x * x
