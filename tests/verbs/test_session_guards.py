"""What keeps a job honest: each test fails if the guard it names is taken out."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import ChunkScore, TensorType
from cerebellum.errors import CerebellumError, InputError, ModelFileError, ProofError, TextError
from cerebellum.fleet.local import shared_out
from cerebellum.llamacpp.protocol import Settings
from cerebellum.progress import Silent
from cerebellum.report.grids import controls_lines
from cerebellum.results import RunResult
from cerebellum.scoring.metrics import INVERSE_TEMPERATURES
from cerebellum.scoring.summary import best_temperature
from cerebellum.testing import Effect, FakeBackend, write_fake_model

GATE = "blk.{}.ffn_gate.weight"
EFFECTS = {
    TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.04),
    TensorType("token_embd.weight", "Q6_K"): Effect(kld=0.01),
    TensorType(GATE.format(1), "Q2_K"): Effect(nll=0.01, kld=0.0002),
    TensorType(GATE.format(2), "Q2_K"): Effect(nll=0.01, kld=0.02),
}


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    for name, n in (("text", 97), ("other", 89)):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name}{i * i % (100 * n + 3)}" for i in range(64 * 30)))
    write_fake_model(tmp_path / "model.gguf")
    return tmp_path


def run(ground: Path, backend: FakeBackend | None = None, **more: Any) -> RunResult:
    given = {"text": ground / "text.txt", "report_text": ground / "other.txt", "ctx": 64, "out": ground / "out", **more}
    return api.choose(ground / "model.gguf", backend=backend or FakeBackend(EFFECTS), **given)


class Forgetful(FakeBackend):
    """Writes files without the overrides when asked for more than a base."""

    def quantize(
        self,
        source: Path,
        out: Path,
        ftype: str,
        overrides: Sequence[tuple[str, str]] = (),
        imatrix: Path | None = None,
    ) -> None:
        super().quantize(source, out, ftype, (), imatrix)


def test_a_file_with_other_types_is_no_recipe(ground: Path) -> None:
    with pytest.raises(ProofError, match=r"stores .*ffn_gate.* as Q3_K, the recipe says Q2_K"):
        run(ground, Forgetful(EFFECTS))
    assert not list((ground / "out").glob("*cerebellum*"))


def test_a_damaged_base_is_made_again(ground: Path) -> None:
    first = run(ground)
    base = ground / "out" / "base-Q3_K_M.gguf"
    whole = base.read_bytes()
    base.write_bytes(whole[:-1] + b"x")
    assert run(ground) == first and base.read_bytes() == whole


def test_a_base_whose_matrix_has_moved_is_written_again(ground: Path) -> None:
    """Its header names the matrix as it was given: with another path the recipe's file would have other bytes than were planned from it."""
    written: list[Path | None] = []

    class Noting(FakeBackend):
        def quantize(
            self, source: Path, out: Path, ftype: str, overrides: Any = (), imatrix: Path | None = None
        ) -> None:
            written.extend([imatrix] if "base" in out.name else [])
            super().quantize(source, out, ftype, overrides, imatrix)

    first, moved = ground / "imatrix.dat", ground / "a longer name" / "imatrix.dat"
    legacy_imatrix(first, [GATE.format(1)], "third.txt")
    result = run(ground, Noting(EFFECTS), imatrix=first)
    moved.parent.mkdir()
    first.rename(moved)
    assert run(ground, Noting(EFFECTS), imatrix=moved).written == result.written
    run(ground, Noting(EFFECTS), imatrix=moved)
    assert written == [first, moved]


