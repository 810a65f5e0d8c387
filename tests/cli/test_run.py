"""The job by its command, on small random models: what it leaves, that it resumes, that its report says what was measured."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import gguf
import pytest

from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.process import IDLE, Child
from tests.cli.command import cerebellum, refused, start
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

SMALL = ("--text", "text.txt", "--ctx", "64", "--chunks", "6", "-t", "1", "--quiet")
JOB = ("run", "model.gguf", "--role", "ffn_gate,ffn_up", "--to", "Q2_K,Q5_K", "--allow", "0.5", *SMALL)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a text."""
    folder = tmp_path_factory.mktemp("ground")
    tiny.gemma4(folder / "model.gguf")
    (folder / "text.txt").write_text(tiny.text(1200))
    return folder


@pytest.fixture(scope="module")
def finished(ground: Path) -> dict[str, Any]:
    """The report of a run that nothing disturbed, in ``ground/whole``."""
    done = cerebellum(ground, *JOB, "--out", "whole")
    assert done.returncode == 0, done.stderr
    (ground / "printed.txt").write_text(done.stdout)
    return report(ground / "whole")


def report(folder: Path) -> dict[str, Any]:
    """What must not depend on how often a run was interrupted: everything but the folder's name and the command."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text().replace(f"{folder.name}/", ""))
    found["facts"].pop("command")
    found["commands"].pop("cerebellum")
    return found


def test_the_job_leaves_file_overrides_report_and_study(ground: Path, finished: dict[str, Any]) -> None:
    whole = ground / "whole"
    written = finished["written"]
    data = (whole / written["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == written["sha256"]
    assert len(data) == written["file_bytes"]
    for name in ("report.md", "study.sqlite", "sweep.svg", written["overrides_path"]):
        assert (whole / name).stat().st_size > 0
    assert not [path for path in whole.rglob("*") if "partial" in path.name or "unproven" in path.name]


def test_the_written_file_has_the_base_types_and_the_chosen_swaps(ground: Path, finished: dict[str, Any]) -> None:
    whole = ground / "whole"
    types = read_model(whole / finished["written"]["path"]).types
    base = read_model(whole / "base-Q3_K_M.gguf").types
    assert finished["choice"]["swaps"]
    assert types == {**base, **finished["choice"]["swaps"]}


def test_the_override_file_makes_the_same_bytes(ground: Path, finished: dict[str, Any], tmp_path: Path) -> None:
    whole = ground / "whole"
    overrides = whole / finished["written"]["overrides_path"]
    done = cerebellum(
        ground, "quantize", "model.gguf", "Q3_K_M", "--overrides", overrides, "--out", tmp_path / "again.gguf", "-q"
    )
    assert done.returncode == 0, done.stderr
    assert tensor_bytes(tmp_path / "again.gguf") == tensor_bytes(whole / finished["written"]["path"])


def tensor_bytes(path: Path) -> dict[str, tuple[str, bytes]]:
    """Tensor → (type, stored bytes), by the `gguf` package: headers differ by our keys."""
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def test_the_sweep_has_a_row_per_tensor_and_type_with_its_perplexity(ground: Path, finished: dict[str, Any]) -> None:
    rows = {(row["tensor"], row["to_type"]): row for row in finished["sweep"]}
    assert len(rows) == 2 * 2 * tiny.BLOCKS
    row = rows["blk.1.ffn_gate.weight", "Q2_K"]
    (ground / "one.txt").write_text("blk.1.ffn_gate.weight=Q2_K\n")
    cerebellum(
        ground, "quantize", "model.gguf", "Q3_K_M", "--overrides", "one.txt", "--out", "one.gguf", "--force", "-q"
    )
    measured = cerebellum(ground, "perplexity", "one.gguf", "--json", *SMALL)
    assert json.loads(measured.stdout)["perplexity"] == row["summary"]["perplexity"]


def test_the_command_prints_table_choice_combination_controls_and_file(ground: Path, finished: dict[str, Any]) -> None:
    printed = (ground / "printed.txt").read_text()
    for words in ("blk.2.ffn_up", "Choice", "single effects added up", "blanket Q2_K", "base requantized", "random 1"):
        assert words in printed
    assert finished["written"]["sha256"] in printed
    assert "search text text.txt, chunks 0 to 5" in printed


def test_search_and_report_share_no_chunk(finished: dict[str, Any]) -> None:
    splits = finished["facts"]["splits"]
    assert splits["search"]["chunks"][1] < splits["report"]["chunks"][0]


def scores(study: Path) -> int:
    """Measurements in a study so far."""
    try:
        with sqlite3.connect(f"{study.resolve().as_uri()}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM score").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize("after", [60, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_resumes_and_equals_the_unbroken_one(ground: Path, finished: dict[str, Any], after: int) -> None:
    out = ground / f"killed{after}"
    process = start(ground, *JOB, "--out", out.name)
    while not (out.exists() and scores(out / "study.sqlite") >= after) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = scores(out / "study.sqlite")
    assert kept < scores(ground / "whole" / "study.sqlite"), "killed too late to show anything"
    assert not (out / "report.json").exists()
    done = cerebellum(ground, *JOB, "--out", out.name)
    assert done.returncode == 0, done.stderr
    assert report(out) == finished


def test_a_finished_run_repeats_from_the_study_alone(ground: Path, finished: dict[str, Any]) -> None:
    before = scores(ground / "whole" / "study.sqlite")
    assert cerebellum(ground, *JOB, "--out", "whole").returncode == 0
    assert scores(ground / "whole" / "study.sqlite") == before
    assert report(ground / "whole") == finished


@pytest.mark.parametrize("options", [("--workers", "2"), ("-t", "2")])
def test_worker_and_thread_count_change_nothing(
    ground: Path, finished: dict[str, Any], options: tuple[str, ...]
) -> None:
    out = f"with{'-'.join(options)}"
    assert cerebellum(ground, *JOB, *options, "--out", out).returncode == 0
    assert report(ground / out) == finished


def test_batches_of_another_size_are_another_series(ground: Path, finished: dict[str, Any]) -> None:
    """`-ub` arrives: what is measured is near what whole batches give, in figures of its own."""
    done = cerebellum(ground, *JOB, "-ub", "8", "--out", "small-batches")
    assert done.returncode == 0 and "batches of 4 tokens" in done.stdout, done.stderr
    small = report(ground / "small-batches")
    assert (small["facts"]["settings"]["n_ubatch"], finished["facts"]["settings"]["n_ubatch"]) == (8, 512)
    a, b = (found["base"]["divergence"]["mean"]["estimate"] for found in (small, finished))
    assert a != b and a == pytest.approx(b, rel=0.2)


def test_a_quantized_file_is_its_own_base_and_the_report_says_quantized_twice(ground: Path) -> None:
    cerebellum(ground, "quantize", "model.gguf", "Q4_K_M", "--out", "quantized.gguf", "--force", "-q")
    done = cerebellum(
        ground,
        "run",
        "quantized.gguf",
        "--reference",
        "model.gguf",
        "--to",
        "Q2_K",
        "--allow",
        "1",
        *SMALL,
        "--out",
        "twice",
    )
    assert done.returncode == 0, done.stderr
    found = report(ground / "twice")
    assert found["facts"]["base"] | {"file_bytes": 0} == {"ftype": "Q4_K_M", "file_bytes": 0, "quantized_twice": True}
    assert "quantized twice" in (ground / "twice" / "report.md").read_text()
    assert found["written"]["equal_chunks"] == 6


def test_another_model_is_not_mixed_into_a_study(ground: Path, finished: dict[str, Any]) -> None:
    tiny.gemma4(ground / "other.gguf", seed=1)
    refused(
        cerebellum(ground, "run", "other.gguf", *JOB[2:], "--out", "whole"), 5, "model.gguf", "another output folder"
    )
    assert report(ground / "whole") == finished


def test_the_sweep_command_measures_and_run_takes_it_over(ground: Path) -> None:
    done = cerebellum(ground, "sweep", "model.gguf", "--blocks", "0-1", "--json", *SMALL, "--out", "swept")
    assert done.returncode == 0, done.stderr
    assert [row["block"] for row in json.loads(done.stdout)["sweep"]] == [0, 1]
    before = scores(ground / "swept" / "study.sqlite")
    cerebellum(ground, "run", "model.gguf", "--blocks", "0-1", "--allow", "0", *SMALL, "--out", "swept")
    assert before == 3 * 6 + 5 * 4  # base and two trials; five harmless changes on four chunks for the noise floor
    with sqlite3.connect(ground / "swept" / "study.sqlite") as db:
        assert db.execute("SELECT count(*) FROM command").fetchone()[0] == 2


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_that_everything_is_kept(ground: Path, sent: signal.Signals) -> None:
    long = (
        "run",
        "model.gguf",
        "--role",
        "all",
        "--to",
        "Q2_K,Q4_K,Q5_K",
        "--text",
        "text.txt",
        "--ctx",
        "64",
        "-t",
        "1",
    )

    def listen() -> None:
        """A process that was started in the background may have been told to ignore Ctrl-C."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = start(ground, *long, "--quiet", "--out", sent.name, before=listen)
    while scores(ground / sent.name / "study.sqlite") < 10 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "kept" in err and "Traceback" not in err


def test_a_run_with_benchmarks_starts_few_processes(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the reference, the base, the written file, and one for all that is asked of llama.cpp before and after: with the command's own
    at most six."""
    started, start = list[str](), Child.__init__

    def noting(child: Child, doing: str) -> None:
        start(child, doing)
        started.append(doing)

    IDLE.close()
    monkeypatch.setattr(Child, "__init__", noting)
    asked = ("--bench", "world_facts,world_endings", "--bench-limit", "2")
    done = cerebellum(ground, *JOB, *asked, "--out", "asked")
    assert done.returncode == 0, done.stderr
    assert report(ground / "asked")["bench"] and len(started) <= 5, started
