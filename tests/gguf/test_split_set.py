"""Models in several files: what is read is the whole model, what is written is what llama-gguf-split writes, and a set that isn't one
model's is refused before any work."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stock import find_stock, why_not_built
from cerebellum import bundled
from cerebellum.domain import Tensor
from cerebellum.errors import InputError, ModelFileError, OutputError
from cerebellum.gguf.model_file import open_weights, read_model, sha256_model
from cerebellum.gguf.split_file import SplitLimit, joined_bytes, write_set
from cerebellum.gguf.split_set import SplitName
from cerebellum.gguf.vocabulary import token_list
from cerebellum.testing import write_fake_model
from cerebellum.verbs.splitting import split_limit, split_model

LIMIT = SplitLimit(max_bytes=40_000)


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, ...]:
    """A small model in three files, the whole one beside them."""
    return write_set(write_fake_model(tmp_path / "m.gguf"), tmp_path / "m.gguf", LIMIT)


def test_a_set_is_read_as_the_whole_model(tmp_path: Path, shards: tuple[Path, ...]) -> None:
    assert [path.name for path in shards] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    whole, ours = read_model(tmp_path / "m.gguf"), read_model(shards[0])
    assert ours.tensors == whole.tensors and ours.files == shards
    kept = {key: value for key, value in ours.metadata.items() if not key.startswith("split.")}
    assert kept == dict(whole.metadata)
    assert ours.file_bytes == sum(path.stat().st_size for path in shards)
    assert joined_bytes(shards[0]) == whole.file_bytes == joined_bytes(tmp_path / "m.gguf")
    assert sha256_model(shards[0]) == hashlib.sha256(b"".join(path.read_bytes() for path in shards)).hexdigest()


def test_every_tensor_of_the_bundled_model_has_its_bytes(tmp_path: Path) -> None:
    """Also after the set is split again another way."""
    first = write_set(bundled.MODEL, tmp_path / "w.gguf", SplitLimit(max_tensors=50))[0]
    again = write_set(first, tmp_path / "v.gguf", SplitLimit(max_bytes=6_000_000))[0]
    weights = [open_weights(path) for path in (bundled.MODEL, first, again)]
    for tensor in weights[0].model.tensors:
        one, two, three = (source.raw(tensor.name) for source in weights)
        assert np.array_equal(one, two) and np.array_equal(one, three)
    assert token_list(weights[1].model).texts == token_list(weights[0].model).texts
    assert joined_bytes(again) == bundled.MODEL.stat().st_size


@pytest.mark.stock
@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (("--split-max-size", "5M"), split_limit("5M", None)),
        (("--split-max-size", "12M"), split_limit("12M", None)),
        (("--split-max-tensors", "20"), split_limit(None, 20)),
    ],
)
def test_the_files_are_those_of_llama_gguf_split(tmp_path: Path, words: tuple[str, ...], limit: SplitLimit) -> None:
    if (stock := find_stock()) is None:
        pytest.skip(why_not_built())
    subprocess.run([stock.gguf_split, *words, bundled.MODEL, tmp_path / "stock"], check=True, stdout=subprocess.DEVNULL)
    theirs = sorted(tmp_path.glob("stock-*.gguf"))
    ours = write_set(bundled.MODEL, tmp_path / "ours.gguf", limit)
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def set_value(path: Path, key: str, value: int) -> Path:
    """Put another 16-bit number (or the low half of a longer one) behind a key of the file."""
    data = bytearray(path.read_bytes())
    at = data.index(key.encode()) + len(key) + 4
    data[at : at + 2] = struct.pack("<H", value)
    path.write_bytes(data)
    return path


def exchange(first: Path, second: Path) -> Path:
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    return second


def other_model(shard: Path, n_blocks: int) -> Path:
    """Put the file of the same name of another model's set in the place of ``shard``."""
    folder = shard.parent / "other"
    folder.mkdir()
    write_set(write_fake_model(folder / "m.gguf", n_blocks), folder / "m.gguf", LIMIT)
    limit = SplitLimit(max_tensors=-(-len(read_model(folder / "m.gguf").tensors) // 3))
    paths = write_set(folder / "m.gguf", folder / "m.gguf", limit)
    return Path(shutil.copy(paths[int(shard.name[2:7]) - 1], shard))


def gone(path: Path) -> Path:
    return path.rename(path.with_name("elsewhere"))


Spoil = Callable[[Sequence[Path]], object]
FAULTS: dict[str, tuple[Spoil, str]] = {
    "one is missing": (lambda s: gone(s[1]), "m-00002-of-00003.gguf is not there; put all of them into one folder"),
    "two are missing": (lambda s: [gone(p) for p in s[1:]], "m-00002-of-00003.gguf and 1 more are not there"),
    "two are exchanged": (lambda s: exchange(s[1], s[2]), "says that it is part 3, its name that it is part 2: files"),
    "the first is exchanged": (lambda s: exchange(s[0], s[1]), "says that it is part 2, its name that it is part 1"),
    "the second stands for the third": (lambda s: shutil.copy(s[1], s[2]), "says that it is part 2, its name that"),
    "a tensor is there twice": (
        lambda s: (shutil.copy(s[1], s[2]), set_value(s[2], "split.no", 2)),
        r"m-00003-of-00003.gguf is no part of this model: it holds the tensor (\S+), which .*m-00002-of-00003.gguf holds",
    ),
    "another count": (lambda s: set_value(s[1], "split.count", 4), "it says that it is one of 4, .* one of 3; fetch"),
    "a count that its name doesn't have": (lambda s: set_value(s[0], "split.count", 5), "part 1 of a model in 5 files"),
    "a number beyond the count": (lambda s: set_value(s[0], "split.no", 9), "it is part 10 of 3, which can't be"),
    "of more tensors": (lambda s: set_value(s[2], "split.tensors.count", 99), "its model has 99 tensors, that of"),
    "all of more tensors": (
        lambda s: [set_value(p, "split.tensors.count", 99) for p in s],
        "the 3 files of .* hold 26 tensors, where 99 are due",
    ),
    "of a deeper model": (lambda s: other_model(s[1], 6), "its model has 38 tensors, that of"),
    "one is cut": (lambda s: s[2].write_bytes(s[2].read_bytes()[:-40]), "m-00003-of-00003.gguf is truncated"),
    "one is empty": (lambda s: s[2].write_bytes(b""), "m-00003-of-00003.gguf is empty"),
    "one is no GGUF": (lambda s: s[1].write_bytes(b"<html>" * 99), "m-00002-of-00003.gguf is not a GGUF"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_set_that_is_none_is_refused_in_one_message(name: str, shards: tuple[Path, ...]) -> None:
    spoil, message = FAULTS[name]
    spoil(shards)
    with pytest.raises(ModelFileError, match=message) as error:
        read_model(shards[0])
    assert "\n" not in str(error.value)


def test_a_file_of_another_width_is_refused(tmp_path: Path) -> None:
    """The same names, numbers and counts, of a model of another size: only the shapes tell."""
    roles = ("attn_norm", "ffn_up")
    limit = SplitLimit(max_tensors=4)
    for folder, width in (("one", 256), ("two", 512)):
        (tmp_path / folder).mkdir()
        model = write_fake_model(tmp_path / folder / "m.gguf", width=width, roles=roles)
        write_set(model, model, limit)
    shutil.copy(tmp_path / "two/m-00002-of-00003.gguf", tmp_path / "one/m-00002-of-00003.gguf")
    with pytest.raises(
        ModelFileError,
        match=r"m-00002-of-00003.gguf is no part of this model: its blk.1.attn_norm.weight has the shape",
    ):
        read_model(tmp_path / "one/m-00001-of-00003.gguf")


def test_another_part_than_the_first_names_the_first(shards: tuple[Path, ...]) -> None:
    with pytest.raises(ModelFileError, match=r"is part 3 of 3 of a model; give the first part, m-00001-of-00003.gguf"):
        read_model(shards[2])
    renamed = shards[0].rename(shards[0].with_name("model.gguf"))
    with pytest.raises(ModelFileError, match=r"not called NAME-00001-of-00003.gguf: llama.cpp finds the other files"):
        read_model(renamed)


@given(st.text(alphabet="ab-0129\n", max_size=8), st.integers(1, 99_999), st.integers(1, 99_999))
def test_names_are_read_as_they_are_written(stem: str, a: int, b: int) -> None:
    name = SplitName(stem, min(a, b), max(a, b))
    assert SplitName.parse(str(name)) == name


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 3000), st.integers(1, 9))
def test_groups_keep_order_and_limit(rows: list[int], most: int, count: int) -> None:
    """Nothing is lost, only a tensor alone is larger than the limit, and no two neighbours fit into one file."""
    tensors = [Tensor(f"t{i}", (n * 8,), "F32") for i, n in enumerate(rows)]
    for limit in (SplitLimit(max_bytes=most), SplitLimit(max_tensors=count)):
        groups = limit.groups(tensors)
        assert [t for group in groups for t in group] == tensors and all(groups)
        sizes = [sum(t.n_bytes for t in group) for group in groups]
        if limit.max_bytes:
            assert all(size <= most or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
        else:
            assert {len(group) for group in groups[:-1]} <= {count} and len(groups[-1]) <= count
        assert len(groups) * 106 <= limit.most_added(sum(sizes), len(tensors))


def test_no_half_set_is_left_under_its_names(tmp_path: Path) -> None:
    """The second file's name is taken by a folder, which is noticed when the others have theirs."""
    model = write_fake_model(tmp_path / "m.gguf")
    (tmp_path / "m-00002-of-00003.gguf" / "x").mkdir(parents=True)
    with pytest.raises(OutputError, match="can't write"):
        write_set(model, model, LIMIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-00002-of-00003.gguf", "m.gguf"]


def test_what_is_there_is_not_overwritten(tmp_path: Path, shards: tuple[Path, ...]) -> None:
    before = [path.read_bytes() for path in shards]
    with pytest.raises(OutputError, match=r"m-00001-of-00003.gguf exists; --force replaces it"):
        split_model(write_fake_model(tmp_path / "n.gguf"), tmp_path / "m.gguf", LIMIT)
    with pytest.raises(OutputError, match="which this command reads"):
        split_model(shards[0], tmp_path / "m.gguf", LIMIT, force=True)
    assert [path.read_bytes() for path in shards] == before
    with pytest.raises(InputError, match="nothing to split"):
        split_model(shards[0], tmp_path / "n.gguf", SplitLimit(max_bytes=1 << 30))


@pytest.mark.parametrize(
    ("given_size", "given_tensors", "message"),
    [("48X", None, "not a size"), ("0", None, "not a size"), ("1G", 3, "give one of"), (None, 0, "at least 1")],
)
def test_limits_that_are_none(given_size: str | None, given_tensors: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_limit(given_size, given_tensors)
