"""An allocation by its command, on a small random model: what is printed before and after, the map, a plan from it, a ladder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cerebellum.errors import InputError
from cerebellum.gguf.labels import label_of
from cerebellum.gguf.model_file import read_model
from tests.cli.command import cerebellum, refused
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

SMALL = ("--ctx", "64", "--chunks", "4", "-t", "1", "--only", "ffn_*", "--types", "Q2_K,Q3_K,Q4_K,Q6_K")
RUN = ("run", "model-F16.gguf", "--text", "text.txt", "--shuffled", "2", *SMALL)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    tiny.gemma4(folder / "model-F16.gguf")
    (folder / "text.txt").write_text(tiny.text(1200))
    return folder


@pytest.fixture(scope="module")
def printed(ground: Path) -> tuple[str, str]:
    """(standard output, standard error) of an allocation into ``ground/out``."""
    done = cerebellum(ground, *RUN, "--like", "Q4_K_M", "--out", "out")
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_estimate_comes_first_and_five_lines_after(printed: tuple[str, str]) -> None:
    out, told = printed
    assert told.index("smallest difference that 4 chunks can show") < told.index("quantizing")
    assert re.search(r"10 trials of 9 tensors", told)
    assert out.startswith("Size: ") and "Verdict: " in out
    assert [line for line in out.splitlines() if len(line) > 80 and " " in line.strip()] == []


def test_a_dry_run_writes_nothing(ground: Path) -> None:
    done = cerebellum(ground, *RUN, "--like", "Q4_K_M", "--out", "dry", "--dry-run", "--json", "--quiet")
    estimate = json.loads(done.stdout)
    assert (estimate["n_trials"], estimate["n_tensors"], estimate["search_chunks"]) == (10, 9, 4)
    assert estimate["minutes"] > 0.0 and not (ground / "dry").exists()


def test_the_planned_overrides_give_the_planned_bytes_in_llama_cpp(ground: Path, printed: tuple[str, str]) -> None:
    """Under another mix than the map's: every tensor is named, so no counter of a mix decides one."""
    done = cerebellum(ground, "plan", "out/sensitivity.json", "--like", "Q4_K_S", "--out", "lines.txt", "--json")
    plan = json.loads(done.stdout)
    again = ("quantize", "model-F16.gguf", "Q3_K_L", "--overrides", "lines.txt", "--out", "planned.gguf", "-q")
    assert cerebellum(ground, *again).returncode == 0
    made = read_model(ground / "planned.gguf")
    assert made.file_bytes == plan["file_bytes"] <= plan["target"]["limit_bytes"]
    assert {name: made.types[name] for name in plan["types"]} == plan["types"]


def test_a_ladder_from_the_map_measures_no_anchor(ground: Path, printed: tuple[str, str]) -> None:
    more = ("--ladder", "Q3_K_M,Q4_K_M", "--map", "out/sensitivity.json", "--out", "ladder")
    done = cerebellum(ground, *RUN, *more)
    assert done.returncode == 0, done.stderr
    assert (
        "anchors: " in done.stderr and "taken from the map" in done.stderr and "that are uncertain" not in done.stderr
    )
    files = sorted(path.name for path in (ground / "ladder").glob("model*.gguf"))
    assert [label_of(name) for name in files] == ["Q3_K_M", "Q4_K_M"]
    assert (ground / "ladder" / "ladder.svg").read_text().startswith("<svg")


def test_what_would_waste_hours_is_refused_at_once(ground: Path) -> None:
    plain = ("run", "model-F16.gguf", *SMALL, "--out", "no")
    code = InputError.exit_code
    refused(cerebellum(ground, *plain), code, "isn't the bundled model")
    refused(
        cerebellum(ground, *RUN, "--ladder", "Q2_K,Q4_K_M", "--size", "1MB", "--out", "no"), code, "leave out --size"
    )
    refused(
        cerebellum(ground, *RUN, "--size", "3.0", "--out", "no"), code, "--size 3.0 is 3 bytes", "did you mean 3.0GB?"
    )
    assert not (ground / "no").exists()
