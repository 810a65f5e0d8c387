"""2,000 hostile inputs, the same each time; `python -m tests.fuzz` takes others, as many as one likes."""

from __future__ import annotations

import pytest

from tests import fuzz

CASES = 2000


@pytest.mark.parametrize(("name", "n_cases"), list(fuzz.shares(CASES)))
def test_hostile_inputs_end_in_one_clear_error(name: str, n_cases: int) -> None:
    taken, _ = fuzz.run(name, n_cases, seed=26)
    assert 0 < taken < n_cases, "the inputs are all good, or none is"


def test_the_cases_are_as_many_as_they_say() -> None:
    assert sum(n for _, n in fuzz.shares(CASES)) == CASES