class Told(Silent):
    """Notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_file_of_the_users_where_the_base_goes_is_kept(ground: Path) -> None:
    """Before the first run, and one that replaced ours: renamed, with a word, never overwritten; and the run is the same."""
    first, base = run(ground), ground / "out" / "base-Q3_K_M.gguf"
    whole = base.read_bytes()
    other = ground / "second" / "base-Q3_K_M.gguf"
    other.parent.mkdir()
    for n in (1, 2):
        other.write_bytes(b"mine" * n)
        told = Told()
        assert run(ground, out=other.parent, progress=told) == replace_out(first, ground)
        assert other.read_bytes() == whole and (other.parent / f"base-Q3_K_M.kept-{n}.gguf").read_bytes() == b"mine" * n
        assert [note for note in told.notes if f"kept as base-Q3_K_M.kept-{n}.gguf" in note]
    told = Told()
    run(ground, out=other.parent, progress=told)
    assert not [note for note in told.notes if "kept" in note]


def replace_out(result: RunResult, ground: Path) -> RunResult:
    """The same result in the second folder."""
    out, second = ground / "out", ground / "second"
    base = replace(result.base, model=replace(result.base.model, path=second / result.base.model.path.name))
    written = result.written and replace(
        result.written,
        path=second / result.written.path.relative_to(out),
        overrides_path=second / result.written.overrides_path.relative_to(out),
    )
    return replace(result, base=base, written=written)


def test_a_run_killed_while_its_base_was_written_goes_on(ground: Path) -> None:
    """The file got its name and the note of it was never made: ours, so it is made again and nothing is kept aside."""

    class Killed(FakeBackend):
        def quantize(self, *arguments: Any, **more: Any) -> None:
            super().quantize(*arguments, **more)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(ground, Killed(EFFECTS))
    assert run(ground).base.model.path.exists()
    assert not list((ground / "out").glob("*kept*"))


def test_another_reference_has_rows_of_its_own(ground: Path) -> None:
    FakeBackend(EFFECTS).quantize(ground / "model.gguf", ground / "near.gguf", "Q3_K_M")
    own = run(ground).sweep.base.divergence
    near = run(ground, reference=ground / "near.gguf", force=True).sweep.base.divergence
    assert own and near and own.mean.estimate > 0.03 and near.mean.estimate == 0.0


def test_another_model_of_the_same_name_is_refused(ground: Path) -> None:
    run(ground)
    write_fake_model(ground / "model.gguf", n_blocks=5)
    with pytest.raises(CerebellumError, match="other content"):
        run(ground)


def legacy_imatrix(path: Path, names: Sequence[str], dataset: str) -> Path:
    """As older llama-imatrix writes it."""
    data = struct.pack("<i", len(names))
    for name in names:
        data += (
            struct.pack("<i", len(name))
            + name.encode()
            + struct.pack("<ii", 1, 256)
            + struct.pack("<256f", *[1.0] * 256)
        )
    path.write_bytes(data + struct.pack("<ii", 4, len(dataset)) + dataset.encode())
    return path


def test_the_text_that_made_the_importance_matrix_measures_nothing(ground: Path) -> None:
    """By its name, and by its content under another name."""
    for dataset in ("somewhere/text.txt", "copy.txt"):
        (ground / "copy.txt").write_text((ground / "text.txt").read_text())
        imatrix = legacy_imatrix(ground / "imatrix.dat", [GATE.format(1)], dataset)
        with pytest.raises(TextError, match=r"text\.txt made the importance matrix"):
            run(ground, imatrix=imatrix)
    fine = run(ground, imatrix=legacy_imatrix(ground / "imatrix.dat", [GATE.format(1)], "third.txt"))
    assert fine.facts["imatrix"]["file"] == "imatrix.dat"


def test_a_text_that_only_shares_the_name_is_told_and_measured(
    ground: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The text that made the matrix isn't here, or is another one: a warning in the report, or nothing."""
    apart = tmp_path_factory.mktemp("apart")
    imatrix = legacy_imatrix(apart / "imatrix.dat", [GATE.format(1)], "/nowhere/text.txt")
    (warning,) = run(ground, imatrix=imatrix).facts["warnings"]
    assert "text.txt has the name of the text that made the importance matrix (/nowhere/text.txt)" in warning
    (apart / "text.txt").write_text("quite another text")
    assert run(ground, imatrix=imatrix).facts["warnings"] == []


