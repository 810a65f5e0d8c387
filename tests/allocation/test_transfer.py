"""Transfers on the fake backend, whose slopes are planted: a sibling that holds, one that doesn't, one where one role fails."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.allocation.solver import solve
from cerebellum.domain import TensorType, block_of, role_of
from cerebellum.errors import InputError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import TYPES
from cerebellum.profiles.check import CarryVerdict
from cerebellum.recipes.recipe import ModelId, Recipe
from cerebellum.recipes.toml_form import format_recipe
from cerebellum.report.profile import profile_grid
from cerebellum.results.allocation import Allocation, Transferred
from cerebellum.testing import Effect, FakeBackend, Fault, write_fake_model
from cerebellum.verbs.allocation.origin import read_origin
from cerebellum.verbs.allocation.sensitivity import read_map
from cerebellum.verbs.allocation.transfer import roles_of
from cerebellum.verbs.profile_tables import read_profiles
from cerebellum.verbs.recipe import read_recipe
from cerebellum.verbs.transfer_check import chosen_profiles
from tests.allocation.small import Stopped

KINDS = tuple(kind for kind, quant in TYPES.items() if quant.quantized)
ROLES = ("attn_q", "ffn_gate", "ffn_down")
OLD, NEW = 12, 18
REPORT_PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "report.md"


def profile(role: str, depth: float) -> float:
    """The family's log sensitivity: a smooth curve of each role's own over depth."""
    at = ROLES.index(role) if role in ROLES else 0
    return float(1.6 * np.sin(5.0 * depth + 2.0 * at) + 0.7 * np.cos(11.0 * depth + at) + 0.4 * at)


def planted(path: Path, strange: tuple[str, ...] = (), **more: Any) -> FakeBackend:
    """Damage = slope · error. Roles of ``strange`` have slopes that depth says nothing of."""
    model, random = read_model(path), np.random.default_rng(5)
    effects = {}
    for tensor in quantizable_tensors(model):
        block = block_of(tensor.name)
        depth = 0.0 if block is None else block / (model.n_blocks - 1)
        own = random.standard_normal()
        log = (
            1.3 * own - 2.0 * (own > 0.5)
            if role_of(tensor.name) in strange
            else profile(tensor.role, depth) + 0.1 * own
        )
        slope = 1e-3 * np.exp(log)
        for kind in KINDS:
            error = tensor.n_elements * 4.0 ** -TYPES[kind].bits_per_weight
            effects[TensorType(tensor.name, kind)] = Effect(kld=float(slope * error))
    return FakeBackend(effects, **more)


def truth(path: Path, backend: FakeBackend) -> dict[str, float]:
    """Tensor → planted slope."""
    found = {}
    for tensor in quantizable_tensors(read_model(path)):
        error = tensor.n_elements * 4.0 ** -TYPES["Q3_K"].bits_per_weight
        found[tensor.name] = backend.effects[TensorType(tensor.name, "Q3_K")].kld / error
    return found


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of other depths, a text, and the finished allocation of the first."""
    folder = tmp_path_factory.mktemp("family")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 12)))
    old = write_fake_model(folder / "old.gguf", OLD, roles=ROLES)
    write_fake_model(folder / "new.gguf", NEW, roles=ROLES)
    api.allocate(old, backend=planted(old), out=folder / "study", **options(folder))
    return folder


def options(folder: Path) -> Any:
    return {"text": folder / "text.txt", "ctx": 64, "like": "Q3_K_M", "n_shuffled": 1, "refine": False}


def transfer(
    family: Path, out: Path, backend: FakeBackend | None = None, source: Path | None = None, **more: Any
) -> Allocation:
    new = family / "new.gguf"
    return api.transfer(
        source or family / "study", new, out=out, backend=backend or planted(new), **{**options(family), **more}
    )


def taken(result: Allocation) -> Transferred:
    assert result.transferred is not None
    return result.transferred


def verdicts(result: Allocation) -> dict[str, CarryVerdict]:
    return {r.role: r.verdict for r in taken(result).roles}


def regret(family: Path, result: Allocation, backend: FakeBackend) -> float:
    """Planted damage of the recipe over that of the best one there is."""
    known = truth(family / "new.gguf", backend)

    def cost(name: str, error: float) -> float:
        return known[name] * error

    best = solve(result.table.offers(cost), result.limit - result.table.fixed_bytes())
    types = result.recipe.types(result.base.model.types)
    return sum(cost(n, result.table.errors[n][types[n]]) for n in result.table.names) / best.cost


