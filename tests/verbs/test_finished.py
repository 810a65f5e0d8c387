"""A finished result stays: another job in its folder is refused, with what differs, unless it is told to replace it; more is no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.errors import InputError, OutputError
from cerebellum.gguf.labels import label_of
from cerebellum.results.allocation import AllocationLadder
from cerebellum.study.store import Study
from cerebellum.testing import Effect, FakeBackend
from cerebellum.verbs.allocation.ladder import nearest_free
from cerebellum.verbs.finished import FACT, differences
from cerebellum.verbs.recipe_study import recipe_of_study
from tests.allocation.small import Stopped, allocate, effects, options, write_model


def state(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".gguf", ".json", ".md", ".svg", ".txt")}


def test_other_settings_in_a_finished_folder_are_refused_by_name_and_replace_nothing(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    allocate(path)
    before = state(tmp_path / "out")
    (tmp_path / "second.txt").write_text((tmp_path / "text.txt").read_text() + " more")
    changed: dict[str, Any] = {
        "seed": 7,
        "chunks": 10,
        "like": "Q4_K_M",
        "never": "Q5_K",
        "text": tmp_path / "second.txt",
    }
    for name, value in changed.items():
        word = {"like": "--size the size of Q3_K_M, now the size of Q4_K_M", "text": "--text: another file"}
        with pytest.raises(OutputError, match=word.get(name, f"--{name}")) as caught:
            allocate(path, **{name: value})
        assert "--force" in str(caught.value) and "--out" in str(caught.value)
    assert state(tmp_path / "out") == before
    assert allocate(path, workers=2, threads=1).written.path.read_bytes() == before["model-cerebellum-Q3_K_M.gguf"]
    allocate(path, seed=7, force=True)
    with pytest.raises(OutputError, match="--seed 7, now 0"):
        allocate(path)


def test_what_an_interrupted_job_began_is_nobodys_result(tmp_path: Path) -> None:
    """Other settings go on in the folder; a stranger's report in it is not replaced."""
    path = write_model(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        allocate(path, progress=Stopped(20), like="Q4_K_M")
    (tmp_path / "out" / "report.json").write_text("mine")
    with pytest.raises(OutputError, match=r"report\.json is there already"):
        allocate(path)
    assert (tmp_path / "out" / "report.json").read_text() == "mine"
    (tmp_path / "out" / "report.json").unlink()
    assert allocate(path).written.path.exists()


def test_a_choice_after_a_sweep_stays_too(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    swap = TensorType("blk.0.ffn_up.weight", "Q2_K")
    backend = FakeBackend({swap: Effect(nll=-0.01, kld=0.0001)})
    given: dict[str, Any] = {
        "text": tmp_path / "text.txt",
        "ctx": 64,
        "chunks": 6,
        "out": tmp_path / "out",
        "role": "ffn_up",
    }
    api.choose(path, backend=backend, **given)
    before = state(tmp_path / "out")
    with pytest.raises(OutputError, match=r"--allow 0\.05, now 0\.2"):
        api.choose(path, backend=backend, allow=0.2, **given)
    with pytest.raises(OutputError, match="--policy greedy, now allocate"):
        allocate(path, backend)
    assert state(tmp_path / "out") == before
    with Study.open(tmp_path / "out" / "study.sqlite") as study:
        assert study.fact(FACT)["policy"] == "greedy"


def test_more_is_no_other_job() -> None:
    """Benchmarks asked for later, and more sizes of a ladder, replace nothing; fewer would."""
    plain: dict[str, Any] = {"seed": 0, "bench": [], "ladder": ["a"]}
    asked = {**plain, "bench": ["world"], "bench-limit": 5}
    assert differences(plain, plain) == [] and differences(plain, asked) == []
    assert differences(asked, {**asked, "bench": ["world", "arc"]}) == []
    assert differences(asked, plain) == ["--bench world, now not given", "--bench-limit 5, now not given"]
    assert differences(asked, {**asked, "bench-limit": 6}) == ["--bench-limit 5, now 6"]
    assert differences(plain, {**plain, "ladder": ["a", "b"]}) == []
    assert differences({**plain, "ladder": ["a", "b"]}, plain) == ["--ladder a, b, now a"]


# -- ladders -----------------------------------------------------------------------------------------------------------


def ladder(path: Path, sizes: str, **more: Any) -> AllocationLadder:
    given = {name: value for name, value in options(path).items() if name != "like"}
    return api.ladder(path, sizes, backend=FakeBackend(effects(path)), **{**given, **more})


def test_a_size_that_cant_be_had_leaves_the_others_and_is_told(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    found = ladder(path, "Q4_K_M,2kB,Q3_K_M", bench=None)
    assert found.labels == ("Q3_K_M", "Q4_K_M") and len(found.missed) == 1
    (label, why), *_ = found.missed.items()
    assert "2,000 bytes" in why and "smallest file" in why
    page = (tmp_path / "out" / "report.md").read_text()
    assert f"No file for {label}" in page
    assert list(json.loads((tmp_path / "out" / "report.json").read_text())["missed"]) == [label]
    with pytest.raises(InputError, match="smallest file"):
        ladder(path, "1kB,2kB", out=tmp_path / "none")


def test_each_size_of_a_ladder_has_its_own_folder_of_which_a_recipe_can_be_had(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    found = ladder(path, "Q2_K,3.9bpw")
    for label, result in zip(found.labels, found.results, strict=True):
        recipe = recipe_of_study(tmp_path / "out" / label)
        types = result.recipe.types(result.base.model.types)
        assert {str(n): k for n, k in recipe.types.items()} == {n: k for n, k in types.items() if n in recipe.types}
    with pytest.raises(InputError, match=r"a ladder of several files: give the folder of one of them, Q2_K"):
        recipe_of_study(tmp_path / "out")


def test_labels_rise_with_sizes_and_no_two_files_have_one() -> None:
    sizes = {"Q3_K_M": 100, "Q4_K_S": 130, "Q4_K_M": 140, "Q5_K_M": 170, "Q8_0": 300}
    assert nearest_free(sizes, [139, 141]) in (("Q4_K_S", "Q4_K_M"), ("Q4_K_M", "Q5_K_M"))
    labels = nearest_free(sizes, [101, 102, 103])
    assert list(labels) == sorted(labels, key=lambda f: sizes[f]) and len(set(labels)) == 3
    assert all(label_of(f"model-cerebellum-3GB-{label}.gguf") == label for label in sizes)
    with pytest.raises(InputError, match="only 1 labels are left"):
        nearest_free({"Q8_0": 300}, [1, 2])
