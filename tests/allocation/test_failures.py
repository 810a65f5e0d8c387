"""Controls and cells that can't be measured: they are listed, kept out of every recipe, and the verdict is made from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import Chunk, TensorType
from cerebellum.errors import EngineError, InputError, RefusedError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.report.allocation_card import allocation_card
from cerebellum.report.allocation_lines import five_lines, verdict_lines, warning_lines
from cerebellum.report.plan import plan_lines
from cerebellum.testing import Effect, FakeBackend, FakeEngine, Fault
from tests.allocation.small import KINDS, allocate, effects, write_model

UP = "blk.1.ffn_up.weight"


@pytest.fixture(autouse=True)
def without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without keys that say where they come from: in so small a model these outweigh the tensors."""
    monkeypatch.setattr("cerebellum.verbs.allocation.run.with_keys", lambda _session, table, _limit: table)


@dataclass(frozen=True)
class Refusing(FakeBackend):
    """Fails at every set of types in which all quantizable tensors have the type ``kind``: a uniform or stock file of it."""

    kind: str = "Q4_K"

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        return RefusingEngine(self, super().open(model, settings, sources)._model, settings, sources)


class RefusingEngine(FakeEngine):
    """See `Refusing`."""

    def _check_fault(self, tensor_types: Any, chunk: Chunk, label: str) -> None:
        super()._check_fault(tensor_types, chunk, label)
        backend = self._backend
        assert isinstance(backend, Refusing)
        if len(tensor_types) > 3 and {swap.type for swap in tensor_types} == {backend.kind}:
            raise EngineError(f"{label}: failed as planted")


