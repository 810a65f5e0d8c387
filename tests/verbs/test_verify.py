"""What `verify` says of a file: untouched, changed by a byte, with edited metadata, from another source or build, truncated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cerebellum.errors import InputError, ModelFileError
from cerebellum.gguf.model_file import open_weights, read_model
from cerebellum.gguf.stamp import PREFIX, joined, stamp, tensor_digests, tensors_key
from cerebellum.keys import sha256_file
from cerebellum.quoting import name
from cerebellum.verbs.provenance import BUILD, DIGESTS, RECIPE, SOURCE, TENSORS
from cerebellum.verbs.recipe import apply_recipe, lint_file
from cerebellum.verbs.verify import IMATRIX_FILE, State, Verified, verify_file
from tests.llamacpp import tiny
from tests.verbs.cached import CachedBackend

pytestmark = pytest.mark.engine

BACKEND = CachedBackend()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    tiny.llama(folder / "model.gguf")
    (folder / "o.txt").write_text("blk.0.attn_v.weight=Q8_0\nblk.2.ffn_up.weight=Q2_K\n")
    linted = lint_file(BACKEND, folder / "o.txt", folder / "model.gguf", "Q3_K_M")
    result = apply_recipe(BACKEND, linted, folder / "written.gguf")
    assert result.sha256 == sha256_file(folder / "written.gguf")
    return folder


@pytest.fixture
def file(ground: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(ground / "written.gguf", tmp_path / "file.gguf"))


def states(found: Verified) -> dict[str, State]:
    return {c.what: c.state for c in found.checks}


def message(found: Verified, what: str) -> str:
    return next(c.message for c in found.checks if c.what == what)


def flip(path: Path, name: str, places: list[int], bit: int = 1) -> None:
    """Flip a bit of some of a tensor's bytes."""
    start = open_weights(path).place(name)[1]
    data = bytearray(path.read_bytes())
    for place in places:
        data[start + place] ^= bit
    path.write_bytes(bytes(data))


def restamp(path: Path, **values: str) -> None:
    """Make the keys agree with the tensors again, as who wants to deceive would, or as another build would have written them."""
    digests = tensor_digests(path)
    carried = {k: v for k, v in read_model(path).metadata.items() if k.startswith(PREFIX)}
    stamp(path, {**carried, TENSORS: tensors_key(digests), DIGESTS: joined(digests), **values})


def test_untouched(ground: Path, file: Path) -> None:
    found = verify_file(BACKEND, file, ground / "model.gguf")
    assert states(found) == dict.fromkeys(("tensors", "source", "rebuild"), State.OK)
    assert "byte for byte" in message(found, "rebuild")
    assert not [p for p in file.parent.iterdir() if p != file]


def test_edited_metadata(ground: Path, file: Path) -> None:
    """Another tool wrote a longer name: other bytes, other offsets, the same tensors."""
    stamp(
        file,
        {**{k: v for k, v in read_model(file).metadata.items() if k.startswith(PREFIX)}, "general.comment": "x" * 999},
    )
    found = verify_file(BACKEND, file, ground / "model.gguf")
    assert set(states(found).values()) == {State.OK}


def test_one_byte_changed(ground: Path, file: Path) -> None:
    flip(file, "blk.2.ffn_up.weight", [5])
    found = verify_file(BACKEND, file)
    assert states(found) == {"tensors": State.FAILED}
    assert "blk.2.ffn_up.weight" in message(found, "tensors")
    restamp(file)
    found = verify_file(BACKEND, file, ground / "model.gguf")
    assert states(found) == {"tensors": State.OK, "source": State.OK, "rebuild": State.FAILED}
    assert message(found, "rebuild").startswith("1 of ")
    assert "blk.2.ffn_up.weight" in message(found, "rebuild")


def test_another_source(ground: Path, file: Path, tmp_path: Path) -> None:
    other = tiny.llama(tmp_path / "other.gguf", seed=1)
    found = verify_file(BACKEND, file, other)
    assert states(found) == {"tensors": State.OK, "source": State.FAILED}
    stamp(file, {})
    found = verify_file(BACKEND, file, other)
    assert states(found) == {"tensors": State.OPEN, "rebuild": State.FAILED}
    stranger = tiny.qwen3(tmp_path / "stranger.gguf")
    assert states(verify_file(BACKEND, file, stranger))["rebuild"] is State.FAILED


