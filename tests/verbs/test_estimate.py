"""What is said before the first trial: trials counted as they are then made, what so much text can show, what can't pay."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.errors import InputError
from cerebellum.progress import Silent
from cerebellum.report.estimate import estimate_lines
from cerebellum.results import Harmless, Noise
from cerebellum.stats.intervals import smallest_detectable
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from cerebellum.verbs.doubts import allowance_doubts, race_doubts


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.notes.append(what)

    @property
    def warnings(self) -> list[str]:
        return [note for note in self.notes if note.startswith("warning: ")]


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    write_fake_model(tmp_path / "model.gguf", 2)
    return tmp_path


def given(ground: Path, **more: Any) -> dict[str, Any]:
    return {"text": ground / "text.txt", "ctx": 64, "chunks": 8, "out": ground / "out", **more}


def quantized(ground: Path) -> Path:
    """The model as Q4_0, its own base and reference."""
    api.quantize(ground / "model.gguf", "Q4_0", out=ground / "q.gguf", backend=FakeBackend({}))
    return ground / "q.gguf"


def n_measured(folder: Path) -> int:
    """Chunks of trials in the study of a folder."""
    with contextlib.closing(sqlite3.connect(folder / "study.sqlite")) as study:
        return int(study.execute("SELECT count(*) FROM score").fetchone()[0])


def test_a_sweep_is_counted_as_it_is_made(ground: Path) -> None:
    options = given(ground, role="ffn_gate,attn_v", to="Q2_K,Q5_K", blocks="1")
    estimate = api.estimate_sweep(ground / "model.gguf", backend=FakeBackend({}), **options)
    assert not (ground / "out").exists()
    result = api.sweep(ground / "model.gguf", backend=FakeBackend({}), **options)
    assert estimate.n_trials == len(result.sweep.rows) == 4 and estimate.n_tensors == 2
    assert (estimate.search_chunks, estimate.report_chunks, estimate.job) == (8, 0, "sweep")
    assert "4 trials of 2 tensors" in estimate_lines(estimate)[1]
    assert estimate.detectable == pytest.approx(smallest_detectable(estimate.spread / 8**0.5, 8))
    assert smallest_detectable(estimate.spread / estimate.chunks_for_useful**0.5, estimate.chunks_for_useful) <= 0.01


def test_a_choice_counts_what_is_measured_together(ground: Path) -> None:
    """What the study holds in the end, and the reference's rows of 8 and 8 chunks."""
    write_fake_model(ground / "model.gguf")
    options = given(ground, role="ffn_gate", to="Q2_K", allow=0.5)
    estimate = api.estimate(ground / "model.gguf", backend=FakeBackend({}), **options)
    assert (estimate.job, estimate.search_chunks, estimate.report_chunks) == ("choice", 8, 8)
    plant = {TensorType(f"blk.{i}.ffn_gate.weight", "Q2_K"): Effect(kld=0.002 * (i + 1)) for i in range(4)}
    plant |= {TensorType(f"blk.{i}.ffn_up.weight", "Q3_K"): Effect(kld=0.01) for i in range(4)}
    result = api.choose(ground / "model.gguf", backend=FakeBackend(plant), **options)
    assert result.combination is not None and 0 < len(result.combination.recipe.tensor_types) < 4
    assert estimate.trial_chunks == pytest.approx(n_measured(ground / "out") + 16, rel=0.15)


def test_a_job_without_chunks_named_measures_the_usual_ones(ground: Path) -> None:
    options = given(ground, role="ffn_gate", to="Q2_K")
    del options["chunks"]
    (ground / "text.txt").write_text(" ".join(f"word{i * i % 99991}" for i in range(2048 * 34)))
    estimate = api.estimate_sweep(ground / "model.gguf", backend=FakeBackend({}), **{**options, "ctx": 2048})
    assert estimate.search_chunks == api.usual_chunks(2048) == 16 and api.usual_chunks(64) == 512