def test_a_stock_rung_that_fails_is_listed_and_the_ladder_is_made_of_the_others(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    result = allocate(path, Refusing(effects(path), kind="Q4_K"))
    assert {failure.label for failure in result.controls.failed} >= {"uniform Q4_K", "stock Q4_K_S"}
    rungs = [rung.ftype for rung in result.controls.ladder]
    assert "Q3_K_M" in rungs and not [ftype for ftype in rungs if ftype.startswith("Q4_K")]
    assert result.controls.equivalent.n_bytes is not None
    said = "\n".join(verdict_lines(result))
    assert "can't be measured" in said and "uniform Q4_K" in said and "nan" not in said and "inf" not in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["controls"]["failed"][0]["reason"]


def test_a_map_keeps_what_could_not_be_measured_out_of_plans_and_runs(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    kind = {a.tensor: a.type for a in allocate(path, out=tmp_path / "whole").anchors.anchors}[UP]
    broken = FakeBackend(effects(path), faults=(Fault(TensorType(UP, kind)),))
    assert allocate(path, broken).anchors.failed == ((UP, kind),)
    kept = tmp_path / "out" / "sensitivity.json"
    entry = next(e for e in json.loads(kept.read_text())["tensors"] if e["name"] == UP)
    assert entry["failed"] == [kind]
    for size in ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M"):
        assert api.plan(kept, like=size).types[UP] != kind
    with pytest.raises(InputError, match="could not be measured when the map was made"):
        api.plan(kept, like="Q6_K", keep=f"{UP}={kind}")
    again = allocate(path, map=kept, out=tmp_path / "again")  # a sound backend: only the map knows
    assert kind not in again.table.types[UP] and again.anchors.failed == ((UP, kind),)
    assert (
        json.loads((tmp_path / "again" / "sensitivity.json").read_text())["tensors"]
        == json.loads(kept.read_text())["tensors"]
    )


def test_a_recipe_that_a_control_surely_beats_is_not_written(tmp_path: Path) -> None:
    """The texts disagree: types that serve the search text are harmful on the other, where the stock file is nearer."""
    path = write_model(tmp_path)
    (tmp_path / "other.txt").write_text(" ".join(f"else{i * i % 9967}" for i in range(64 * 30)))
    with pytest.raises(
        RefusedError, match=r"no file is written: on the report text .* is nearer to the reference"
    ) as caught:
        allocate(path, Partial(effects(path)), report_text=tmp_path / "other.txt")
    assert "not-written.overrides.txt" in str(caught.value)
    out = tmp_path / "out"
    assert [p.name for p in out.glob("*.gguf")] == ["base-Q3_K_M.gguf"] and (out / "not-written.overrides.txt").exists()
    assert not (out / "report.json").exists()


@dataclass(frozen=True)
class Partial(FakeBackend):
    """Whatever isn't Q3_K does harm on the report text."""

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        return PartialEngine(self, super().open(model, settings, sources)._model, settings, sources)


class PartialEngine(FakeEngine):
    """See `Partial`. The report text is known by its words."""

    def corpus(self, name: str, text: str, n_ctx: int) -> Any:
        found = super().corpus(name, text, n_ctx)
        if text.startswith("else"):
            _STRANGE.update(found.chunk(i).tokens.tobytes() for i in range(30))
        return found

    def _score(self, types: Any, chunk: Chunk, reference: Any) -> Any:
        if chunk.tokens.tobytes() not in _STRANGE:
            return super()._score(types, chunk, reference)
        harm = {TensorType(n, k): Effect(kld=0.5) for n, k in types.items() if k in KINDS and k != "Q3_K"}
        plain = self._backend
        self._backend = FakeBackend({**plain.effects, **harm})
        try:
            return super()._score(types, chunk, reference)
        finally:
            self._backend = plain


_STRANGE: set[bytes] = set()


@pytest.mark.parametrize("extra", [0, 64])
def test_the_stock_mix_is_kept_where_no_recipe_is_better(
    extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tensor is harmless at its own type of the base alone, which no slope could tell. Keys that have no room aren't in the file."""
    monkeypatch.setattr(
        "cerebellum.verbs.allocation.run.with_keys", lambda _s, table, _l: replace(table, extra_bytes=extra)
    )
    path = write_model(tmp_path)
    mix = {"blk.0.ffn_up.weight": "Q2_K", "blk.1.ffn_down.weight": "Q2_K", "blk.1.attn_v.weight": "Q4_K"}
    (tmp_path / "mix.txt").write_text("\n".join(f"{name}={kind}" for name, kind in mix.items()))
    planted = {s: Effect(kld=0.001 if s.type == mix.get(s.tensor, "Q3_K") else 0.05) for s in effects(path)}
    result = allocate(path, FakeBackend(planted), base_overrides=tmp_path / "mix.txt")
    assert result.kept.candidate.name == "stock mix"
    assert result.recipe.tensor_types == () and result.controls.ratio.estimate == pytest.approx(1.0)
    assert result.written.path.stat().st_size == result.base.model.file_bytes == result.kept.file_bytes
    said, then = five_lines(result)[3:]
    assert "no detectable difference" in said and "the stock mix itself is the best" in then


# -- a quantized source ------------------------------------------------------------------------------------------------


def quantized(tmp_path: Path) -> Path:
    path = write_model(tmp_path)
    FakeBackend().quantize(path, tmp_path / "quantized.gguf", "Q4_K_M")
    return tmp_path / "quantized.gguf"


def test_a_quantized_source_says_that_it_is_its_own_reference(tmp_path: Path) -> None:
    path = quantized(tmp_path)
    backend = FakeBackend(effects(path))
    notes = api.estimate(path, backend=backend, **{k: v for k, v in small(path).items() if k != "out"}).notes
    assert any("is its own reference" in note for note in notes)
    result = allocate(path, backend)
    assert any("is its own reference" in line for line in warning_lines(result))
    assert "is its own reference" in (tmp_path / "out" / "report.md").read_text()
    assert "is its own reference" in allocation_card(result)


OWN = 0.02


@dataclass(frozen=True)
class Quantized(FakeBackend):
    """A source whose tensors have each lost `OWN` of the reference: from its own words only what differs from it counts."""

    source: Path = Path()

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        return QuantizedEngine(self, super().open(model, settings, sources)._model, settings, sources)


class QuantizedEngine(FakeEngine):
    """See `Quantized`."""

    def _score(self, types: Mapping[str, str], chunk: Chunk, reference: Any) -> Any:
        backend = self._backend
        assert isinstance(backend, Quantized)
        own = read_model(backend.source).types
        if reference is not None and np.array_equal(reference.top, self._mark(own)) and types != own:
            types = {name: kind for name, kind in types.items() if kind != own[name]}
        return super()._score(types, chunk, reference)


def test_with_a_better_reference_anchors_are_measured_from_the_sources_own_words(tmp_path: Path) -> None:
    """From the reference each single change would show less by what the tensor has lost before, and predictions would leave that out."""
    path = quantized(tmp_path)
    own = read_model(path).types
    names = [t.name for t in quantizable_tensors(read_model(path))]
    planted = effects(path) | {TensorType(n, own[n]): Effect(kld=OWN) for n in names}
    result = allocate(path, Quantized(planted, source=path), reference=tmp_path / "model.gguf", n_shuffled=0)
    assert result.anchors.model.start == pytest.approx(OWN * len(names), rel=0.1)
    for anchor in result.anchors.anchors:
        assert anchor.effect == pytest.approx(planted[TensorType(anchor.tensor, anchor.type)].kld, rel=0.3, abs=1e-5)
    truth = sum(planted[TensorType(n, k)].kld if k != own[n] else 0.0 for n, k in result.kept.candidate.types.items())
    assert result.kept.predicted - result.anchors.model.start == pytest.approx(truth, rel=0.3)
    planned = api.plan(tmp_path / "out" / "sensitivity.json", like="Q3_K_M")
    assert planned.predicted.mean == pytest.approx(result.kept.predicted, rel=0.3)
    assert f"to the {1e3 * result.anchors.model.start:.3g} that the source itself has" in plan_lines(planned)[2]


def test_parts_with_a_better_reference_are_merged_into_the_whole(tmp_path: Path) -> None:
    """Their anchors are of the source's own words, the study's other figures of the reference: no part of another job."""
    path = quantized(tmp_path)
    own = read_model(path).types
    names = [t.name for t in quantizable_tensors(read_model(path))]
    backend = Quantized(effects(path) | {TensorType(n, own[n]): Effect(kld=OWN) for n in names}, source=path)
    given = {name: value for name, value in small(path).items() if name not in ("n_shuffled", "refine", "out")}
    given |= {"chunks": 4, "reference": tmp_path / "model.gguf", "backend": backend}
    for i in (1, 2):
        api.run_part(path, f"{i}/2", out=tmp_path / f"part{i}", **given)
    api.merge(tmp_path / "out", [tmp_path / "part1", tmp_path / "part2"])
    given |= {"n_shuffled": 0, "refine": False}
    result = api.allocate(path, out=tmp_path / "out", **given)
    whole = api.allocate(path, out=tmp_path / "whole", **given)
    assert result.written.sha256 == whole.written.sha256 and result.anchors == whole.anchors


def small(path: Path) -> dict[str, Any]:
    from tests.allocation.small import options

    return options(path)


@pytest.mark.parametrize("ask", [api.estimate, api.allocate])
def test_its_own_size_is_refused_since_nothing_is_nearer_to_it(tmp_path: Path, ask: Any) -> None:
    path = quantized(tmp_path)
    with pytest.raises(InputError, match=r"no file is nearer to it than itself"):
        ask(path, backend=FakeBackend(effects(path)), **{**small(path), "like": "Q4_K_M"})
    assert not list(tmp_path.rglob("base-*")) and not list(tmp_path.rglob("study.sqlite")), "before anything is made"


@pytest.mark.parametrize("more", [{"base": "Q2_K"}, {"reference": "itself"}])
def test_its_own_size_is_refused_whatever_base_or_reference_is_named(tmp_path: Path, more: dict[str, Any]) -> None:
    path = quantized(tmp_path)
    more = {"reference": path} if "reference" in more else more
    with pytest.raises(InputError, match=r"no file is nearer to it than itself"):
        api.allocate(path, backend=FakeBackend(effects(path)), **{**small(path), "like": "Q4_K_M", **more})
    assert not list(tmp_path.rglob("base-*")) and not list(tmp_path.rglob("study.sqlite")), "before anything is made"


def test_a_part_of_its_own_size_is_refused_too(tmp_path: Path) -> None:
    path = quantized(tmp_path)
    given = {name: value for name, value in small(path).items() if name not in ("n_shuffled", "refine", "like")}
    with pytest.raises(InputError, match=r"no file is nearer to it than itself"):
        api.run_part(path, "1/2", backend=FakeBackend(effects(path)), like="Q4_K_M", **given)


@pytest.mark.parametrize("base", ["Q4_K_M", "Q8_0"])
def test_a_smaller_size_is_taken_whatever_base_is_named(tmp_path: Path, base: str) -> None:
    """The size is the stock file's of `like`, not the base's."""
    path = quantized(tmp_path)
    given = {**small(path), "like": "Q3_K_M", "base": base}
    assert api.allocate(path, backend=FakeBackend(effects(path)), **given).written.path.exists()


def test_a_stock_file_without_divergence_gives_no_share_and_no_number_that_cant_be(tmp_path: Path) -> None:
    """Its own mix is asked for with its own type forbidden: the stock file is the reference, and the recipe isn't."""
    path = quantized(tmp_path)
    result = allocate(path, FakeBackend(effects(path)), like="Q4_K_M", never="Q4_K")
    said = "\n".join(verdict_lines(result))
    assert "is the reference itself" in said and not any(word in said for word in ("nan", "inf", "?"))
    report = (tmp_path / "out" / "report.json").read_text()
    assert (
        "NaN" not in report and "Infinity" not in report and json.loads(report)["controls"]["ratio"]["estimate"] is None
    )
    assert "nan" not in (tmp_path / "out" / "report.md").read_text().lower().replace("nanosecond", "")


def test_its_own_size_is_refused_where_the_written_file_would_carry_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys make a copy of the source larger than asked for; the source itself still fits."""
    monkeypatch.setattr(
        "cerebellum.verbs.allocation.run.with_keys", lambda _s, table, _l: replace(table, extra_bytes=64)
    )
    path = quantized(tmp_path)
    with pytest.raises(InputError, match=r"no file is nearer to it than itself"):
        allocate(path, FakeBackend(effects(path)), like="Q4_K_M")
