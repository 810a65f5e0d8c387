"""The file of an allocation says where it comes from: its keys within the bytes asked for, checked as `recipe apply`'s are."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cerebellum import api
from cerebellum.errors import ModelFileError
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.override_file import read_overrides
from cerebellum.gguf.overrides import pairs
from cerebellum.gguf.stamp import PREFIX, grown_by, stamp, tensor_digests
from cerebellum.recipes.recipe import Recipe
from cerebellum.results.allocation import Allocation
from cerebellum.verbs.provenance import BASE, BUILD, DIGESTS, EXPECTED, IMATRIX, RECIPE, SOURCE, TENSORS, blank_keys
from cerebellum.verbs.verify import State, verify_file
from tests.llamacpp import tiny
from tests.verbs.cached import CachedBackend
from tests.verbs.test_verify import flip, message, restamp, states

pytestmark = pytest.mark.engine

BACKEND = CachedBackend()


@dataclass(frozen=True)
class Ground:
    model: Path
    out: Path
    result: Allocation

    @property
    def written(self) -> Path:
        return self.result.written.path

    @property
    def imatrix(self) -> Path:
        (path,) = self.out.glob("*imatrix*.gguf")
        return path


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("run")
    model, text = tiny.llama(folder / "model.gguf"), folder / "text.txt"
    text.write_text(tiny.text(700))
    (folder / "calibration.txt").write_text(tiny.text(400, seed=5))
    result = api.allocate(
        model, text=text, out=folder / "out", like="Q3_K_M", ctx=32, chunks=2, n_shuffled=0, refine=False, threads=1,
        imatrix="auto", calibration_text=folder / "calibration.txt", types="Q2_K,Q3_K,Q4_K,Q5_K", backend=BACKEND,
    )  # fmt: skip
    return Ground(model, folder / "out", result)


@pytest.fixture
def file(ground: Ground, tmp_path: Path) -> Path:
    return Path(shutil.copy(ground.written, tmp_path / "file.gguf"))


def test_the_keys_are_there_and_their_bytes_were_planned(ground: Ground) -> None:
    result, model = ground.result, read_model(ground.written)
    carried = {k: v for k, v in model.metadata.items() if k.startswith(PREFIX)}
    assert carried.keys() == blank_keys(len(model.tensors), "Q3_K_M", BACKEND.id, has_imatrix=True).keys()
    assert carried.keys() == {PREFIX + "version", RECIPE, BASE, BUILD, SOURCE, IMATRIX, TENSORS, DIGESTS, EXPECTED}
    assert carried[BASE] == "Q3_K_M" and carried[BUILD] == BACKEND.id
    stock = BACKEND.types(ground.model, "Q3_K_M", (), ground.imatrix)
    assert carried[RECIPE] == Recipe("Q3_K_M", {n: k for n, k in model.types.items() if stock[n] != k}).key
    mean = result.written.summary.divergence
    assert mean is not None and carried[EXPECTED] == pytest.approx(mean.mean.estimate, rel=1e-9)
    assert ground.written.stat().st_size == result.table.file_bytes(model.types) <= result.limit
    assert result.limit == result.base.model.file_bytes and result.table.extra_bytes > 1000


def test_the_override_file_gives_the_same_tensors_and_no_keys(ground: Ground, tmp_path: Path) -> None:
    """What stock llama-quantize makes of it: every tensor's bytes, every key but ours, and a file shorter by just these."""
    again = tmp_path / "again.gguf"
    lines = pairs(read_overrides(ground.result.written.overrides_path))
    BACKEND.quantize(ground.model, again, "Q3_K_M", lines, ground.imatrix)
    assert tensor_digests(again) == tensor_digests(ground.written)
    ours, theirs = read_model(ground.written).metadata, read_model(again).metadata
    carried = {k: v for k, v in ours.items() if k.startswith(PREFIX)}
    assert {k: v for k, v in ours.items() if k not in carried} == theirs
    assert again.stat().st_size + grown_by(again, carried) == ground.written.stat().st_size
    stamp(again, carried)
    assert again.read_bytes() == ground.written.read_bytes()


def test_untouched(ground: Ground, file: Path) -> None:
    found = verify_file(BACKEND, file, ground.model, ground.out, ground.imatrix)
    assert states(found) == dict.fromkeys(("tensors", "study", "source", "rebuild"), State.OK)
    assert states(verify_file(BACKEND, file, ground.model))["rebuild"] is State.OPEN  # the matrix isn't there


def test_edited_metadata(ground: Ground, file: Path) -> None:
    carried = {k: v for k, v in read_model(file).metadata.items() if k.startswith(PREFIX)}
    stamp(file, {**carried, "general.comment": "x" * 999})
    found = verify_file(BACKEND, file, ground.model, ground.out, ground.imatrix)
    assert states(found) == {"tensors": State.OK, "study": State.OPEN, "source": State.OK, "rebuild": State.OK}


def test_one_byte_changed(ground: Ground, file: Path) -> None:
    flip(file, "blk.2.ffn_up.weight", [5])
    found = verify_file(BACKEND, file, ground.model, ground.out, ground.imatrix)
    assert states(found)["tensors"] is states(found)["study"] is states(found)["rebuild"] is State.FAILED
    assert "blk.2.ffn_up.weight" in message(found, "tensors")


def test_another_source(ground: Ground, file: Path, tmp_path: Path) -> None:
    other = tiny.llama(tmp_path / "other.gguf", seed=1)
    found = verify_file(BACKEND, file, other, None, ground.imatrix)
    assert states(found) == {"tensors": State.OK, "source": State.FAILED}


def test_another_build(ground: Ground, file: Path) -> None:
    """One value of a tensor one step away: the claimed build can't have written it, another one can."""
    flip(file, "blk.1.ffn_up.weight", [40])
    restamp(file)
    assert states(verify_file(BACKEND, file, ground.model, None, ground.imatrix))["rebuild"] is State.FAILED
    restamp(file, **{BUILD: "another build"})
    assert states(verify_file(BACKEND, file, ground.model, None, ground.imatrix))["rebuild"] is State.OPEN


def test_truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match="truncated"):
        verify_file(BACKEND, file)


def test_the_report_names_the_stamped_file(ground: Ground) -> None:
    report = json.loads((ground.out / "report.json").read_text())
    assert report["written"]["file_bytes"] == ground.written.stat().st_size
    assert not [p for p in ground.out.iterdir() if "unproven" in p.name or "partial" in p.name]
