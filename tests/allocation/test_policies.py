"""Policies: the published figures give the published recipe, and the greedy one keeps its budgets."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerebellum.allocation.effects import SingleEffect
from cerebellum.allocation.policies import POLICIES, Rules, choose
from cerebellum.domain import Model, Tensor
from cerebellum.errors import InputError
from cerebellum.gguf.overrides import format_overrides, overrides_for
from cerebellum.stats.classes import EffectClass

SENSITIVITY = Path(__file__).resolve().parents[3] / "shared" / "data" / "sensitivity"


def effect(block: int, nll: float, role: str = "ffn_gate", **more: Any) -> SingleEffect:
    facts = {"from_type": "Q3_K", "to_type": "Q2_K", "delta_bytes": -1000, **more}
    return SingleEffect(f"blk.{block}.{role}.weight", block, role, estimate=nll, **facts)


# -- the published case ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    path = SENSITIVITY / "gemma-4-E2B-it.published.json"
    if not path.exists():
        pytest.skip("the published figures are not here")
    return dict(json.loads(path.read_text()))


def published_effects(facts: dict[str, Any]) -> list[SingleEffect]:
    """What was published of the sweep: five perplexities, and "200 or more" for the last blocks."""
    measured = {int(name.removeprefix("blk.")): ppl for name, ppl in facts["single"].items()}
    late = dict.fromkeys(range(30, facts["layers"]), 200.0)
    return [effect(block, math.log(ppl / facts["baseline_ppl"])) for block, ppl in (late | measured).items()]


def gemma(n_blocks: int) -> Model:
    roles = "attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down inp_gate proj".split()
    names = ["token_embd.weight", "per_layer_token_embd.weight", "output_norm.weight"]
    names += [f"blk.{block}.{role}.weight" for block in range(n_blocks) for role in roles]
    tensors = tuple(Tensor(name, (256, 256), "BF16") for name in names)
    return Model(Path("gemma-4-E2B-it.gguf"), "gemma4", "", n_blocks, "BF16", 4096, tensors, 0)


def test_the_published_figures_get_the_published_words(published: dict[str, Any]) -> None:
    """Regularization, mild benefit, damage: block by block as printed."""
    words = {e.block: e.classify().word for e in published_effects(published)}
    for name, word in published["effects"].items():
        if name == "blk.30+":
            assert {words[block] for block in range(30, 35)} == {EffectClass(word)}
        else:
            assert words[int(name.removeprefix("blk."))] is EffectClass(word)


def test_the_published_figures_give_the_published_recipe(published: dict[str, Any]) -> None:
    """Blocks 11, 13 and 14: 12 is passed over, 0 is alone; and the file is the published three lines, no more."""
    choice = choose("published", published_effects(published))
    assert list(choice.blocks) == published["selected"] == [11, 13, 14]
    text = format_overrides(overrides_for(choice.tensor_types, gemma(published["layers"])))
    assert text == "blk.11.ffn_gate.weight=Q2_K\nblk.13.ffn_gate.weight=Q2_K\nblk.14.ffn_gate.weight=Q2_K\n"
    assert text.splitlines() == published["overrides"]


def test_the_order_of_the_sweep_does_not_matter(published: dict[str, Any]) -> None:
    """Shuffled effects, the same choice in the same order."""
    effects = published_effects(published)
    expected = choose("published", effects)
    for seed in range(20):
        random.Random(seed).shuffle(effects)
        assert choose("published", effects) == expected


def test_the_siblings_ablation_holds_no_cluster() -> None:
    """On the 42-block sibling no single ffn_gate or ffn_up reaches -5 %: nothing is chosen, and the reason says so."""
    path = SENSITIVITY / "gemma-4-E4B-it.ablation.json"
    if not path.exists():
        pytest.skip("the published figures are not here")
    facts = json.loads(path.read_text())
    effects = [
        SingleEffect(t["gguf_tensor"], 0, "x", "Q3_K", "Q2_K", 0, math.log(t["ppl"] / facts["baseline_ppl"]))
        for t in facts["tests"].values()
    ]
    assert len(effects) == 26
    choice = choose("published", effects)
    assert choice.effects == () and choice.reason.startswith("no tensor regularizes")


# -- the published rule ------------------------------------------------------------------------------------------------


def low(*blocks: int, nll: float = -0.08, role: str = "ffn_gate") -> list[SingleEffect]:
    return [effect(block, nll, role) for block in blocks]


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        (low(0, 11, 13, 14), (11, 13, 14)),
        (low(1, 4, 7), (1,)),  # equals: the earlier
        (low(1, 2, nll=-0.07) + low(8, 9, nll=-0.09), (8, 9)),  # equals in size: the lower sum
        (low(1, 2, 3) + low(8, 9, nll=-0.5), (1, 2, 3)),  # size before depth
        (low(1, 3, 5, 7), (1, 3, 5, 7)),
        (low(1, 2, nll=-0.02), ()),  # mild isn't enough
    ],
)
def test_the_largest_cluster_wins(effects: list[SingleEffect], expected: tuple[int, ...]) -> None:
    """Neighbours are at most two apart; ties as the docstring says."""
    assert choose("published", effects).blocks == expected


def test_the_gap_is_an_option() -> None:
    """With a gap of one, 11 stands alone."""
    assert choose("published", low(0, 11, 13, 14), Rules(max_gap=1)).blocks == (13, 14)


def test_each_role_has_its_own_cluster_of_one_type() -> None:
    """Roles don't help each other, and a tensor is never chosen at two types."""
    effects = low(1, 2) + low(5, 6, role="ffn_up") + [effect(b, -0.09, to_type="Q4_0") for b in (1, 2, 3)]
    choice = choose("published", effects)
    assert {(e.role, e.to_type) for e in choice.effects} == {("ffn_gate", "Q4_0"), ("ffn_up", "Q2_K")}
    assert len({e.tensor for e in choice.effects}) == len(choice.effects) == 5


