"""Many trials, one sweep: control of the share of false discoveries.

Benjamini-Hochberg holds for independent and for positively dependent p-values (Benjamini & Yekutieli 2001, Ann.
Statist. 29, 1165-1188). Trials of a sweep are scored on the same chunks, so their errors lean the same way, which is
the positive case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def adjusted_p(p_values: Floats | Sequence[float]) -> Floats:
    """Adjusted p-values [m] in the order given: reject those at or under q, and the false discovery rate is at most q.

    Benjamini & Hochberg 1995, J. R. Statist. Soc. B 57, 289-300. Raises ValueError for a p-value outside 0 … 1.
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(np.asarray(p_values, dtype=np.float64)), dtype=np.float64)