def test_a_sibling_holds_and_most_trials_are_saved(family: Path, tmp_path: Path) -> None:
    backend = planted(family / "new.gguf")
    result = transfer(family, tmp_path / "out", backend)
    found = taken(result)
    assert found.verdict is CarryVerdict.HOLDS and set(verdicts(result).values()) == {CarryVerdict.HOLDS}
    assert found.blocks == (OLD, NEW) and found.n_full == 3 * NEW + 1
    assert found.n_saved == found.n_full - len(result.anchors.anchors) > 0.6 * found.n_full
    assert sum(p.is_hit for p in found.probes) >= 0.7 * len(found.probes) >= 4
    known = truth(family / "new.gguf", backend)
    for probe in found.probes:  # what is shown as measured is what was planted, within the fake's noise
        error = result.table.errors[probe.tensor][probe.type]
        assert probe.measured == pytest.approx(known[probe.tensor] * error, rel=0.6)
    stock = sum(s * result.table.errors[n][result.table.base_types[n]] for n, s in known.items())
    assert 1.0 <= regret(family, result, backend) < 1.25 < stock / 2 / min(known.values())
    report = json.loads((tmp_path / "out" / "report.json").read_text())["transfer"]
    assert report["verdict"] == "holds" and report["trials"]["saved"] == found.n_saved
    assert [p["hit"] for p in report["roles"]["ffn_gate"]["probes"]]
    documented = set(re.findall(r"`(\w+)`", REPORT_PAGE.read_text().split("`transfer` is an object")[1]))
    role = report["roles"]["ffn_gate"]
    assert documented >= {*report, *report["from"], *report["trials"], *role, *role["probes"][0]}
    page = (tmp_path / "out" / "report.md").read_text()
    assert f"{found.n_saved} saved" in page and "blk.0.ffn_gate.weight" in page
    assert result.written.file_bytes == result.written.path.stat().st_size <= result.limit


def test_a_stranger_does_not_hold_and_everything_is_measured(family: Path, tmp_path: Path) -> None:
    backend = planted(family / "new.gguf", strange=ROLES)
    result = transfer(family, tmp_path / "out", backend)
    found = taken(result)
    assert found.verdict is CarryVerdict.FAILS and set(verdicts(result).values()) == {CarryVerdict.FAILS}
    assert found.n_saved == 0 and len(result.anchors.anchors) == found.n_full
    assert found.low < 0.5
    assert regret(family, result, backend) < 1.15


def test_one_role_fails_and_only_that_is_measured_whole(family: Path, tmp_path: Path) -> None:
    backend = planted(family / "new.gguf", strange=("ffn_gate",))
    result = transfer(family, tmp_path / "out", backend)
    by_role = {r.role: r for r in taken(result).roles}
    assert taken(result).verdict is CarryVerdict.PARTLY
    assert by_role["ffn_gate"].verdict is CarryVerdict.FAILS and by_role["ffn_gate"].n_measured == NEW
    for role in ("attn_q", "ffn_down"):
        assert by_role[role].verdict is not CarryVerdict.FAILS and by_role[role].n_measured < 0.7 * NEW
    assert regret(family, result, backend) < 1.25


def test_a_broken_transfer_resumes_and_equals_the_unbroken_one(family: Path, tmp_path: Path) -> None:
    whole = transfer(family, tmp_path / "whole")
    for after in (70, 90):
        with pytest.raises(KeyboardInterrupt):
            transfer(family, tmp_path / "again", progress=Stopped(after))
    again = transfer(family, tmp_path / "again")
    assert again.transferred == whole.transferred and again.anchors == whole.anchors
    assert again.written.sha256 == whole.written.sha256


def test_a_probe_that_fails_is_left_out(family: Path, tmp_path: Path) -> None:
    probe = taken(transfer(family, tmp_path / "whole")).probes[0]
    fault = Fault(TensorType(probe.tensor, probe.type))
    result = transfer(family, tmp_path / "out", planted(family / "new.gguf", faults=(fault,)))
    assert result.anchors.failed == ((probe.tensor, probe.type),)
    assert probe.tensor not in {p.tensor for p in taken(result).probes}


def test_from_the_type_map_of_a_file(family: Path, tmp_path: Path) -> None:
    """A published file's types are all that is known of its model; its own sensitivities are never seen."""
    (file,) = (p for p in (family / "study").glob("*.gguf") if "base" not in p.name)
    result = transfer(family, tmp_path / "out", source=file)
    found = taken(result)
    assert found.form == "recipe" and found.origin == file.name
    assert found.n_saved > 0 and found.agreement > 0.3
    assert not any(r.high == 0.0 for r in found.roles)


def test_roles_that_a_file_treats_alike_say_nothing(family: Path, tmp_path: Path) -> None:
    """One type for all of a role orders nothing: the role is measured whole; a file of one type is refused, before anything is opened."""
    new = family / "new.gguf"
    types = {f"blk.{b}.{role}.weight": "Q3_K" for b in range(OLD) for role in ROLES}
    types |= {"blk.0.ffn_gate.weight": "Q6_K", "blk.7.ffn_gate.weight": "Q2_K"}
    recipe = Recipe("Q3_K_M", types, complete=True, model=ModelId("llama", "", OLD))
    (tmp_path / "r.toml").write_text(format_recipe(recipe))
    table = read_map(family / "study" / "sensitivity.json").table
    cells = {name: table.types[name][0] for name in table.names}
    roles, whole = roles_of(table, cells, read_origin(tmp_path / "r.toml"), read_model(family / "old.gguf"))
    assert [role.role for role in roles] == ["ffn_gate"]
    assert {whole[role] for role in ("attn_q", "ffn_down")} == {"r.toml treats all of it alike"}
    (tmp_path / "r.toml").write_text(format_recipe(replace(recipe, types=dict.fromkeys(types, "Q3_K"))))
    with pytest.raises(InputError, match=r"nothing to carry over.*treats all of it alike"):
        api.estimate(new, source=tmp_path / "r.toml", backend=planted(new), **options(family))


