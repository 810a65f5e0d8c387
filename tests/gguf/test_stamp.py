"""Keys of ours in a GGUF: tensors keep their bytes, other tools read the file, hashes survive edits of metadata."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from cerebellum.errors import ModelFileError
from cerebellum.gguf.compare import tensor_differences
from cerebellum.gguf.model_file import open_weights, read_model
from cerebellum.gguf.stamp import Value, changed_tensors, joined, stamp, tensor_digests, tensors_key
from tests.llamacpp import tiny

VALUES: dict[str, Value] = {"cerebellum.version": "0.1", "cerebellum.expected_kld": 0.25, "cerebellum.n": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny.llama(tmp_path / "model.gguf")


def test_stamped(path: Path) -> None:
    """The gguf package reads the same metadata, the new keys, and the same bytes of every tensor."""
    before = read_model(path)
    weights = {t.name: open_weights(path).raw(t.name).tobytes() for t in before.tensors}
    digests = tensor_digests(path)
    stamp(path, VALUES)
    after = read_model(path)
    assert after.metadata == {**before.metadata, **VALUES}
    assert after.tensors == before.tensors
    reader = gguf.GGUFReader(path)
    assert {k: reader.get_field(k).contents() for k in VALUES} == VALUES  # type: ignore[union-attr]
    assert {t.name: np.asarray(t.data).tobytes() for t in reader.tensors} == weights
    assert tensor_digests(path) == digests
    assert not list(path.parent.glob(".*"))


def test_stamped_again(path: Path) -> None:
    """Old keys of ours go, others' stay; the same keys give the same file."""
    stamp(path, VALUES)
    once = path.read_bytes()
    stamp(path, VALUES)
    assert path.read_bytes() == once
    stamp(path, {"cerebellum.base": "Q3_K_M"})
    assert [k for k in read_model(path).metadata if k.startswith("cerebellum.")] == ["cerebellum.base"]


def test_one_changed_byte_is_found(path: Path) -> None:
    digests = tensor_digests(path)
    name = "blk.1.ffn_up.weight"
    weights = open_weights(path)
    where = weights.place(name)[1]
    with path.open("r+b") as file:
        file.seek(where)
        byte = file.read(1)[0]
        file.seek(where)
        file.write(bytes([byte ^ 1]))
    now = tensor_digests(path)
    assert tensors_key(now) != tensors_key(digests)
    assert changed_tensors(now, joined(digests)) == (name,)
    assert changed_tensors(digests, joined(digests)) == ()
    fewer = {n: d for n, d in digests.items() if n != "blk.0.attn_k.weight"}
    assert changed_tensors(fewer, joined(digests)) == ()  # one is gone, and the others are not blamed
    assert changed_tensors(digests, joined(fewer)) == ("blk.0.attn_k.weight",)


def test_truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(ModelFileError, match="truncated"):
        stamp(path, VALUES)
    assert path.read_bytes() == data[:-100]


def test_differences(path: Path, tmp_path: Path) -> None:
    other = tiny.llama(tmp_path / "other.gguf", seed=1)
    assert list(tensor_differences(path, path)) == []
    found = {d.tensor: d for d in tensor_differences(path, other)}
    ours, theirs = (open_weights(p).raw("output.weight") for p in (path, other))
    assert found["output.weight"].n_differing == int((ours != theirs).sum())
    assert found["output.weight"].n_bytes == ours.size
    kind = gguf.GGMLQuantizationType[read_model(path).types["output.weight"]]
    w, v = (gguf.quants.dequantize(np.ascontiguousarray(x), kind).astype(np.float64) for x in (ours, theirs))
    assert found["output.weight"].change == pytest.approx(float(np.linalg.norm(w - v) / np.linalg.norm(v)))