def test_an_importance_matrix_of_another_model_is_refused(ground: Path) -> None:
    with pytest.raises(ModelFileError, match="no entry for any tensor"):
        run(ground, imatrix=legacy_imatrix(ground / "imatrix.dat", ["blk.99.attn_q.weight"], "third.txt"))


def test_a_report_text_that_holds_the_search_text_is_refused(ground: Path) -> None:
    (ground / "more.txt").write_text((ground / "text.txt").read_text() + " and one word more")
    with pytest.raises(TextError, match=r"30 of 30 chunks of more\.txt are also in text\.txt"):
        run(ground, report_text=ground / "more.txt")


def test_the_best_temperature_is_found_between_the_grid() -> None:
    """A parabola in the inverse temperature with its least value 2 at 0.83; at the grid's end nothing is known."""
    tempered = tuple(100 * (2.0 + 3.0 * (beta - 0.83) ** 2) for beta in INVERSE_TEMPERATURES)
    value, temperature = best_temperature([ChunkScore(0, 100, 210.0, 500.0, tempered)])
    assert value == pytest.approx(math.exp(2.0)) and temperature == pytest.approx(1 / 0.83)
    falling = tuple(100 * (2.0 - beta) for beta in INVERSE_TEMPERATURES)
    assert best_temperature([ChunkScore(0, 100, 210.0, 500.0, falling)]) == (None, None)


def test_a_base_that_is_its_own_reference_still_gets_a_choice(ground: Path) -> None:
    """Shares are then of 0.02 nats a token: block 1 costs 0.0002, block 2 as much as all of that."""
    FakeBackend(EFFECTS).quantize(ground / "model.gguf", ground / "quantized.gguf", "Q4_K_M")
    given: dict[str, Any] = {"text": ground / "text.txt", "ctx": 64, "out": ground / "out", "allow": 0.05}
    given["report_text"] = ground / "other.txt"
    result = api.choose(ground / "quantized.gguf", backend=FakeBackend(EFFECTS), blocks=[1, 2], **given)
    assert result.choice.blocks == (1,) and result.base.twice
    assert "its own reference" in result.facts["warnings"][0]
    assert result.written is not None and "--allow-requantize" in result.written.reproduce


