"""The sensitivity map: it is what was measured, it reads back as it was written, and a plan from it is what a run would choose."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.allocation.sensitivity import Expected, corrected, expected_damage, map_json, map_of
from cerebellum.errors import InputError, OutputError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.overrides import parse_overrides, resolve
from cerebellum.results.allocation import Allocation
from cerebellum.testing import FakeBackend, write_fake_model
from tests.allocation.test_allocation import BLOCKS, allocate, planted


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    write_fake_model(folder / "model.gguf", BLOCKS)
    return folder


@pytest.fixture(scope="module")
def result(ground: Path) -> Allocation:
    return allocate(ground / "model.gguf", refine=False)


@pytest.fixture
def written(ground: Path, result: Allocation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ground / "out" / "sensitivity.json").read_text())
    return found


def test_the_map_reads_back_as_it_was_written(written: dict[str, Any], result: Allocation) -> None:
    read = map_of(copy.deepcopy(written), "x")
    assert json.loads(json.dumps(map_json(read))) == written
    assert read.model == result.anchors.model and set(read.anchors) == set(result.anchors.anchors)
    assert read.table.errors == result.table.errors and read.table.fixed_bytes() == result.table.fixed_bytes()


def test_a_plan_for_the_same_size_is_what_the_run_chose_by_its_slopes(ground: Path, result: Allocation) -> None:
    plan = api.plan(ground / "out" / "sensitivity.json", like="Q3_K_M")
    measured = next(t for t in result.tried if t.candidate.name == "measured slopes")
    assert plan.types == measured.candidate.types
    assert plan.file_bytes + result.table.extra_bytes == measured.file_bytes <= plan.limit
    assert plan.predicted.mean == pytest.approx(measured.predicted)
    assert plan.predicted.low < plan.predicted.mean < plan.predicted.high
    assert plan.expected.low < measured.measured < plan.expected.high


def test_the_override_file_gives_the_planned_bytes(ground: Path, result: Allocation, tmp_path: Path) -> None:
    """Quantized with it, whatever the mix, the file has the planned types and the planned bytes."""
    plan = api.plan(ground / "out" / "sensitivity.json", bpw=3.6, out=tmp_path / "lines.txt")
    for ftype in ("Q3_K_M", "Q8_0"):
        made, lines = tmp_path / f"{ftype}.gguf", tmp_path / "lines.txt"
        api.quantize(ground / "model.gguf", ftype, out=made, overrides=lines, backend=FakeBackend())
        assert made.stat().st_size == plan.file_bytes
        types = read_model(made).types
        assert {n: types[n] for n in plan.types} == dict(plan.types)
    hits = resolve(parse_overrides((tmp_path / "lines.txt").read_text()), read_model(ground / "model.gguf"))
    assert all(len(hit.matched) == 1 for hit in hits)
    with pytest.raises(OutputError, match="exists; --force replaces it"):
        api.plan(ground / "out" / "sensitivity.json", bpw=3.6, out=tmp_path / "lines.txt")


def test_a_plan_is_the_best_of_all(ground: Path, result: Allocation) -> None:
    """Brute force over four tensors, the others held."""
    path, table = ground / "out" / "sensitivity.json", result.table
    free = [n for n in table.names if n.startswith("blk.0.ffn") or n == "blk.1.attn_v.weight"]
    plan = api.plan(path, like="Q3_K_M", only=free, types="Q2_K,Q3_K,Q5_K,Q8_0")
    best = math.inf
    for kinds in itertools.product(("Q2_K", "Q3_K", "Q5_K", "Q8_0"), repeat=len(free)):
        types = {**table.base_types, **dict(zip(free, kinds, strict=True))}
        if table.file_bytes(types) <= plan.limit:
            best = min(best, expected_damage(result.anchors.model, table, types).mean)
    assert plan.predicted.mean == pytest.approx(best)
    assert all(plan.types[n] == table.base_types[n] for n in table.names if n not in free)


def test_a_prediction_is_corrected_by_what_was_measured() -> None:
    said = Expected(2.0, 1.0, 4.0)
    assert corrected(said, ()) == said
    found = corrected(said, (1.5, 1.5, 1.5))
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, 1.5, 6.0))
    wide = corrected(said, (0.5, 1.5, 4.5))
    assert wide.mean == pytest.approx(3.0) and wide.high / wide.mean > 3.0 ** (1.645 / 0.6745)


def test_larger_sizes_are_expected_to_lose_less(ground: Path, result: Allocation) -> None:
    plans = [api.plan(ground / "out" / "sensitivity.json", like=f) for f in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q6_K")]
    assert sorted(plans, key=lambda p: -p.expected.mean) == plans
    assert all(p.file_bytes <= p.limit == result.stock_bytes[p.target.like or ""] for p in plans)


def test_a_run_from_the_map_measures_no_anchor_and_chooses_the_same(ground: Path, result: Allocation) -> None:
    path = ground / "out" / "sensitivity.json"
    again = allocate(ground / "model.gguf", map=path, refine=False, out=ground / "again")
    assert again.anchors.n_trials == 0
    assert again.recipe == result.recipe and again.written.sha256 == result.written.sha256
    larger = allocate(ground / "model.gguf", map=path, like="Q4_K_M", out=ground / "larger")
    assert larger.base.ftype == "Q4_K_M" and larger.controls.ratio.high < 1.0


def test_a_map_of_something_else_is_refused(ground: Path, result: Allocation, tmp_path: Path) -> None:
    path = ground / "out" / "sensitivity.json"
    (tmp_path / "text.txt").write_text((ground / "text.txt").read_text())
    other = write_fake_model(tmp_path / "model.gguf", BLOCKS + 1)
    with pytest.raises(InputError, match="another model"):
        allocate(other, map=path)
    value = json.loads(path.read_text())
    (tmp_path / "build.json").write_text(json.dumps({**value, "build": "other"}))
    with pytest.raises(InputError, match="another build"):
        allocate(ground / "model.gguf", planted(ground / "model.gguf"), map=tmp_path / "build.json", out=tmp_path / "o")


def damaged(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """The map with one thing wrong, each in its own way."""

    def edit(*path: Any, to: Any) -> Any:
        found = copy.deepcopy(value)
        at = found
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to
        return found

    return [
        ("no map", []),
        ("no map", {"format": 1}),
        ("format", {**value, "format": 2}),
        ("tensors", {**value, "tensors": []}),
        ("slope", edit("tensors", 0, "slope", "mean", to=float("nan"))),
        ("errors", edit("tensors", 0, "errors", to={})),
        ("bytes", edit("tensors", 0, "bytes", "Q2_K", to=1)),
        ("fixed", edit("file", "fixed_bytes", to=7)),
        ("shape", edit("tensors", 0, "shape", to=[1 << 40, 1 << 40])),
        ("type", edit("tensors", 0, "base_type", to="Q99")),
        ("twice", edit("tensors", 1, "name", to=value["tensors"][0]["name"])),
        ("anchors", edit("tensors", 0, "anchors", to=[{"type": 3}])),
        ("model", edit("model", to=None)),
        ("text", edit("text", to=[[]])),
        ("chunks", edit("text", "n_chunks", to=None)),
        ("matrix", edit("imatrix", to=7)),
    ]  # fmt: skip


def test_a_damaged_map_gets_one_clear_message(written: dict[str, Any], tmp_path: Path) -> None:
    for what, value in damaged(written):
        (tmp_path / "bad.json").write_text(json.dumps(value))
        with pytest.raises(InputError, match=r"bad\.json is") as caught:
            api.plan(tmp_path / "bad.json", bpw=4.0)
        assert "\n" not in str(caught.value), what
    for text in ("{", "[" * 100_000, "\x00\xff"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"bad\.json is not a sensitivity map"):
            api.plan(tmp_path / "bad.json", bpw=4.0)