def test_an_estimate_counts_fewer_trials(family: Path) -> None:
    new = family / "new.gguf"
    whole = api.estimate(new, backend=planted(new), **options(family))
    few = api.estimate(new, source=family / "study", backend=planted(new), **options(family))
    assert 10 < few.n_trials < 0.6 * whole.n_trials
    assert not any("family" in note for note in few.notes)


def test_a_study_shows_its_profiles(family: Path) -> None:
    """Against the map's own numbers: slope times the weight error at the type shown."""
    known = read_map(family / "study" / "sensitivity.json")
    for source in (family / "study", family / "study" / "sensitivity.json"):
        table = read_profiles(source)
        kind, roles = chosen_profiles(table)
        assert set(roles) == set(ROLES)
        for b in range(OLD):
            name = f"blk.{b}.ffn_gate.weight"
            assert roles["ffn_gate"][b] == known.model.slopes[name].mean * known.table.errors[name][kind]
        measured = sum(known.model.slopes[name].n_anchors > 0 for name in known.table.names)
        assert (
            f"{measured} of its {len(known.table.names)} tensors were measured"
            in profile_grid(table, kind, roles).notes[0]
        )


def test_an_estimate_refuses_and_warns_as_the_work_does(family: Path, tmp_path: Path) -> None:
    """The model's own map is refused before anything is opened; another family is told before anything is measured."""
    old, new = family / "old.gguf", family / "new.gguf"
    with pytest.raises(InputError, match=r"a map of old\.gguf itself"):
        api.estimate(old, source=family / "study", backend=planted(old), **options(family))
    recipe = replace(read_recipe(next((family / "study").glob("*cerebellum*.gguf"))), model=ModelId("mamba", "", OLD))
    (tmp_path / "r.toml").write_text(format_recipe(recipe))
    notes = api.estimate(new, source=tmp_path / "r.toml", backend=planted(new), **options(family)).notes
    assert [note for note in notes if note.startswith("r.toml is of the family mamba")]


def test_what_can_not_be_transferred_is_refused(family: Path, tmp_path: Path) -> None:
    old = family / "old.gguf"
    with pytest.raises(InputError, match=r"a map of old\.gguf itself: use `cerebellum run"):
        api.transfer(family / "study", old, out=tmp_path / "o", backend=planted(old), **options(family))
    with pytest.raises(InputError, match=r"has no sensitivity\.json"):
        transfer(family, tmp_path / "o", source=tmp_path)
    (tmp_path / "ladder" / "Q2_K").mkdir(parents=True)
    (tmp_path / "ladder" / "Q2_K" / "sensitivity.json").write_text("{}")
    with pytest.raises(InputError, match=r"folder of a ladder.*Q2_K"):
        transfer(family, tmp_path / "o", source=tmp_path / "ladder")
    with pytest.raises(InputError, match="is not a sensitivity map"):
        transfer(family, tmp_path / "o", source=tmp_path / "ladder" / "Q2_K")
    with pytest.raises(InputError, match="no recipe"):
        transfer(family, tmp_path / "o", source=family / "text.txt")
    other = write_fake_model(tmp_path / "other.gguf", 5, roles=("attn_k",))
    with pytest.raises(InputError, match=r"nothing to carry over to other\.gguf.*attn_k: study doesn't have it"):
        api.transfer(family / "study", other, out=tmp_path / "p", backend=planted(other), **options(family))
    assert not [p for folder in ("o", "p") for p in (tmp_path / folder).glob("*cerebellum*")]


def test_a_ladder_begins_with_a_sibling_too(family: Path, tmp_path: Path) -> None:
    """The size in the middle is transferred; the other solves by what that measured."""
    new, own = family / "new.gguf", {k: v for k, v in options(family).items() if k != "like"}
    source = family / "study"
    made = api.ladder(new, "Q3_K_M,Q4_K_M", source=source, out=tmp_path / "out", backend=planted(new), **own)
    first, second = made.results
    assert taken(first).verdict is CarryVerdict.HOLDS and second.transferred is None
    assert (
        second.anchors.anchors == first.anchors.anchors and first.written.path.exists() and second.written.path.exists()
    )
    with pytest.raises(InputError, match="not both"):
        api.ladder(new, "Q3_K_M,Q4_K_M", source=source, out=tmp_path / "x", map=source / "sensitivity.json", **own)
