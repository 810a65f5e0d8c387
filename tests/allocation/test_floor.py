"""The floor under single changes of a quantized source: planted, it is found and taken off, and the choice is the planted slopes' own."""

from __future__ import annotations

import numpy as np
import pytest

from cerebellum.allocation.damage import Anchor, fit
from cerebellum.allocation.floor import Floor, fit_floor, harmless_types
from cerebellum.domain import Tensor

BLOCKS, ROLES = 12, ("attn_q", "attn_v", "ffn_up", "ffn_down")


def tensors(kind: str = "Q4_1") -> dict[str, Tensor]:
    sizes = {"attn_q": 64, "attn_v": 32, "ffn_up": 256, "ffn_down": 256}
    blocks = [Tensor(f"blk.{b}.{role}.weight", (64, sizes[role]), kind) for b in range(BLOCKS) for role in ROLES]
    return {t.name: t for t in (Tensor("token_embd.weight", (64, 500), kind), *blocks)}


def types_of(known: dict[str, Tensor]) -> dict[str, str]:
    return {name: tensor.type for name, tensor in known.items()}


def planted(block: int | None) -> float:
    """Flat at first, then falling to a third: nats a token."""
    return 0.003 * min(1.0, 0.3 + 0.1 * (BLOCKS - 1 - (block or 0)))


def test_harmless_types_are_of_small_tensors_in_blocks_from_the_first_to_the_last() -> None:
    chosen = harmless_types(tensors(), types_of(tensors()))
    blocks = sorted({tensors()[name].block or 0 for name in chosen})
    assert blocks[0] == 0 and blocks[-1] == BLOCKS - 1 and len(blocks) == 6 and len(chosen) == 12
    assert {name.split(".")[2] for name in chosen} == {"attn_q", "attn_v"} and set(chosen.values()) == {"Q8_0"}
    assert set(harmless_types(tensors("Q8_0"), types_of(tensors("Q8_0"))).values()) == {"F16"}
    assert harmless_types(tensors("F16"), types_of(tensors("F16"))) == {}


def test_a_planted_floor_is_found() -> None:
    known = tensors()
    random = np.random.default_rng(0)
    names = harmless_types(known, types_of(known))
    floor = fit_floor({n: planted(known[n].block) * random.normal(1.0, 0.03) for n in names}, known)
    assert list(floor.values) == sorted(floor.values, reverse=True)
    for tensor in known.values():
        assert floor.at(tensor) == pytest.approx(planted(tensor.block), rel=0.12)
    assert floor.at(Tensor("output.weight", (64, 500), "Q6_K")) == 0.0
    assert floor.whole == floor.at(known["token_embd.weight"])


def test_without_a_measured_tensor_there_is_no_floor() -> None:
    anchor = Anchor("blk.0.attn_q.weight", "Q4_0", 1.0, 0.01, 0.001)
    assert fit_floor({}, tensors()) == Floor() and Floor().whole == 0.0
    assert Floor().without(anchor, tensors()[anchor.tensor]) == anchor


def test_slopes_are_those_planted_once_the_floor_is_off() -> None:
    """With the floor left in, small slopes come out several times too large; their order is lost."""
    known = tensors()
    del known["token_embd.weight"]
    random = np.random.default_rng(1)
    truth = {name: float(random.lognormal(-7.0, 1.0)) for name in known}
    raw = [
        Anchor(n, "Q4_0", 1.0, truth[n] + planted(t.block) * random.normal(1.0, 0.05), 0.1 * truth[n])
        for n, t in known.items()
    ]
    measured = {n: planted(known[n].block) for n in harmless_types(known, types_of(known))}
    floor, roles = fit_floor(measured, known), {n: t.role for n, t in known.items()}
    with_floor = fit(roles, raw)
    without = fit(roles, [floor.without(a, known[a.tensor]) for a in raw])

    def off(model: object) -> float:
        return float(np.median([abs(np.log(model.slopes[n].mean / truth[n])) for n in known]))  # type: ignore[attr-defined]

    assert off(without) < 0.35 < 1.0 < off(with_floor)
