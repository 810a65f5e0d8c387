"""The solver beside brute force, and what must hold of any solution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.allocation.solver import Constraint, Offer, Offers, frontier, solution_of, solve
from cerebellum.errors import InputError

offers_of_a_tensor = st.lists(
    st.tuples(st.integers(1, 400), st.floats(1e-6, 10.0)), min_size=1, max_size=4, unique_by=lambda pair: pair[0]
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, tuple[Offer, ...]], int]:
    own = draw(st.lists(offers_of_a_tensor, min_size=1, max_size=5))
    offers = {
        f"t{i}": tuple(Offer(f"q{j}", 32 * n, cost) for j, (n, cost) in enumerate(each)) for i, each in enumerate(own)
    }
    least, most = (sum(f(o.n_bytes for o in each) for each in offers.values()) for f in (min, max))
    return offers, draw(st.integers(least, most + 100))


def brute_force(offers: Offers, budget: int, constraints: tuple[Constraint, ...] = ()) -> float:
    """The least cost of all choices that fit, inf where none does."""
    best = math.inf
    names = list(offers)
    for chosen in itertools.product(*(offers[name] for name in names)):
        types = {name: offer.type for name, offer in zip(names, chosen, strict=True)}
        if sum(o.n_bytes for o in chosen) <= budget and all(c.holds(types) for c in constraints):
            best = min(best, math.fsum(o.cost for o in chosen))
    return best


@settings(max_examples=60, deadline=None)
@given(problems())
def test_it_is_as_good_as_brute_force_and_never_over_budget(problem: tuple[Offers, int]) -> None:
    offers, budget = problem
    found = solve(offers, budget)
    assert found.n_bytes <= budget
    assert found.cost == pytest.approx(brute_force(offers, budget), rel=1e-6, abs=1e-12)
    again = solution_of(offers, found.types)
    assert (again.n_bytes, again.cost) == (found.n_bytes, found.cost)


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 5000))
def test_a_larger_budget_never_predicts_worse(problem: tuple[Offers, int], more: int) -> None:
    offers, budget = problem
    assert solve(offers, budget + more).cost <= solve(offers, budget).cost * (1 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_offers_does_not_matter(problem: tuple[Offers, int], random: object) -> None:
    offers, budget = problem
    names = list(offers)
    random.shuffle(names)  # type: ignore[attr-defined]
    turned = {name: tuple(reversed(offers[name])) for name in names}
    assert solve(turned, budget) == solve(offers, budget)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_constraints_hold_and_cost_no_more_than_they_must(problem: tuple[Offers, int]) -> None:
    offers, budget = problem
    few = Constraint({(name, own[0].type): 1.0 for name, own in offers.items()}, high=1.0)
    want = brute_force(offers, budget, (few,))
    if math.isinf(want):
        with pytest.raises(InputError):
            solve(offers, budget, (few,))
    else:
        found = solve(offers, budget, (few,))
        assert few.holds(found.types) and found.cost == pytest.approx(want, rel=1e-6)


def test_fused_tensors_get_one_type() -> None:
    offers = {n: (Offer("Q2_K", 10, c), Offer("Q4_K", 20, 0.1)) for n, c in (("gate", 5.0), ("up", 1.0), ("down", 3.0))}
    assert solve(offers, 50).types == {"gate": "Q4_K", "up": "Q2_K", "down": "Q4_K"}
    assert solve(offers, 50, groups=(("gate", "up"),)).types == {"gate": "Q4_K", "up": "Q4_K", "down": "Q2_K"}


def test_a_budget_too_small_says_the_least() -> None:
    with pytest.raises(InputError, match="30"):
        solve({"a": (Offer("Q2_K", 10, 1.0),), "b": (Offer("Q2_K", 20, 1.0),)}, 29)


def test_a_real_sized_problem_is_exact_against_dynamic_programming() -> None:
    """200 tensors of 5 types: the knapsack by dynamic programming over every number of bytes is the oracle."""
    rng = np.random.default_rng(0)
    offers = {}
    for i in range(200):
        n = int(rng.integers(1, 9))
        costs = np.sort(rng.exponential(size=5) * rng.lognormal(sigma=2))[::-1]
        offers[f"t{i}"] = tuple(Offer(f"q{j}", 32 * n * (2 + j), float(costs[j])) for j in range(5))
    budget = sum(own[2].n_bytes for own in offers.values()) - 32 * 7
    table = np.zeros(budget // 32 + 1)
    for own in offers.values():
        new = np.full(len(table), np.inf)
        for offer in own:
            n = offer.n_bytes // 32
            new[n:] = np.minimum(new[n:], table[: len(table) - n] + offer.cost)
        table = new
    assert solve(offers, budget).cost == pytest.approx(table[-1], rel=1e-9)


def test_the_frontier_falls_and_each_of_its_points_is_the_best_of_its_size() -> None:
    rng = np.random.default_rng(1)
    offers = {
        f"t{i}": tuple(Offer(f"q{j}", 32 * (1 + j), float(4.0**-j * s)) for j in range(4))
        for i, s in enumerate(rng.lognormal(sigma=1.5, size=12))
    }
    points = list(frontier(offers))
    assert all(a.n_bytes < b.n_bytes and a.cost > b.cost for a, b in itertools.pairwise(points))
    for point in points[::5]:
        assert point.cost == pytest.approx(solve(offers, point.n_bytes).cost, rel=1e-9)
