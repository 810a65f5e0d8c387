"""The multiple-choice knapsack: one type for each tensor, at most so many bytes together, the least predicted damage.

Solved exactly by HiGHS (scipy.optimize.milp). Before it the Lagrangian relaxation gives a solution that is never far off, which also
stands where the time limit ends the search; costs and bytes are exact integers and floats of the chosen types, never the solver's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cerebellum.errors import InputError
from cerebellum.silence import silent_stdout

#: Up to so many cells (tensor and type) the solution is exact; with more it is within this share of the least damage. Proving the last
#: ten-thousandth takes minutes and is far under what damage is known to.
EXACT_CELLS, GAP = 200, 1e-4
#: Branches that HiGHS may look at for one size: a bound that no clock moves.
NODE_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Offer:
    """A type that a tensor may take: its bytes in the file and its predicted damage."""

    type: str
    n_bytes: int
    cost: float


Offers = Mapping[str, Sequence[Offer]]


@dataclass(frozen=True, slots=True)
class Constraint:
    """Sum of ``coefficients`` (by tensor and type) over the chosen types lies between ``low`` and ``high``."""

    coefficients: Mapping[tuple[str, str], float]
    low: float = -math.inf
    high: float = math.inf

    def holds(self, types: Mapping[str, str]) -> bool:
        total = sum(self.coefficients.get(chosen, 0.0) for chosen in types.items())
        return self.low - 1e-9 <= total <= self.high + 1e-9


@dataclass(frozen=True, slots=True)
class Solution:
    """A type for every tensor, their bytes together and their predicted damage."""

    types: Mapping[str, str]
    n_bytes: int
    cost: float


def solution_of(offers: Offers, types: Mapping[str, str]) -> Solution:
    """The bytes and the damage of chosen ``types``."""
    chosen = [next(o for o in offers[name] if o.type == types[name]) for name in sorted(offers)]
    return Solution(
        {name: types[name] for name in sorted(offers)},
        sum(o.n_bytes for o in chosen),
        math.fsum(o.cost for o in chosen),
    )


def solve(
    offers: Offers, budget: int, constraints: Sequence[Constraint] = (), groups: Sequence[Sequence[str]] = ()
) -> Solution:
    """The least damage within ``budget`` bytes, where the tensors of each of the ``groups`` get one type. Raises `InputError` where
    nothing fits.

    Deterministic, whatever the order of ``offers``.
    """
    offers = {name: tuple(sorted(offers[name], key=lambda o: (o.n_bytes, o.cost, o.type))) for name in sorted(offers)}
    least = sum(of_tensor[0].n_bytes for of_tensor in offers.values())
    if least > budget:
        raise InputError(f"the smallest types take {least:,} bytes together, more than the {budget:,} allowed")
    constraints = (*constraints, *(row for group in groups for row in one_type(offers, group)))
    start = None if constraints else _greedy(offers, budget)
    exact = _exact(offers, budget, constraints)
    solutions = [s for s in (start, exact) if s is not None]
    if not solutions:
        raise InputError(f"no choice of types within {budget:,} bytes satisfies the constraints")
    return min(solutions, key=lambda s: (s.cost, s.n_bytes))


def one_type(offers: Offers, group: Sequence[str]) -> Iterator[Constraint]:
    """For each type that is offered in a group: all of its tensors have it, or none. A tensor without offers has none."""
    offered = {name: {offer.type for offer in offers.get(name, ())} for name in group}
    common = set.intersection(*offered.values())
    for kind in sorted(set.union(*offered.values())):
        holders = [name for name in group if kind in offered[name]]
        if kind not in common:
            yield Constraint({(name, kind): 1.0 for name in holders}, high=0.0)
            continue
        for name in holders[1:]:
            yield Constraint({(holders[0], kind): 1.0, (name, kind): -1.0}, 0.0, 0.0)


def _exact(offers: Offers, budget: int, constraints: Sequence[Constraint]) -> Solution | None:
    """By HiGHS. It works within tolerances, so bytes are counted again; where they exceed the budget, it is asked for less."""
    limit = budget
    for _ in range(4):
        types = _milp(offers, limit, constraints)
        if types is None:
            return None
        solution = solution_of(offers, types)
        if solution.n_bytes <= budget and all(c.holds(types) for c in constraints):
            return solution
        limit -= max(solution.n_bytes - budget, 1)
    return None


def _milp(offers: Offers, budget: int, constraints: Sequence[Constraint]) -> dict[str, str] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    cells = [(name, offer) for name, of_tensor in offers.items() for offer in of_tensor]
    places = {(name, offer.type): i for i, (name, offer) in enumerate(cells)}
    rows = {name: i for i, name in enumerate(offers)}
    n = len(cells)
    one = csr_array((np.ones(n), ([rows[name] for name, _ in cells], np.arange(n))), shape=(len(offers), n))
    unit = math.gcd(*(offer.n_bytes for _, offer in cells)) or 1
    sizes = np.array([offer.n_bytes // unit for _, offer in cells], np.float64)
    least = min((o.cost for _, o in cells), default=0.0)
    costs = np.array([offer.cost - least for _, offer in cells])
    limits = [
        LinearConstraint(one, 1.0, 1.0),
        LinearConstraint(sizes[None, :], -np.inf, float(budget // unit)),
    ]
    for constraint in constraints:
        row = np.zeros(n)
        for cell, value in constraint.coefficients.items():
            if cell in places:
                row[places[cell]] = value
        limits.append(LinearConstraint(row[None, :], constraint.low, constraint.high))
    scale = float(costs.max()) or 1.0
    options = {"mip_rel_gap": 0.0 if n <= EXACT_CELLS else GAP, "node_limit": NODE_LIMIT}
    with silent_stdout():  # HiGHS prints a line of its own at times, whatever ``disp`` says
        done = milp(costs / scale, integrality=np.ones(n), bounds=Bounds(0, 1), constraints=limits, options=options)
    if done.x is None:
        return None
    chosen: dict[str, tuple[float, str]] = {}
    for (name, offer), value in zip(cells, done.x, strict=True):
        chosen[name] = max(chosen.get(name, (-1.0, "")), (float(value), offer.type), key=lambda pair: pair[0])
    return {name: kind for name, (_, kind) in chosen.items()}


# -- Lagrange ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """From one type of a tensor's convex hull to the next larger one."""

    gain: float
    tensor: str
    n_bytes: int
    number: int
    type: str


