"""The whole allocation on the fake backend, whose damage is planted: a slope of its own for each tensor times the error of its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.allocation.candidates import DEFAULT_TYPES
from cerebellum.allocation.solver import solve
from cerebellum.domain import TensorType
from cerebellum.errors import InputError, ProofError, TensorChoiceError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import TYPES
from cerebellum.llamacpp.protocol import WeightErrors
from cerebellum.progress import Silent
from cerebellum.results.allocation import Allocation
from cerebellum.testing import Effect, FakeBackend, Fault, write_fake_model
from tests.allocation.small import Stopped

BLOCKS = 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    return write_fake_model(tmp_path / "model.gguf", BLOCKS)


def error(path: Path, name: str, kind: str) -> float:
    tensor = read_model(path).tensor(name)
    assert tensor is not None
    return float(tensor.n_elements * 4.0 ** -TYPES[kind].bits_per_weight)


def slopes(path: Path) -> dict[str, float]:
    """Planted: from one tensor to the next they differ up to a hundredfold."""
    names = [t.name for t in quantizable_tensors(read_model(path))]
    return dict(zip(names, 1e-3 * np.random.default_rng(3).lognormal(sigma=1.2, size=len(names)), strict=True))


def planted(path: Path, **more: Any) -> FakeBackend:
    effects = {
        TensorType(n, k): Effect(kld=s * error(path, n, k)) for n, s in slopes(path).items() for k in DEFAULT_TYPES
    }
    return FakeBackend(effects, **more)


def allocate(path: Path, backend: FakeBackend | None = None, **more: Any) -> Allocation:
    options = {"text": path.parent / "text.txt", "ctx": 64, "out": path.parent / "out", "like": "Q3_K_M", **more}
    return api.allocate(path, backend=backend or planted(path), **options)


def test_it_finds_what_the_planted_slopes_would_choose_and_proves_the_file(model: Path) -> None:
    result = allocate(model)
    written = result.written
    assert written.file_bytes == written.path.stat().st_size <= result.limit == result.base.model.file_bytes
    truth = slopes(model)
    best = solve(result.table.offers(lambda name, e: truth[name] * e), result.limit - result.table.fixed_bytes())
    assert result.refined is not None
    before, ours = (
        sum(truth[n] * error(model, n, k) for n, k in types.items())
        for types in (result.kept.candidate.types, result.refined.types)
    )
    stock = sum(truth[n] * error(model, n, "Q3_K") for n in truth)
    assert best.cost <= ours <= 1.02 * before <= 1.15 * best.cost < 0.8 * stock
    assert result.controls.ratio.high < 1.0
    types = read_model(written.path).types
    assert {n: types[n] for n in result.table.names} == dict(result.refined.types)
    assert written.equal_chunks == len(range(30))


def test_the_verdict_names_sizes_ratio_and_controls(model: Path) -> None:
    result = allocate(model)
    report = json.loads((model.parent / "out" / "report.json").read_text())
    assert f"{result.written.file_bytes / 1e6:,.2f} MB of at most" in report["verdict"][0]
    assert f"{100 * result.controls.ratio.estimate:.0f} % of the stock" in report["verdict"][1]
    assert "a stock file of" in report["verdict"][2]
    assert report["controls"]["ratio"]["estimate"] == pytest.approx(result.controls.ratio.estimate)
    assert len(report["controls"]["shuffled"]["others"]) == 20
    assert result.controls.shuffled.n_worse >= 19
    assert "Damage model" in (model.parent / "out" / "report.md").read_text()


@dataclass(frozen=True)
class Padding(FakeBackend):
    """Writes a recipe's file with more bytes than its tensors and header have."""

    def quantize(self, source: Path, out: Path, *rest: Any, **named: Any) -> None:
        super().quantize(source, out, *rest, **named)
        if "unproven" in out.name:
            out.write_bytes(out.read_bytes() + b"\0" * 32)


def test_a_file_of_another_size_than_planned_never_stands_under_its_final_name(model: Path) -> None:
    seen: list[str] = []
    with pytest.raises(ProofError, match="were planned"):
        allocate(model, Padding(planted(model).effects), progress=Watching(model.parent / "out", seen))
    left = [path.name for path in (model.parent / "out").glob("*.gguf")]
    assert left == ["base-Q3_K_M.gguf"] and not [name for name in seen if "cerebellum" in name]


