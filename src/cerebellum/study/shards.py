"""A part of the trials for each of several machines that don't know of each other.

Which trials are a part's depends on the list of trials and their content keys alone, so machines that run the same command need no
coordination. Trials that a run can't do without (base, source, reference) are everybody's: they are few, and by them two machines are
compared when their parts are merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cerebellum.errors import InputError

#: Parts that a job may be cut into.
MOST_PARTS = 100_000


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``number`` (1 … ``of``) of ``of`` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """``2/5``. Raises `InputError`."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        number, of = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= of <= MOST_PARTS:
            raise InputError(
                f"{text!r} (--shard) is no part of a whole: write 2/5 for the second of five parts, at most {MOST_PARTS:,} of them"
            )
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, n_chunks: Mapping[str, int]) -> frozenset[str]:
        """Which of the trials are this part's; ``n_chunks``: content key of a trial → how many chunks it is wanted on.

        Trials are put in the order of their chunks and keys and dealt out one by one: of trials with equally many chunks each part gets
        equally many, or one more.
        """
        order = sorted(n_chunks, key=lambda key: (-n_chunks[key], key))
        return frozenset(order[self.number - 1 :: self.of])


class PartDone(Exception):
    """A part of the trials is measured, and others are lacking, which are other parts': work that needs all of them ends here.

    ``n_trials`` of this part, on ``n_cells`` chunks together, of which ``n_new`` were measured now; ``n_lacking`` are other parts'.
    ``n_failed`` of its trials can't be measured.
    """

    def __init__(self, what: str, n_trials: int, n_cells: int, n_new: int, n_lacking: int, n_failed: int) -> None:
        super().__init__(f"{what}: a part of the trials is measured")
        self.what, self.n_trials, self.n_cells = what, n_trials, n_cells
        self.n_new, self.n_lacking, self.n_failed = n_new, n_lacking, n_failed