def test_an_undecided_effect_is_not_chosen() -> None:
    """However low: an interval that holds zero is no regularization."""
    sure, unsure = effect(1, -0.08, low=-0.1, high=-0.06), effect(2, -0.2, low=-0.5, high=0.1)
    assert choose("published", [sure, unsure]).blocks == (1,)


# -- greedy ------------------------------------------------------------------------------------------------------------

effects_lists = st.lists(
    st.builds(
        lambda block, role, kind, cost, size: effect(
            block, cost, role, to_type=kind, kld=cost, kld_high=cost + 0.01, delta_bytes=size
        ),
        st.integers(0, 6), st.sampled_from(["ffn_gate", "attn_q"]), st.sampled_from(["Q2_K", "Q8_0"]),
        st.floats(-0.1, 0.1), st.integers(-100, 100),
    ),
    max_size=14, unique_by=lambda e: (e.tensor, e.to_type),
)  # fmt: skip


@given(effects_lists, st.floats(0, 0.2), st.none() | st.integers(0, 100), st.booleans())
def test_greedy_keeps_its_budgets(
    effects: list[SingleEffect], damage: float, growth: int | None, cautious: bool
) -> None:
    """One type a tensor; damage and growth within what was allowed; what grows the file improves."""
    rules = Rules(cautious=cautious, allowed_damage=damage, max_growth_bytes=growth)
    choice = choose("greedy", effects, rules)
    costs = [e.cost("kld", cautious) for e in choice.effects]
    assert len({e.tensor for e in choice.effects}) == len(choice.effects)
    assert math.fsum(c for c in costs if c > 0) <= damage + 1e-12
    assert growth is None or choice.delta_bytes <= growth
    assert all(c < 0 for e, c in zip(choice.effects, costs, strict=True) if e.delta_bytes > 0)
    assert choose("greedy", effects[::-1], rules).effects == choice.effects


def test_greedy_spends_where_it_buys_most() -> None:
    """Damage goes to the demotion with the most bytes a nat; what it saved pays for the promotion that gains most."""
    cheap = effect(0, 0.0, kld=0.01, delta_bytes=-1000)
    dear = effect(1, 0.0, kld=0.02, delta_bytes=-1000)
    gain = effect(2, 0.0, kld=-0.05, delta_bytes=+900, to_type="Q8_0")
    less = effect(3, 0.0, kld=-0.04, delta_bytes=+900, to_type="Q8_0")
    choice = choose("greedy", [dear, less, gain, cheap], Rules(allowed_damage=0.015))
    assert choice.effects == (cheap, gain)
    everything = choose("greedy", [dear, less, gain, cheap], Rules(allowed_damage=0.5, max_growth_bytes=None))
    assert everything.effects == (cheap, dear, gain, less)