class Watching(Silent):
    """Notes which models stand in a folder after every step."""

    def __init__(self, out: Path, seen: list[str]) -> None:
        self._out, self._seen = out, seen

    def end(self) -> None:
        self._seen += [path.name for path in self._out.glob("*.gguf")]


def test_more_bytes_never_predict_worse(model: Path) -> None:
    smaller, larger = (allocate(model, like=None, bpw=b, out=model.parent / str(b)) for b in (3.2, 4.0))
    assert larger.kept.predicted < smaller.kept.predicted
    assert smaller.written.file_bytes < larger.written.file_bytes <= larger.limit


def test_rules_hold_in_the_written_file(model: Path) -> None:
    result = allocate(model, keep="token_embd=Q8_0", never="IQ*,Q4_?", only="ffn_*,token_embd")
    types, base = read_model(result.written.path).types, result.base.model.types
    assert types["token_embd.weight"] == "Q8_0"
    assert not any(k.startswith("IQ") or k in ("Q4_0", "Q4_1") for n, k in types.items() if "ffn" in n)
    assert all(types[n] == base[n] for n in types if "attn" in n)


def test_what_can_not_be_is_refused_before_the_work(model: Path) -> None:
    with pytest.raises(InputError, match="smallest file that the allowed types give has"):
        allocate(model, like=None, size=10_000)
    with pytest.raises(InputError, match="or allow smaller types"):
        allocate(model, like=None, size=10_000, imatrix="none", out=model.parent / "plain")
    short_rows = write_fake_model(model.parent / "short.gguf", width=128)  # no type of them has fewer bits than Q4_0
    with pytest.raises(InputError, match="rows can hold no smaller types"):
        allocate(short_rows, like=None, size=3_000, out=model.parent / "short")
    with pytest.raises(TensorChoiceError, match="ffn_gate_exps"):
        allocate(model, only="ffn_gate_exps")
    with pytest.raises(InputError, match="one of --size"):
        allocate(model, size="1MB")


def test_on_the_fewest_chunks_second_anchors_are_measured_and_nothing_is_left_out(model: Path) -> None:
    """Two chunks: no tensor gets more text, and types that were not measured are not called types that can't be."""
    result = allocate(model, chunks=2, refine=False, n_shuffled=0)
    cells = [(a.tensor, a.type) for a in result.anchors.anchors]
    assert result.anchors.failed == () and len(cells) == result.anchors.n_trials > len({name for name, _ in cells})


class Lossless(FakeBackend):
    """Every type keeps every value, as it does of tensors of zeros."""

    def weight_errors(self, *given: Any, **more: Any) -> Iterator[WeightErrors]:
        for row in super().weight_errors(*given, **more):
            yield replace(row, errors=dict.fromkeys(row.errors, 0.0))


class TooLarge(FakeBackend):
    """One tensor's values are too large for types of 4 bits. `ASKED`: the tensors that errors were wanted of."""

    def weight_errors(self, *given: Any, **more: Any) -> Iterator[WeightErrors]:
        for row in super().weight_errors(*given, **more):
            lost = (
                [kind for kind in row.errors if kind.startswith("Q4_")] if row.tensor == "blk.2.ffn_gate.weight" else []
            )
            ASKED.append(row.tensor)
            yield replace(row, errors={k: e for k, e in row.errors.items() if k not in lost}, cannot=tuple(lost))


ASKED: list[str] = []


def test_types_that_cant_hold_a_tensors_values_are_left_out_and_the_others_go_on(model: Path) -> None:
    effects = planted(model).effects
    result = allocate(model, TooLarge(effects), refine=False, n_shuffled=0)
    held = result.table.types["blk.2.ffn_gate.weight"]
    assert (
        held
        and not [kind for kind in held if kind.startswith("Q4_")]
        and "Q4_K" in result.table.types["blk.1.ffn_gate.weight"]
    )
    ASKED.clear()
    assert allocate(model, TooLarge(effects), refine=False, n_shuffled=0).written.sha256 == result.written.sha256
    assert not ASKED


def test_where_nothing_can_be_chosen_the_reason_is_the_true_one(model: Path) -> None:
    """Rows that hold no type are refused by the estimate, before anything is made; a model that no type changes when that is known."""
    odd = write_fake_model(model.parent / "odd.gguf", width=80)
    with pytest.raises(InputError, match=r"no tensor of odd\.gguf can be quantized: their rows have 80 weights"):
        api.estimate(odd, text=model.parent / "text.txt", ctx=64, chunks=8, backend=FakeBackend(), like="Q3_K_M")
    with pytest.raises(InputError, match="allow more with --types"):
        api.estimate(model, text=model.parent / "text.txt", ctx=64, chunks=8, backend=FakeBackend(), types="F16")
    with pytest.raises(InputError, match="keeps all of their values"):
        allocate(model, Lossless(), imatrix="none")