def test_another_build(ground: Path, file: Path) -> None:
    """0.2 % of a tensor's quantized values one step away, as another compiler's rounding leaves them: told from tampering by size."""
    name = "blk.1.ffn_up.weight"
    assert read_model(file).types[name] == "Q3_K"
    data = open_weights(file).raw(name)
    blocks = data.size // 110
    chosen = np.random.default_rng(0).choice(blocks * 64, max(1, data.size // 500), replace=False)
    places = [int(110 * (i // 64) + 32 + i % 64) for i in chosen]
    flip(file, name, places)
    restamp(file, **{BUILD: "another build"})
    found = verify_file(BACKEND, file, ground / "model.gguf")
    assert states(found) == {"tensors": State.OK, "source": State.OK, "rebuild": State.OPEN}
    assert "another build's rounding" in message(found, "rebuild")
    restamp(file, **{BUILD: BACKEND.id})
    assert states(verify_file(BACKEND, file, ground / "model.gguf"))["rebuild"] is State.FAILED
    flip(file, name, list(range(2000)), bit=64)
    restamp(file, **{BUILD: "another build"})
    found = verify_file(BACKEND, file, ground / "model.gguf")
    assert "more than another build's rounding" in message(found, "rebuild")


def test_a_block_scale_is_no_rounding(ground: Path, file: Path) -> None:
    """One byte, the high one of a block's scale: few bytes, a large change of the weights."""
    flip(file, "blk.1.ffn_up.weight", [109], bit=32)
    restamp(file, **{BUILD: "another build"})
    assert states(verify_file(BACKEND, file, ground / "model.gguf"))["rebuild"] is State.FAILED


def test_truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match="truncated"):
        verify_file(BACKEND, file)


def test_a_stock_file(ground: Path, tmp_path: Path) -> None:
    """Without keys of ours a rebuild still tells."""
    BACKEND.quantize(ground / "model.gguf", tmp_path / "stock.gguf", "Q4_K_M")
    found = verify_file(BACKEND, tmp_path / "stock.gguf", ground / "model.gguf")
    assert states(found) == {"tensors": State.OPEN, "rebuild": State.OK}


def test_a_study_knows_its_file(file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "report.json").write_text(json.dumps({"written": {"sha256": sha256_file(file)}}))
    assert states(verify_file(BACKEND, file, study=study))["study"] is State.OK
    stamp(file, {k: v for k, v in reversed(list(read_model(file).metadata.items())) if k.startswith(PREFIX)})
    assert states(verify_file(BACKEND, file, study=study))["study"] is State.OPEN
    flip(file, "blk.2.ffn_up.weight", [5])
    assert states(verify_file(BACKEND, file, study=study))["study"] is State.FAILED
    (study / "report.json").write_text("{}")
    with pytest.raises(InputError, match="no written file"):
        verify_file(BACKEND, file, study=study)


def test_a_file_that_says_nothing_of_itself_is_told_what_to_give(ground: Path, file: Path) -> None:
    """Only where nothing was given: with a source the rebuild tells."""
    stamp(file, {})
    advice = "--source MODEL makes it again and compares, --study DIR looks at what a run wrote"
    told = message(verify_file(BACKEND, file), "tensors")
    assert told.endswith(advice) and name(told) == told  # a cell of the table shows it whole
    assert "--source" not in message(verify_file(BACKEND, file, ground / "model.gguf"), "tensors")


def test_tensors_that_are_gone_are_counted(ground: Path, file: Path) -> None:
    """The others are not blamed."""
    digests = tensor_digests(file)
    parts = joined({**digests, "blk.9.ffn_up.weight": "0" * 16})
    restamp(file, **{DIGESTS: parts, TENSORS: "tensors:of one more"})
    n = len(digests)
    assert message(verify_file(BACKEND, file), "tensors").endswith(f"it has {n} tensors, the hashes are of {n + 1}")


def test_keys_that_were_changed(ground: Path, file: Path) -> None:
    """Bytes tell of bytes; the recipe's key tells of recipe and base. Keys of another kind say nothing."""
    restamp(file, **{RECIPE: "recipe:of another"})
    assert states(verify_file(BACKEND, file, ground / "model.gguf"))["recipe"] is State.FAILED
    restamp(file, **{RECIPE: "recipe:of another", BUILD: "another build"})
    assert "recipe" not in states(verify_file(BACKEND, file, ground / "model.gguf"))
    stamp(file, {SOURCE: 7, TENSORS: 7, BUILD: 7})
    assert states(verify_file(BACKEND, file, ground / "model.gguf")) == {"tensors": State.OPEN, "rebuild": State.OK}


def test_what_a_rebuild_needs(ground: Path, file: Path, tmp_path: Path) -> None:
    """A stock file that names its importance matrix is not accused for lacking one; an unquantized file is compared as it is."""
    stamp(file, {IMATRIX_FILE: "their.imatrix"})
    found = verify_file(BACKEND, file, ground / "model.gguf")
    assert states(found)["rebuild"] is State.OPEN and "their.imatrix: give it with" in message(found, "rebuild")
    found = verify_file(BACKEND, ground / "model.gguf", ground / "model.gguf")
    assert states(found)["rebuild"] is State.OK and "very ones" in message(found, "rebuild")
    other = tiny.llama(tmp_path / "other.gguf", seed=1)
    assert states(verify_file(BACKEND, other, ground / "model.gguf"))["rebuild"] is State.OPEN