def _hull(offers: Sequence[Offer]) -> list[Offer]:
    """Offers on the lower convex hull of damage against bytes, smallest first."""
    hull: list[Offer] = []
    for offer in offers:
        if hull and offer.cost >= hull[-1].cost:
            continue
        while len(hull) > 1 and _rate(hull[-2], offer) >= _rate(hull[-2], hull[-1]):
            hull.pop()
        hull.append(offer)
    return hull


def _rate(a: Offer, b: Offer) -> float:
    """Damage that a byte takes away, from ``a`` to the larger ``b``."""
    return (a.cost - b.cost) / max(b.n_bytes - a.n_bytes, 1)


def _steps(offers: Offers) -> list[_Step]:
    """Steps of all hulls, the best gain for a byte first: prefixes of this list are the relaxation's whole frontier."""
    steps = []
    for name, of_tensor in offers.items():
        for number, (a, b) in enumerate(pairwise(_hull(of_tensor))):
            steps.append(_Step(_rate(a, b), name, b.n_bytes - a.n_bytes, number, b.type))
    return sorted(steps, key=lambda s: (-s.gain, s.tensor, s.number))


def _smallest(offers: Offers) -> dict[str, str]:
    return {name: of_tensor[0].type for name, of_tensor in offers.items()}


def frontier(offers: Offers) -> Iterable[Solution]:
    """Every solution of the Lagrangian relaxation, smallest first: each is the best of its own size."""
    offers = {name: tuple(sorted(offers[name], key=lambda o: (o.n_bytes, o.cost, o.type))) for name in sorted(offers)}
    types = _smallest(offers)
    yield solution_of(offers, types)
    for step in _steps(offers):
        types[step.tensor] = step.type
        yield solution_of(offers, types)


def price(offers: Offers, budget: int) -> float:
    """Damage that one more byte would take away at ``budget`` bytes: the gain of the relaxation's first step that doesn't fit; 0 where
    all do."""
    used = sum(min(o.n_bytes for o in of_tensor) for of_tensor in offers.values())
    ordered = {
        name: tuple(sorted(of_tensor, key=lambda o: (o.n_bytes, o.cost, o.type))) for name, of_tensor in offers.items()
    }
    for step in _steps(ordered):
        used += step.n_bytes
        if used > budget:
            return step.gain
    return 0.0


def _greedy(offers: Offers, budget: int) -> Solution:
    """Steps of the relaxation while they fit, then whatever single change still lowers the damage within the budget, best rate first."""
    types = _smallest(offers)
    used = sum(of_tensor[0].n_bytes for of_tensor in offers.values())
    blocked: set[str] = set()
    for step in _steps(offers):
        if step.tensor in blocked:
            continue
        if used + step.n_bytes > budget:
            blocked.add(step.tensor)
            continue
        types[step.tensor] = step.type
        used += step.n_bytes
    return _filled(offers, types, budget)


def _filled(offers: Offers, types: dict[str, str], budget: int) -> Solution:
    now = {name: next(o for o in of_tensor if o.type == types[name]) for name, of_tensor in offers.items()}
    used = sum(o.n_bytes for o in now.values())
    while True:
        moves = [
            ((offer.cost - now[name].cost) / max(offer.n_bytes - now[name].n_bytes, 1), name, offer)
            for name, of_tensor in offers.items()
            for offer in of_tensor
            if offer.cost < now[name].cost and used + offer.n_bytes - now[name].n_bytes <= budget
        ]
        if not moves:
            return solution_of(offers, {name: offer.type for name, offer in now.items()})
        _, name, offer = min(moves, key=lambda move: (move[0], move[1], move[2].type))
        used += offer.n_bytes - now[name].n_bytes
        now[name] = offer