def test_harmless_trials_of_a_quantized_source_are_counted(ground: Path) -> None:
    """Two tensors in each of the two blocks, beside the anchors."""
    path = quantized(ground)
    options = given(ground, like="Q3_K_M", types="Q2_K,Q3_K,Q4_0", n_shuffled=0, refine=False)
    of_file, of_source = (
        api.estimate(model, backend=FakeBackend({}), **options) for model in (path, ground / "model.gguf")
    )
    assert of_file.n_trials == of_source.n_trials + 4


def test_a_race_that_cant_pay_is_said_before_the_first_trial(ground: Path) -> None:
    assert race_doubts(6, 0)[0].startswith("A race over 6 chunks can't save anything, since its first look takes 6;")
    assert (
        "can save 25 % of the text at most" in race_doubts(8, 0)[0] and "give 9 chunks or more" in race_doubts(8, 0)[0]
    )
    assert race_doubts(9, 0) == race_doubts(64, 0) == []
    told = Told()
    options = given(ground, chunks=6, race=True, role="ffn_gate")
    estimate = api.estimate_sweep(ground / "model.gguf", backend=FakeBackend({}), **options)
    assert any("can't save anything" in note for note in estimate.notes)
    api.sweep(ground / "model.gguf", backend=FakeBackend({}), progress=told, **options)
    assert any("can't save anything" in line for line in told.warnings)


def test_an_allowance_under_the_noise_floor_is_said_with_what_to_give() -> None:
    noise = Noise((Harmless("batches", 3e-5, 1e-5),), 4)
    assert allowance_doubts(0.05, 1e-3, noise) == allowance_doubts(0.03, 1e-3, noise) == []
    line = allowance_doubts(0.02, 1e-3, noise)[0]
    assert (
        "0.02 thousandths of a nat a token, under the noise floor of 0.03" in line
        and "Give --allow 0.03 or more" in line
    )
    assert allowance_doubts(0.03, 1e-3, noise) == []


def test_a_base_that_is_its_own_reference_is_said_first_and_larger_types_are_refused(ground: Path) -> None:
    path, told = quantized(ground), Told()
    with pytest.raises(InputError, match="its own base and its own reference, and every type to try is larger"):
        api.choose(path, backend=FakeBackend({}), progress=told, **given(ground, role="ffn_gate", to="Q5_K,Q8_0"))
    with pytest.raises(InputError, match="smaller types"):
        api.estimate(path, backend=FakeBackend({}), **given(ground, role="ffn_gate", to="Q8_0"))
    assert not (ground / "out" / "study.sqlite").exists()
    api.sweep(path, backend=FakeBackend({}), progress=told, **given(ground, role="ffn_gate", to="Q2_K"))
    assert [name for name in told.notes if name == "sweep" or "its own reference" in name][1:] == ["sweep"]


@pytest.mark.parametrize("job", [{"role": "ffn_gate", "to": "Q2_K"}, {"like": "Q3_K_M"}])
def test_the_importance_matrix_to_be_made_is_counted_and_told(ground: Path, job: dict[str, Any]) -> None:
    """Beside the same job with the matrix that is then made, counted in tokens by how many chunks it really took."""
    calibration = ground / "calibration.txt"
    calibration.write_text(" ".join(f"other{i * i % 7919}" for i in range(512 * 6)))
    made = api.imatrix(ground / "model.gguf", calibration, out=ground / "imatrix.gguf", backend=FakeBackend({}))
    run = api.estimate if "like" in job else api.estimate_sweep
    options = given(ground, **job)
    before = run(
        ground / "model.gguf", backend=FakeBackend({}), **options, imatrix="auto", calibration_text=calibration
    )
    after = run(ground / "model.gguf", backend=FakeBackend({}), **options, imatrix=made.path)
    assert before.passes - after.passes == pytest.approx(made.n_chunks * 512 / 64)
    assert any(f"{made.n_chunks} chunks of 512 tokens of calibration.txt" in note for note in before.notes)
    assert not any("calibration.txt" in note for note in after.notes)
    if "like" in job:  # the matrix's name stands in the stock file's header
        asked = run(ground / "model.gguf", backend=FakeBackend({}), **given(ground, size=before.limit, imatrix="none"))
        assert (
            "at most about" in estimate_lines(before)[0]
            and f"at most {asked.limit:,} bytes" in estimate_lines(asked)[0]
        )
