"""Tensors that get one type together: by the solver, through a whole allocation, and told where they can't."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from cerebellum import api
from cerebellum.allocation.exchanges import MeasuredStep, Step, exchanges
from cerebellum.allocation.groups import with_groups
from cerebellum.allocation.recipes import shuffles
from cerebellum.allocation.solver import Offer, solve
from cerebellum.allocation.table import Table
from cerebellum.errors import InputError, TensorChoiceError
from cerebellum.gguf.model_file import read_model
from tests.allocation import small


def types_by_block(types: dict[str, str]) -> dict[int, set[str]]:
    """Block → the types of its ffn_up and ffn_down."""
    return {b: {types[f"blk.{b}.{role}.weight"] for role in ("ffn_up", "ffn_down")} for b in (0, 1)}


def stored(path: Path) -> dict[str, str]:
    return {t.name: t.type for t in read_model(path).tensors}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    path = small.write_model(tmp_path_factory.mktemp("model"))
    return small.allocate(path).table


@pytest.mark.parametrize("seed", range(8))
def test_the_best_choice_with_one_type_a_group_is_what_trying_all_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = ("a", "b", "c")
    offers = {
        f"t{i}": tuple(Offer(k, 32 * int(rng.integers(1, 50)), float(rng.random())) for k in kinds) for i in range(5)
    }
    offers["t1"] = offers["t1"][1:]  # it can't hold the first
    groups = (("t0", "t1"), ("t2", "t3", "t4"))
    choices = []
    for types in itertools.product(kinds, repeat=5):
        chosen = dict(zip(offers, types, strict=True))
        if types[0] != "a" and all(len({chosen[n] for n in group}) == 1 for group in groups):
            own = [next(o for o in offers[n] if o.type == k) for n, k in chosen.items()]
            choices.append((sum(o.n_bytes for o in own), math.fsum(o.cost for o in own)))
    budget = max(
        sorted(n for n, _ in choices)[len(choices) // 2], sum(min(o.n_bytes for o in own) for own in offers.values())
    )
    solution = solve(offers, budget, groups=groups)
    assert all(len({solution.types[n] for n in group}) == 1 for group in groups)
    assert solution.cost == pytest.approx(min(cost for n, cost in choices if n <= budget))


def test_the_written_file_has_one_type_a_group(tmp_path: Path) -> None:
    path = small.write_model(tmp_path)
    free = small.allocate(path, out=tmp_path / "free", refine=True)
    assert any(len(kinds) > 1 for kinds in types_by_block(stored(free.written.path)).values()), (
        "else this test shows nothing"
    )
    result = small.allocate(path, same_type="ffn_up+ffn_down", refine=True)
    assert all(len(kinds) == 1 for kinds in types_by_block(stored(result.written.path)).values())
    assert result.written.file_bytes <= result.limit
    planned = api.plan(tmp_path / "out" / "sensitivity.json", like="Q3_K_M", same_type="ffn_up+ffn_down")
    assert all(len(kinds) == 1 for kinds in types_by_block(dict(planned.types)).values())


def test_shuffled_controls_keep_groups_and_bytes(table: Table) -> None:
    grouped = with_groups(table, (("ffn_up", "ffn_down"),))
    assert [len(group) for group in grouped.groups] == [2, 2]
    types = dict.fromkeys(grouped.names, "Q4_K") | dict.fromkeys(grouped.groups[0], "Q2_K")
    drawn = shuffles(grouped, types, 4, 0)
    assert drawn and all(grouped.allows(one) and grouped.file_bytes(one) == grouped.file_bytes(types) for one in drawn)
    assert not grouped.allows(types | {grouped.groups[0][0]: "Q4_K"})


def test_a_type_that_one_tensor_of_a_group_lacks_is_none_of_the_group(table: Table) -> None:
    first = "blk.0.ffn_up.weight"
    lacking = dataclasses.replace(table, types={**table.types, first: ("Q4_K", "Q8_0")})
    grouped = with_groups(lacking, (("ffn_up", "ffn_down"),))
    assert grouped.types["blk.0.ffn_down.weight"] == ("Q4_K", "Q8_0")
    assert grouped.types["blk.1.ffn_down.weight"] == table.types["blk.1.ffn_down.weight"]
    left = grouped.without([(first, "Q4_K")])
    assert left.types[first] == left.types["blk.0.ffn_down.weight"] == ("Q8_0",)


def test_exchanges_move_a_group_together_or_not_at_all() -> None:
    now = dict.fromkeys("abc", "now")
    good = [MeasuredStep(Step(name, "down", -64, -1.0, -0.1, 0.1), -0.1, 0.0) for name in "abc"]
    assert exchanges(now, good, 1.0, 0.1, 0, (("a", "b"),))[-1].types == dict.fromkeys("abc", "down")
    lone = exchanges(now, [good[0], good[2]], 1.0, 0.1, 0, (("a", "b"),))
    assert lone[-1].types == {"a": "now", "b": "now", "c": "down"}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("ffn_up",), "two or more roles"),
        (("ffn_up", "ffn_gate"), "the roles that can change are attn_v, ffn_down, ffn_up"),
        (("ffn_up", "ffn_up"), "two or more roles"),
    ],
)
def test_roles_that_make_no_group_are_told(table: Table, roles: tuple[str, ...], message: str) -> None:
    with pytest.raises(TensorChoiceError, match=message):
        with_groups(table, (roles,))


def test_a_role_in_two_groups_and_a_group_without_a_type_are_told(table: Table) -> None:
    with pytest.raises(TensorChoiceError, match="twice"):
        with_groups(table, (("ffn_up", "ffn_down"), ("ffn_up", "attn_v")))
    apart = dataclasses.replace(
        table, types={**table.types, "blk.1.ffn_up.weight": ("Q4_K",), "blk.1.ffn_down.weight": ("Q5_K",)}
    )
    with pytest.raises(InputError, match=r"no allowed type .* blk.1.ffn_down.weight, blk.1.ffn_up.weight"):
        with_groups(apart, (("ffn_up", "ffn_down"),))
