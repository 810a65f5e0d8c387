"""Many trials, one sweep: control of the share of false discoveries.

Benjamini-Hochberg holds for independent and for positively dependent p-values (Benjamini & Yekutieli 2001, Ann.
Statist. 29, 1165-1188). Trials of a sweep are scored on the same chunks, so their errors lean the same way, which is
the positive case; Benjamini-Yekutieli holds for any dependence and costs a factor of about ln(m) + 0.58.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def adjusted_p(p_values: Floats | Sequence[float], method: Literal["bh", "by"] = "bh") -> Floats:
    """Adjusted p-values [m] in the order given: reject those at or under q, and the false discovery rate is at most q.

    "bh": Benjamini & Hochberg 1995, J. R. Statist. Soc. B 57, 289-300. "by": Benjamini & Yekutieli 2001, theorem 1.3.
    Raises ValueError for a p-value outside 0 … 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError("p-values must be a list of numbers between 0 and 1")
    m = len(p)
    order = np.argsort(p, kind="stable")
    factor = float(np.sum(1.0 / np.arange(1, m + 1))) if method == "by" else 1.0
    scaled = p[order] * m * factor / np.arange(1, m + 1)
    adjusted = np.empty(m, dtype=np.float64)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
