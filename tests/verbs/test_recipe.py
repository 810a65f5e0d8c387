"""Recipes on real files, through llama.cpp: recipe ↔ override file ↔ GGUF, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cerebellum.errors import InputError, OutputError, OverrideError, RefusedError
from cerebellum.gguf.model_file import read_model
from cerebellum.recipes.recipe import Figure, ModelId
from cerebellum.recipes.toml_form import format_recipe, parse_recipe
from cerebellum.report.recipe import diff_grid
from cerebellum.verbs.recipe import apply_recipe, export_overrides, import_recipe, lint_file, read_recipe
from cerebellum.verbs.recipe_study import import_study
from tests.llamacpp import tiny
from tests.verbs.cached import CachedBackend

pytestmark = pytest.mark.engine

BACKEND = CachedBackend()
#: The first keeps its type under the base too; the counters of attn_v shift.
LINES = "blk.1.attn_v.weight=Q5_K\nblk.0.ffn_down.weight=Q2_K\n"
DIFFERING = {"blk.0.ffn_down.weight": "Q2_K"}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    tiny.llama(folder / "model.gguf")
    (folder / "lines.txt").write_text(LINES)
    recipe = import_recipe(BACKEND, folder / "lines.txt", folder / "model.gguf", "Q3_K_M")
    (folder / "r.toml").write_text(format_recipe(recipe))
    apply_recipe(BACKEND, lint_file(BACKEND, folder / "r.toml", folder / "model.gguf"), folder / "written.gguf")
    return folder


def test_round_trip(ground: Path) -> None:
    """Override file → recipe → GGUF → recipe, and recipe → override file → recipe: the same types all the way."""
    recipe = read_recipe(ground / "r.toml")
    assert recipe.types == DIFFERING
    stock = BACKEND.types(ground / "model.gguf", "Q3_K_M", (), None)
    assert read_model(ground / "written.gguf").types == {**stock, **DIFFERING}
    again = import_recipe(BACKEND, ground / "written.gguf", ground / "model.gguf")
    assert (again.key, again.model) == (recipe.key, recipe.model)
    lines = export_overrides(BACKEND, lint_file(BACKEND, ground / "r.toml", ground / "model.gguf"))
    (ground / "exported.txt").write_text(lines)
    assert import_recipe(BACKEND, ground / "exported.txt", ground / "model.gguf", "Q3_K_M").key == recipe.key


def test_a_difference_tells_what_a_base_may_give_too(ground: Path) -> None:
    """A GGUF names every tensor, its reduced recipe one: the others need not differ."""
    whole, part = read_recipe(ground / "written.gguf"), read_recipe(ground / "r.toml")
    notes = diff_grid(whole, part, ("w.gguf", "r.toml")).notes
    n = len(whole.types) - len(part.types)
    assert f"{n} of them r.toml leaves to its base" in notes[1] and "recipe import w.gguf --model" in notes[1]
    assert len(diff_grid(part, part, ("a", "b")).notes) == 1


def test_a_published_file_is_a_recipe(ground: Path) -> None:
    """A GGUF's whole map, applied to the source, gives the file's tensors again, byte for byte."""
    recipe = import_recipe(BACKEND, ground / "written.gguf")
    assert recipe.complete and recipe.base == "Q3_K_M"
    (ground / "map.toml").write_text(format_recipe(recipe))
    linted = lint_file(BACKEND, ground / "map.toml", ground / "model.gguf")
    assert not linted.errors
    apply_recipe(BACKEND, linted, ground / "again.gguf")
    assert (ground / "again.gguf").read_bytes() == (ground / "written.gguf").read_bytes()
    with pytest.raises(InputError, match="not quantized"):
        import_recipe(BACKEND, ground / "model.gguf")


def test_a_study_gives_its_recipe(ground: Path, tmp_path: Path) -> None:
    """The written file's types, the figures and hashes of the report; a report without a file is refused."""
    shutil.copy(ground / "written.gguf", tmp_path / "w.gguf")
    mean = {"estimate": 0.25, "low": 0.2, "high": None}
    written = {
        "path": "/gone/w.gguf",
        "ftype": "Q3_K_M",
        "sha256": "00",
        "equal_chunks": 24,
        "summary": {"divergence": {"mean": mean}},
    }
    report = {"written": written, "facts": {"build": "b", "imatrix": None, "model": {"sha256": "s"}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = import_study(BACKEND, tmp_path, ground / "model.gguf")
    assert (found.key, found.measured) == (read_recipe(ground / "r.toml").key, Figure(0.25, 0.2))
    assert (found.made_with["source"], "imatrix" in found.made_with) == ("s", False)
    assert "24 chunks" in found.verified
    assert parse_recipe(format_recipe(found), "r") == found
    (tmp_path / "report.json").write_text(json.dumps({"written": None}))
    with pytest.raises(InputError, match="no written file"):
        import_study(BACKEND, tmp_path)


def test_shifts_are_seen_and_held(ground: Path, tmp_path: Path) -> None:
    """Naming blk.0.attn_v puts llama.cpp's count out of step: lint says so, the export holds what shifts."""
    path = tmp_path / "o.txt"
    path.write_text("blk.0.attn_v.weight=Q8_0\n")
    linted = lint_file(BACKEND, path, ground / "model.gguf", "Q3_K_M")
    shifted = [f.tensor for f in linted.findings if f.code == "shifts"]
    assert shifted and not linted.errors
    lines = export_overrides(BACKEND, linted).splitlines()
    assert lines[0] == "blk.0.attn_v.weight=Q8_0"
    assert {line.partition("=")[0] for line in lines[1:]} == set(shifted)


def test_apply_refuses_errors_with_the_line(ground: Path, tmp_path: Path) -> None:
    text = (ground / "r.toml").read_text()
    (tmp_path / "r.toml").write_text(text.replace("blk.0.ffn_down", "blk.7.ffn_down").replace(", depth = 0.0000", ""))
    linted = lint_file(BACKEND, tmp_path / "r.toml", ground / "model.gguf")
    number = next(i for i, line in enumerate(text.splitlines(), 1) if "ffn_down" in line)
    assert [(f.line, f.tensor) for f in linted.errors] == [(number, "blk.7.ffn_down.weight")]
    with pytest.raises(RefusedError, match=f"r.toml: line {number}: blk.7.ffn_down.weight = Q2_K hits no tensor"):
        apply_recipe(BACKEND, linted, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_an_existing_file_is_kept(ground: Path) -> None:
    linted = lint_file(BACKEND, ground / "r.toml", ground / "model.gguf")
    with pytest.raises(OutputError, match="--force"):
        apply_recipe(BACKEND, linted, ground / "written.gguf")
    with pytest.raises(OutputError, match="which this command reads"):
        apply_recipe(BACKEND, linted, ground / "model.gguf", force=True)


def test_a_recipe_of_another_model(ground: Path, tmp_path: Path) -> None:
    tiny.qwen3(tmp_path / "other.gguf")
    linted = lint_file(BACKEND, ground / "r.toml", tmp_path / "other.gguf")
    assert [f.code for f in linted.findings if f.level == "warning" and f.code == "another-model"]


def test_what_an_override_file_needs(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--base"):
        lint_file(BACKEND, ground / "lines.txt", ground / "model.gguf")
    with pytest.raises(InputError, match="--model"):
        import_recipe(BACKEND, ground / "lines.txt")
    with pytest.raises(InputError, match="recipe import"):
        read_recipe(ground / "lines.txt")
    (tmp_path / "bad.txt").write_text("\nfoo\n")
    with pytest.raises(OverrideError, match="line 2"):
        import_recipe(BACKEND, tmp_path / "bad.txt", ground / "model.gguf", "Q3_K_M")
    (tmp_path / "none.txt").write_text("blk.77.x=Q2_K")
    with pytest.raises(OverrideError, match="hits no tensor"):
        import_recipe(BACKEND, tmp_path / "none.txt", ground / "model.gguf", "Q3_K_M")


def test_what_an_import_warns_of(ground: Path, tmp_path: Path) -> None:
    """A line that hits more than it says; a file of another family, whose recipe stays one of that family."""
    (tmp_path / "dots.txt").write_text("output.weight=Q6_K\nattn_v=Q5_K\n")
    told: list[str] = []
    import_recipe(BACKEND, tmp_path / "dots.txt", ground / "model.gguf", "Q3_K_M", warn=told.append)
    assert len(told) == 1 and "dots.txt, line 1: output.weight=Q6_K reads as the tensor output.weight" in told[0]
    told.clear()
    theirs = replace(read_recipe(ground / "written.gguf"), model=ModelId("qwen3", "Theirs", 9))
    (tmp_path / "theirs.toml").write_text(format_recipe(theirs))
    recipe = import_recipe(BACKEND, tmp_path / "theirs.toml", ground / "model.gguf", warn=told.append)
    assert "of the family qwen3" in told[0]
    assert (recipe.model, recipe.types) == (theirs.model, DIFFERING)


def test_a_recipe_knows_its_importance_matrix(ground: Path, tmp_path: Path) -> None:
    text = format_recipe(replace(read_recipe(ground / "r.toml"), made_with={"imatrix": "0" * 64}))
    (tmp_path / "r.toml").write_text(text)
    found = lint_file(BACKEND, tmp_path / "r.toml", ground / "model.gguf").findings
    assert [f.level for f in found if f.code == "another-imatrix"] == ["warning"]