def test_what_an_earlier_run_left_is_named(ground: Path) -> None:
    kept = run(ground, allow=0.05).written
    assert kept is not None
    result = run(ground, allow=0.0, blocks=[2], force=True)
    assert result.written is None and kept.path.name in result.facts["left_from_before"]
    assert kept.path.name in (ground / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    "options",
    [{"allow": math.nan}, {"allow": -1}, {"seed": -1}, {"workers": 0}, {"chunks": 1}, {"budget_minutes": math.inf},
     {"budget_minutes": 0.0}, {"budget_minutes": -1.0}, {"max_growth": -5}, {"objective": "ppl"}, {"ctx": -1}],
)  # fmt: skip
def test_numbers_that_cant_be(ground: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        run(ground, **options)
    assert not (ground / "out").exists()


@pytest.mark.parametrize(
    ("cores", "asked", "workers", "threads", "idle"),
    [(8, None, 1, 8, False), (8, 8, 1, 8, False), (8, 5, 1, 5, False), (8, 4, 1, 4, True), (8, 1, 1, 1, True),
     (8, None, 4, 2, False), (8, 2, 4, 2, False), (8, 1, 4, 1, True), (1, None, 3, 1, False)],
)  # fmt: skip
def test_cores_and_memory_are_shared_out(
    cores: int, asked: int | None, workers: int, threads: int, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle: as many as compute, over all the engines."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(cores)), raising=False)
    settings = shared_out(Settings(n_threads=asked, replay_bytes=900), workers)
    assert settings == Settings(n_threads=threads, has_idle_cores=idle, replay_bytes=900 // workers)
    assert settings.as_key() == Settings().as_key()


def test_a_budget_of_no_or_too_few_minutes_says_how_many_would_do(ground: Path) -> None:
    """None before anything is done, too few by the rate that is measured."""
    given: dict[str, Any] = {
        "text": ground / "text.txt",
        "ctx": 64,
        "out": ground / "out",
        "backend": FakeBackend(EFFECTS),
    }
    with pytest.raises(InputError, match=r"\(--budget-minutes\) is 0, in which nothing .* leave it out"):
        api.sweep(ground / "model.gguf", race=True, budget_minutes=0, **given)
    assert not (ground / "out").exists()
    with pytest.raises(InputError, match=r"holds 0 chunks; .* tokens .--budget-tokens. and [0-9.]+ minutes"):
        api.sweep(ground / "model.gguf", race=True, budget_minutes=1e-12, **given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bench_limit": 5}, r"bench_limit \(--bench-limit\) .* give bench \(--bench TASKS\)"),
        ({"bench_data": "data"}, r"--bench-data"),
        ({"bench_margin": 0.0}, r"--bench-margin"),
        ({"bench_shots": 0}, r"--bench-shots"),
        ({"unsafe_execution": True}, r"--unsafe-execution"),
    ],
)
def test_options_of_benchmarks_without_one_are_refused(ground: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(ground, **options)
    assert not (ground / "out").exists()


def test_what_the_header_rules_out_is_refused_before_any_work(ground: Path) -> None:
    for options in ({"to": "Q9_K"}, {"role": "ffn_gaet"}, {"blocks": [9]}, {"text": ground / "nothing.txt"}):
        with pytest.raises(InputError):
            run(ground, **options)
        assert not (ground / "out").exists()
    with pytest.raises(TextError):
        run(ground, ctx=4096)
    assert not (ground / "out" / "base-Q3_K_M.gguf").exists()


def test_minutes_become_tokens_by_a_measured_rate_that_is_kept(ground: Path) -> None:
    """The rate is measured on the base although the base is known already, once; the budget then bounds the race."""
    api.sweep(ground / "model.gguf", backend=FakeBackend(EFFECTS), text=ground / "text.txt", ctx=64, out=ground / "out")
    again = [
        api.sweep(ground / "model.gguf", backend=FakeBackend(EFFECTS), text=ground / "text.txt", ctx=64, out=ground / "out",
                  budget_minutes=10.0).sweep
        for _ in range(2)
    ]  # fmt: skip
    assert again[0] == again[1] and again[0].race is not None and not again[0].race.exhausted


def test_a_race_counts_only_what_it_takes(ground: Path) -> None:
    """A full sweep of the same folder before it changes nothing: not the tokens it reports, not where its budget ends."""
    given: dict[str, Any] = {"text": ground / "text.txt", "ctx": 64, "race": True, "backend": FakeBackend(EFFECTS)}
    fresh = api.sweep(ground / "model.gguf", out=ground / "fresh", budget_tokens=4 * 6 * 64, **given).sweep
    api.sweep(ground / "model.gguf", out=ground / "full", **{**given, "race": False})
    after = api.sweep(ground / "model.gguf", out=ground / "full", budget_tokens=4 * 6 * 64, **given).sweep
    assert fresh.race == after.race and fresh.rows == after.rows
    for row in fresh.rows:
        assert row.base.n_chunks == row.summary.n_chunks


def test_only_a_control_that_is_no_larger_is_recommended(ground: Path) -> None:
    """The base is nearer to the reference than any recipe of smaller types, and larger: no reason to take it instead."""
    result = run(ground, allow=0.9, blocks=[1, 2])
    assert result.choice.blocks == (1, 2)
    assert not [line for line in controls_lines(result) if "instead" in line]
    assert [line for line in controls_lines(result) if "blanket Q2_K" in line]