def test_a_broken_run_resumes_and_equals_the_unbroken_one(model: Path) -> None:
    whole = allocate(model)
    for after in (40, 130, 260):
        with pytest.raises(KeyboardInterrupt):
            allocate(model, out=model.parent / "again", progress=Stopped(after))
    again = allocate(model, out=model.parent / "again")
    assert again.recipe == whole.recipe and again.anchors == whole.anchors and again.tried == whole.tried
    assert again.written.sha256 == whole.written.sha256


def test_a_type_that_can_not_be_measured_is_left_out_and_the_others_go_on(model: Path) -> None:
    kind = {a.tensor: a.type for a in allocate(model).anchors.anchors}["blk.2.ffn_up.weight"]
    fault = Fault(TensorType("blk.2.ffn_up.weight", kind))
    result = allocate(model, planted(model, faults=(fault,)), out=model.parent / "again")
    assert result.anchors.failed == (("blk.2.ffn_up.weight", kind),)
    assert read_model(result.written.path).types["blk.2.ffn_up.weight"] != kind
    assert result.controls.ratio.high < 1.0


def test_workers_change_nothing(model: Path) -> None:
    assert allocate(model, workers=3, out=model.parent / "3").recipe == allocate(model).recipe


def misleading(path: Path) -> FakeBackend:
    """Half of the tensors look harmless at the type that anchors have, and nowhere else."""
    effects = dict(planted(path).effects)
    for i, name in enumerate(sorted(slopes(path))):
        if i % 2:
            swap = TensorType(name, "IQ3_S")
            effects[swap] = Effect(kld=0.02 * effects[swap].kld)
    return FakeBackend(effects)


def test_refinement_takes_what_the_anchors_could_not_see_and_is_stored(model: Path) -> None:
    plain = allocate(model, misleading(model), refine=False, out=model.parent / "plain")
    refined = allocate(model, misleading(model), budget_minutes=10)
    assert plain.refined is None and refined.refined is not None
    assert refined.refined.n_taken and refined.refined.ratio is not None and refined.refined.ratio.high < 1.0
    assert refined.controls.ratio.estimate < 0.9 * plain.controls.ratio.estimate
    assert refined.written.file_bytes <= refined.limit
    again = allocate(model, FakeBackend(misleading(model).effects, faults=(Fault(None),)), budget_minutes=10)
    assert again.refined == refined.refined and again.written.sha256 == refined.written.sha256


def test_refinement_of_what_adds_up_is_never_worse(model: Path) -> None:
    result = allocate(model)
    assert result.refined is not None
    taken = [p.change for r in result.refined.rounds for p in r.proposals if p.taken and p.change]
    assert all(change.high < 0.0 for change in taken)
    assert result.table.file_bytes(result.refined.types) <= result.limit
    spent = sum(r.n_chunks for r in result.refined.rounds)
    assert spent <= result.anchors.n_chunks + 200


def test_an_importance_matrix_that_is_asked_for_is_made_and_widens_the_choice(model: Path) -> None:
    calibration = model.parent / "calibration.txt"
    calibration.write_text(" ".join(f"other{i * i % 7919}" for i in range(64 * 20)))
    plain = allocate(model, imatrix="none", refine=False, n_shuffled=0, out=model.parent / "plain")
    given: dict[str, Any] = {"imatrix": "auto", "calibration_text": calibration, "refine": False, "n_shuffled": 0}
    result = allocate(model, **given)
    assert (model.parent / "out" / "imatrix.gguf").exists() and result.facts["imatrix"]["file"] == "imatrix.gguf"
    effect = result.facts["imatrix"]["effect"]
    assert effect["ftype"] == result.base.ftype and effect["chunks"] == result.facts["splits"]["search"]["n_chunks"]
    assert effect["sentence"].startswith(
        f"the importance matrix at {result.base.ftype}, on {effect['chunks']} chunks of the search text: "
    )
    assert plain.facts["imatrix"] is None
    name = "blk.1.ffn_up.weight"
    assert "IQ2_XXS" in result.table.types[name] and "IQ2_XXS" not in plain.table.types[name]
