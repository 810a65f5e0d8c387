"""Plans: every trial known beforehand, what is stored and not what was asked for, nothing measured twice or for nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cerebellum.allocation.plan import blanket_trial, plan_sweep, random_trials, select_tensors
from cerebellum.domain import Model, Tensor, TrialKind, role_of, tensor_types_of
from cerebellum.errors import TensorChoiceError, TypeChoiceError

ROLES = ("attn_q", "ffn_gate", "ffn_down")


def model(n_blocks: int = 6, width: int = 256, narrow: int = 172) -> Model:
    """``ffn_down`` has rows that no K-quant fits."""
    tensors = [Tensor("token_embd.weight", (width, 64), "F16"), Tensor("output.weight", (width, 64), "F16")]
    for block in range(n_blocks):
        tensors.append(Tensor(f"blk.{block}.attn_norm.weight", (width,), "F32"))
        tensors += [Tensor(f"blk.{block}.{r}.weight", (narrow if r == "ffn_down" else width, 64), "F16") for r in ROLES]
    return Model(Path("model.gguf"), "llama", "", n_blocks, "F16", 512, tuple(tensors), 0)


MODEL = model()
BASE = {t.name: "Q3_K" if t.row_length == 256 and len(t.shape) > 1 else t.type for t in MODEL.tensors}


def test_each_tensor_alone_at_each_type() -> None:
    """Roles × blocks × types, each one swap, each with a label of its own."""
    plan = plan_sweep(MODEL, BASE, ["ffn_gate", "attn_q"], ["q2_k", "Q8_0", "Q2_K"], [1, 4])
    expected = {f"blk.{b}.{r}.weight={k}" for b in (1, 4) for r in ("ffn_gate", "attn_q") for k in ("Q2_K", "Q8_0")}
    assert {t.label for t in plan.trials} == expected and len(plan.trials) == 8
    assert all(
        t.kind is TrialKind.SINGLE and t.label == f"{t.tensor_types[0].tensor}={t.tensor_types[0].type}"
        for t in plan.trials
    )
    assert plan.skipped == () and plan.notes == ()


def test_the_order_is_for_replay() -> None:
    """Output first, then blocks from the last to the first, all of one block together, embeddings last."""
    places = [p.swap.tensor for p in plan_sweep(MODEL, BASE, ["all"], ["Q2_K"]).planned]
    blocks = [int(name.split(".")[1]) for name in places[1:-1]]
    assert places[0] == "output.weight" and places[-1] == "token_embd.weight" and blocks == sorted(blocks, reverse=True)


def test_what_is_really_stored_is_planned() -> None:
    """A row that can't hold the type falls back: the swap says what is stored, ``asked`` what was asked, a note how many."""
    plan = plan_sweep(MODEL, BASE | {"blk.0.ffn_down.weight": "Q8_0"}, ["ffn_down", "ffn_gate"], ["Q2_K"], [0])
    assert {(p.swap.tensor, p.swap.type, *p.asked) for p in plan.planned} == {
        ("blk.0.ffn_gate.weight", "Q2_K", "Q2_K"),
        ("blk.0.ffn_down.weight", "F16", "Q2_K"),
    }
    assert plan.notes == ("1 of 2 tensors can't hold Q2_K in their rows and are stored as F16",)


def test_nothing_is_measured_for_nothing() -> None:
    """The base's own type, a tensor nothing reads, two types that fall back to one: skipped, each with its reason."""
    small = model(narrow=160)
    base = {**BASE, "blk.3.ffn_gate.weight": "Q2_K"}
    plan = plan_sweep(
        small, base, ["ffn_gate", "ffn_down"], ["Q2_K", "Q3_K"], [2, 3], unused=frozenset({"blk.2.ffn_gate.weight"})
    )
    reasons = {(s.tensor, s.type): s.reason for s in plan.skipped}
    assert reasons.pop(("blk.3.ffn_gate.weight", "Q2_K")) == "is Q2_K in the base already"
    assert "never read" in reasons.pop(("blk.2.ffn_gate.weight", "Q2_K"))
    assert "never read" in reasons.pop(("blk.2.ffn_gate.weight", "Q3_K"))
    assert {r.split(",")[0] for r in reasons.values()} == {"falls back to Q4_0"} and len(reasons) == 2
    assert len(plan.planned) == 2 * 4 - 5


