"""Which types are measured, and which decisions are open: on a table whose slopes are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cerebellum.allocation.anchors import doubts, first_anchors, open_tensors, second_anchors
from cerebellum.allocation.damage import Anchor, DamageModel, Slope, fit
from cerebellum.allocation.solver import price, solve
from cerebellum.allocation.table import Table, table_of
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import TYPES
from cerebellum.testing import write_fake_model

KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    base = read_model(write_fake_model(tmp_path / "model.gguf"))
    tensors = quantizable_tensors(base)
    errors = {t.name: {k: t.n_elements * 4.0 ** -TYPES[k].bits_per_weight for k in KINDS} for t in tensors}
    for own in errors.values():
        own["F16"] = 0.0
    return table_of(base, {t.name: KINDS for t in tensors}, errors, {t.name: 1.0 for t in tensors})


def bytes_at(table: Table, kind: str) -> int:
    return sum(table.n_bytes(name, kind) for name in table.names)


def model_of(table: Table, width: float = 1.0, seed: int = 1) -> DamageModel:
    """Slopes that are known to within a factor ``width`` either way."""
    values = np.random.default_rng(seed).lognormal(sigma=1.5, size=len(table.names))
    slopes = {n: Slope(v, v / width, v * width, 1.0, 1) for n, v in zip(table.names, map(float, values), strict=True)}
    return DamageModel(slopes, 0.1, {})


def test_a_tensor_has_one_anchor_near_the_average_bits_and_never_where_effects_drown(table: Table) -> None:
    for kind, expected in (("Q2_K", "Q2_K"), ("Q3_K", "Q3_K"), ("Q6_K", "Q3_K")):
        assert set(first_anchors(table, bytes_at(table, kind)).items()) == {(n, expected) for n in table.names}


def test_the_type_that_a_quantized_source_has_is_no_anchor(table: Table) -> None:
    name, other = table.names[:2]
    types = {**table.types, name: ("Q4_K",), other: ("Q3_K", "Q4_K")}
    errors = {**table.errors, name: {"Q4_K": 0.0, "F16": 0.0}, other: {"Q4_K": 0.0, "Q3_K": 1.0, "F16": 0.0}}
    found = first_anchors(table_of(table.base, types, errors, table.power), bytes_at(table, "Q4_K"))
    assert name not in found and found[other] == "Q3_K"


def test_slopes_that_are_known_leave_no_decision_open(table: Table) -> None:
    budget = bytes_at(table, "Q3_K")
    assert max(doubts(table, model_of(table), budget).values()) == pytest.approx(0.0, abs=1e-12)
    assert open_tensors(table, model_of(table), budget) == []


def test_the_tensor_whose_slope_is_unknown_is_open_and_the_others_are_not(table: Table) -> None:
    budget, known = bytes_at(table, "Q3_K"), model_of(table)
    unsure = table.names[5]
    slope = known.slopes[unsure]
    wide = Slope(slope.mean, slope.mean / 30, slope.mean * 30, 1.0, 1)
    model = DamageModel({**known.slopes, unsure: wide}, 0.1, {})
    assert open_tensors(table, model, budget) == [unsure]
    assert open_tensors(table, model_of(table, 30.0), budget)[0] in table.names


def test_second_anchors_are_the_types_that_the_most_damaging_would_get(table: Table) -> None:
    budget, model = bytes_at(table, "Q3_K"), model_of(table)
    first = first_anchors(table, budget)
    chosen = solve(table.offers(model.damage), budget).types
    found = second_anchors(table, model, budget, first)
    assert 0 < len(found) <= len(first) / 8
    assert all(kind == chosen[name] != first[name] for name, kind in found.items())


def test_the_price_of_a_byte_falls_with_the_budget_and_ends_at_zero(table: Table) -> None:
    offers = table.offers(model_of(table).damage)
    prices = [price(offers, bytes_at(table, kind)) for kind in KINDS]
    assert prices == sorted(prices, reverse=True) and prices[0] > 0.0 and prices[-1] == 0.0


def test_one_anchor_a_tensor_keeps_the_usual_misfit_and_its_slopes(table: Table) -> None:
    truth, rng = model_of(table), np.random.default_rng(5)
    anchors = []
    for name in table.names:
        effect = truth.damage(name, table.errors[name]["Q3_K"])
        noisy = effect * (1.0 + 0.2 * float(rng.standard_normal()))
        anchors.append(Anchor(name, "Q3_K", table.errors[name]["Q3_K"], noisy, 0.2 * effect))
    model = fit(table.roles, anchors)
    assert model.misfit == 0.15
    ratios = [model.slopes[n].mean / truth.slopes[n].mean for n in table.names]
    assert np.exp(np.mean(np.abs(np.log(ratios)))) < 1.3