def test_caution_takes_the_upper_limit() -> None:
    """A gain that may be a loss isn't free to the cautious."""
    unsure = effect(0, 0.0, kld=-0.01, kld_high=0.02)
    assert choose("greedy", [unsure], Rules()).effects == ()
    assert choose("greedy", [unsure], Rules(cautious=False)).effects == (unsure,)


def test_the_objective_decides_and_must_be_measured() -> None:
    """Perplexity and KL divergence can disagree; choosing by what wasn't measured is refused."""
    drift = effect(0, -0.05, kld=0.03)
    assert choose("greedy", [drift], Rules(objective="nll")).effects == (drift,)
    assert choose("greedy", [drift], Rules(objective="kld")).effects == ()
    with pytest.raises(InputError, match=r"blk\.0\.ffn_gate\.weight as Q2_K has no KL divergence"):
        choose("greedy", [effect(0, -0.05)], Rules(objective="kld"))


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    """The one table of names."""
    with pytest.raises(InputError, match=r"unknown policy 'best'.*published.*greedy"):
        choose("best", [])
    assert all(choose(name, []).effects == () for name in POLICIES)


def test_a_tensor_that_was_given_a_type_goes_on_to_a_better_one() -> None:
    """Q4_K saves most per nat, and there is room for Q2_K, which saves three times as much."""
    fine = effect(0, 0.0, to_type="Q4_K", kld=0.001, delta_bytes=-10)
    coarse = effect(0, 0.0, to_type="Q2_K", kld=0.004, delta_bytes=-30)
    assert choose("greedy", [fine, coarse], Rules(allowed_damage=0.01)).effects == (coarse,)
    assert choose("greedy", [fine, coarse], Rules(allowed_damage=0.003)).effects == (fine,)
    other = effect(1, 0.0, kld=0.005, delta_bytes=-20)
    assert choose("greedy", [fine, coarse, other], Rules(allowed_damage=0.0065)).effects == (coarse,)
    assert choose("greedy", [fine, coarse, other], Rules(allowed_damage=0.0095)).effects == (coarse, other)


def test_a_promotion_goes_on_to_a_better_one_too() -> None:
    small = effect(0, 0.0, to_type="Q5_K", kld=-0.01, delta_bytes=10)
    large = effect(0, 0.0, to_type="Q8_0", kld=-0.02, delta_bytes=40)
    assert choose("greedy", [small, large], Rules(max_growth_bytes=100)).effects == (large,)
    assert choose("greedy", [small, large], Rules(max_growth_bytes=30)).effects == (small,)


def best_saving(effects: list[SingleEffect], allowed: float) -> int:
    """Every combination of at most one type a tensor: the most bytes within the allowed damage."""
    tensors = sorted({e.tensor for e in effects})
    options = [[None, *(e for e in effects if e.tensor == tensor)] for tensor in tensors]
    sets = ([e for e in chosen if e] for chosen in itertools.product(*options))
    return max(-sum(e.delta_bytes for e in s) for s in sets if math.fsum(e.kld or 0.0 for e in s) <= allowed)


def test_greedy_is_near_the_best_of_all_combinations() -> None:
    """Three hundred small instances by brute force: no further move fits, never more than the best, on average within a tenth of it."""
    shares = []
    for seed in range(300):
        rng = random.Random(seed)
        effects = []
        for block in range(5):
            costs = sorted(rng.uniform(0.0005, 0.01) for _ in range(3))
            sizes = sorted(rng.randint(5, 60) for _ in range(3))
            kinds = zip(("Q5_K", "Q4_K", "Q2_K"), costs, sizes, strict=True)
            effects += [effect(block, 0.0, to_type=k, kld=c, delta_bytes=-s) for k, c, s in kinds]
        allowed = rng.uniform(0.002, 0.03)
        choice = choose("greedy", effects, Rules(allowed_damage=allowed))
        spent, best = math.fsum(e.kld or 0.0 for e in choice.effects), best_saving(effects, allowed)
        chosen = {e.tensor: e for e in choice.effects}
        for e in effects:
            now = chosen.get(e.tensor)
            if -e.delta_bytes > (-now.delta_bytes if now else 0):
                assert spent - ((now.kld or 0.0) if now else 0.0) + (e.kld or 0.0) > allowed
        assert -choice.delta_bytes <= best
        shares.append(-choice.delta_bytes / best if best else 1.0)
    assert sum(shares) / len(shares) > 0.9