@pytest.mark.parametrize(
    ("roles", "types", "blocks", "error", "message"),
    [
        (
            ["ffn_gat"],
            ["Q2_K"],
            None,
            TensorChoiceError,
            r"doesn't have \(did you mean ffn_gate\?\); the roles are attn_q \(6\), ffn_down \(6\)",
        ),
        (["attn_norm"], ["Q2_K"], None, TensorChoiceError, "which llama.cpp never quantizes"),
        (["ffn_gate"], ["Q2_K"], [6], TensorChoiceError, "blocks 0 to 5, no block 6"),
        (["ffn_gate"], ["Q2_K"], [], TensorChoiceError, "no tensor was chosen"),
        (["ffn_gate"], ["Q3_K"], None, TensorChoiceError, "is Q3_K in the base already"),
        (["ffn_gate"], ["Q9_K"], None, TypeChoiceError, "unknown type 'Q9_K'"),
        (["ffn_gate"], [], None, TypeChoiceError, "no type to sweep"),
        (["ffn_down"], ["Q2_K"], None, TypeChoiceError, "multiple of 256 weights, the chosen tensors have 172.*F16"),
        (["ffn_gate"], ["IQ2_XXS"], None, TypeChoiceError, "IQ2_XXS needs an importance matrix for blk.0.ffn_gate"),
    ],
)
def test_what_can_not_be_planned_is_refused(
    roles: list[str], types: list[str], blocks: list[int] | None, error: type[Exception], message: str
) -> None:
    """Before anything runs, with what could be asked for instead."""
    with pytest.raises(error, match=message):
        plan_sweep(MODEL, BASE, roles, types, blocks)


def test_an_importance_matrix_opens_the_small_types() -> None:
    """And embeddings can do without one for some of them."""
    assert plan_sweep(MODEL, BASE, ["ffn_gate"], ["IQ2_XXS"], has_imatrix=True).planned
    assert plan_sweep(MODEL, BASE, ["token_embd"], ["IQ3_XXS"]).planned
    with pytest.raises(TypeChoiceError):
        plan_sweep(MODEL, BASE, ["token_embd"], ["IQ1_S"])


def test_tensors_are_selected_in_the_order_of_the_file() -> None:
    """Whatever the order of the roles."""
    assert select_tensors(MODEL, ["ffn_down", "attn_q"]) == tuple(
        t for t in MODEL.tensors if t.role in ("ffn_down", "attn_q")
    )


def test_a_blanket_is_every_tensor_of_the_plan() -> None:
    """At one type, fallbacks included; a type that isn't in the plan has none."""
    plan = plan_sweep(MODEL, BASE, ["ffn_gate", "attn_q"], ["Q2_K", "Q8_0"])
    trial = blanket_trial(plan, "q2_k")
    assert (
        trial.kind is TrialKind.BLANKET
        and len(trial.tensor_types) == 12
        and {s.type for s in trial.tensor_types} == {"Q2_K"}
    )
    with pytest.raises(TypeChoiceError, match="Q4_0 is not in the sweep"):
        blanket_trial(plan, "Q4_0")


# -- random controls ---------------------------------------------------------------------------------------------------

PLAN = plan_sweep(MODEL, BASE, ["ffn_gate", "attn_q"], ["Q2_K"])
CHOSEN = tensor_types_of(
    {"blk.1.ffn_gate.weight": "Q2_K", "blk.3.ffn_gate.weight": "Q2_K", "blk.0.attn_q.weight": "Q2_K"}
)


def test_random_sets_are_like_the_choice() -> None:
    """As many of each role and type, so of the same bytes; all different, none the choice itself."""
    trials = random_trials(PLAN, CHOSEN, 20, seed=1)
    assert len(trials) == 20 and len({t.tensor_types for t in trials} | {CHOSEN}) == 21
    for trial in trials:
        assert sorted(role_of(s.tensor) for s in trial.tensor_types) == ["attn_q", "ffn_gate", "ffn_gate"]
        assert {s.type for s in trial.tensor_types} == {"Q2_K"} and trial.kind is TrialKind.RANDOM


def test_draws_depend_on_the_seed_alone() -> None:
    """More draws don't change the first ones, the plan's order doesn't matter, another seed does."""
    five, ten = random_trials(PLAN, CHOSEN, 5, seed=7), random_trials(PLAN, CHOSEN, 10, seed=7)
    backwards = type(PLAN)(PLAN.planned[::-1], (), ())
    assert ten[:5] == five == random_trials(backwards, CHOSEN, 5, seed=7) != random_trials(PLAN, CHOSEN, 5, seed=8)


def test_there_are_no_more_sets_than_there_are() -> None:
    """Every other pair of six, once; none for an empty choice."""
    pair = CHOSEN[1:]
    assert [role_of(s.tensor) for s in pair] == ["ffn_gate", "ffn_gate"]
    assert len(random_trials(PLAN, pair, 100, seed=0)) == math.comb(6, 2) - 1
    assert random_trials(PLAN, (), 5, seed=0) == ()


def test_every_set_is_as_likely() -> None:
    """First draws over many seeds hit every pair about equally: no pair under half or over double its share."""
    pair = CHOSEN[1:]
    hits: dict[object, int] = {}
    for seed in range(1400):
        (trial,) = random_trials(PLAN, pair, 1, seed)
        hits[trial.tensor_types] = hits.get(trial.tensor_types, 0) + 1
    assert len(hits) == 14 and min(hits.values()) > 50 and max(hits.values()) < 200


def test_a_choice_from_elsewhere_has_no_random_like() -> None:
    """A swap that was not swept is refused."""
    with pytest.raises(TensorChoiceError, match=r"blk\.1\.ffn_gate\.weight as Q4_0 is not in the sweep"):
        random_trials(PLAN, tensor_types_of({"blk.1.ffn_gate.weight": "Q4_0"}), 1, seed=0)
