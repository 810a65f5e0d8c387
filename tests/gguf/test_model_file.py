"""Model files and importance matrices: what is read is what was written, and whatever is wrong ends in one clear error."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerebellum.errors import ModelFileError, TensorChoiceError
from cerebellum.gguf.header import LongArray
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.model_file import open_weights, read_model

Arrays = Mapping[str, np.ndarray]
RNG = np.random.default_rng(7)
WEIGHTS: Arrays = {
    "token_embd.weight": RNG.standard_normal((6, 64)).astype(np.float32),
    "blk.0.ffn_gate.weight": RNG.standard_normal((4, 64)).astype(np.float16),
    "blk.1.ffn_gate_exps.weight": RNG.standard_normal((3, 4, 64)).astype(np.float32),
    "output_norm.weight": RNG.standard_normal(64).astype(np.float32),
}


def write_model(path: Path, tensors: Arrays = WEIGHTS, architecture: str | None = "llama", **extra: Any) -> Path:
    """A small GGUF; ``extra``: keys with ``_`` for ``.`` and integer or string values."""
    writer = gguf.GGUFWriter(path, architecture or "")
    writer.add_name("small")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_file_type(1)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(2000)])
    writer.add_array("some.numbers", [1, 2, 3])
    for key, value in extra.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key.replace("_", "."), value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    return finish(writer, path)


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_imatrix(path: Path, sums: Arrays, counts: Arrays, *, metadata: bool = True) -> Path:
    """An importance matrix in the GGUF form."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    if metadata:
        writer.add_array("imatrix.datasets", ["wiki.train", "more.txt"])
        writer.add_uint32("imatrix.chunk_count", 12)
        writer.add_uint32("imatrix.chunk_size", 512)
    for ending, arrays in ((".in_sum2", sums), (".counts", counts)):
        for name, values in arrays.items():
            writer.add_tensor(name + ending, values)
    return finish(writer, path)


def legacy_imatrix(entries: Mapping[str, tuple[int, np.ndarray]], tail: bytes = b"") -> bytes:
    """The .dat form: name → (calls, float32 sums)."""
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
        data += values.astype("<f4").tobytes()
    return data + tail


@pytest.fixture(scope="module")
def shared_data() -> Path:
    folder = Path(os.environ.get("CEREBELLUM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set CEREBELLUM_SHARED_DATA")
    return folder


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("gguf") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("scratch") / "x.gguf"


def test_facts(tmp_path: Path) -> None:
    """Everything a Model says is what the writer put in; long arrays are passed over."""
    model = read_model(write_model(tmp_path / "m.gguf"))
    assert (model.architecture, model.name, model.n_blocks, model.context_length) == ("llama", "small", 2, 128)
    assert model.ftype == "F16"
    assert model.file_bytes == (tmp_path / "m.gguf").stat().st_size
    assert {t.name: t.shape[::-1] for t in model.tensors} == {name: a.shape for name, a in WEIGHTS.items()}
    assert model.types["blk.0.ffn_gate.weight"] == "F16"
    assert model.metadata["some.numbers"] == (1, 2, 3)
    assert model.metadata["tokenizer.ggml.tokens"] == LongArray(8, 2000)


def test_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    """Names, shapes, types, offsets and bytes are those that the `gguf` package's own reader finds."""
    path = write_model(tmp_path / "m.gguf")
    source = open_weights(path)
    theirs = gguf.GGUFReader(path)
    assert [t.name for t in theirs.tensors] == [t.name for t in source.model.tensors]
    for other in theirs.tensors:
        ours = source.tensor(other.name)
        assert (ours.shape, ours.type) == (tuple(int(n) for n in other.shape), other.tensor_type.name)
        assert source.raw(other.name).tobytes() == other.data.tobytes()


def test_weights_are_views(tmp_path: Path) -> None:
    """Raw rows are the stored bytes, experts' rows one after the other, mapped and not copied, and can't be written."""
    source = open_weights(write_model(tmp_path / "m.gguf"))
    for name, values in WEIGHTS.items():
        raw = source.raw(name)
        assert raw.shape == (values.size // 64, 64 * values.itemsize)
        assert raw.tobytes() == values.tobytes()
        assert not raw.flags.writeable and not raw.flags.owndata
    with pytest.raises(TensorChoiceError, match=r"m\.gguf has no tensor nothing"):
        source.raw("nothing")


def test_a_big_vocabulary_is_quick(tmp_path: Path) -> None:
    """A vocabulary of 262,144 entries is passed over in well under a second."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma4")
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(1 << 18)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * (1 << 18))
    writer.add_tensor("token_embd.weight", WEIGHTS["token_embd.weight"])
    finish(writer, tmp_path / "m.gguf")
    start = time.process_time()
    read_model(tmp_path / "m.gguf")
    assert time.process_time() - start < 1.0


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_truncation_is_named(data: st.DataObject, model_bytes: bytes, scratch: Path) -> None:
    """Cut anywhere before the last byte of data, a file is a `ModelFileError` that names it, never a success or another error."""
    n = data.draw(st.integers(0, len(model_bytes) - 1))
    scratch.write_bytes(model_bytes[:n])
    with pytest.raises(ModelFileError, match=r"x\.gguf"):
        read_model(scratch)


def test_cut_data_names_the_tensor(model_bytes: bytes, tmp_path: Path) -> None:
    """Where the data is cut, the first tensor that lacks some is named; without the last byte it is the last."""
    path = tmp_path / "x.gguf"
    path.write_bytes(model_bytes)
    header_only = open_weights(path)
    second = header_only.place("blk.0.ffn_gate.weight")[1]
    for n, name in ((len(model_bytes) - 1, "output_norm.weight"), (second, "blk.0.ffn_gate.weight")):
        path.write_bytes(model_bytes[:n])
        with pytest.raises(ModelFileError, match=rf"truncated: it has {n} bytes, the data of {name} ends at"):
            read_model(path)


@settings(max_examples=400, deadline=2000)
@given(data=st.data())
def test_no_damage_escapes_as_another_error(data: st.DataObject, model_bytes: bytes, scratch: Path) -> None:
    """Bytes of the header overwritten at random: read it, or a `ModelFileError`; never a traceback, never a hang."""
    broken = bytearray(model_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(model_bytes) - sum(a.nbytes for a in WEIGHTS.values())))
        junk = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff" * 8, b"\x09\0\0\0", b"\0" * 8, b"\x01", b"\x80"]))
        broken[at : at + len(junk)] = junk
    scratch.write_bytes(broken)
    try:
        model = read_model(scratch)
    except ModelFileError as error:
        assert "x.gguf" in str(error)
    else:
        assert model.tensors and all(t.n_bytes >= 0 for t in model.tensors)


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


def test_each_defect_says_what_it_is(model_bytes: bytes, tmp_path: Path) -> None:
    """No magic, other versions, unknown types, odd offsets, twice the same name: each message names its problem."""
    name = b"output_norm.weight"
    entry = struct.pack("<Q", len(name)) + name
    n_dims = struct.pack("<I", 1)
    table = model_bytes.index(entry) + len(entry)
    type_at = table + len(n_dims) + 8

    def spliced(at: int, new: bytes) -> bytes:
        return model_bytes[:at] + new + model_bytes[at + len(new) :]

    cases = {
        "is empty": b"",
        "is not a GGUF: it starts with b'GGML'": spliced(0, b"GGML"),
        "is a version 1 GGUF": spliced(4, struct.pack("<I", 1)),
        "is a version 4 GGUF": spliced(4, struct.pack("<I", 4)),
        "is a big-endian GGUF": spliced(4, struct.pack(">I", 3)),
        "inside the number of tensors": model_bytes[:10],
        "has the type number 77": spliced(type_at, struct.pack("<I", 77)),
        "has 9 dimensions": spliced(table, struct.pack("<I", 9)),
        "can't have the shape .* as Q4_K": patched(
            model_bytes, entry + n_dims + struct.pack("<QI", 64, 0), entry + n_dims + struct.pack("<QI", 64, 12)
        ),
        "is said to start at 1,": spliced(type_at + 4, struct.pack("<Q", 1)),
        "is truncated: it ends after": spliced(8, struct.pack("<Q", 1 << 16)),
        r"says that it has 65,537 tensors, where 65,536 is the most": spliced(8, struct.pack("<Q", (1 << 16) + 1)),
        r"says that it has 1,152,921,504,606,846,976 metadata pairs": spliced(16, struct.pack("<Q", 1 << 60)),
        "token_embd.weight is there twice": patched(
            model_bytes, b"\x15\0\0\0\0\0\0\0blk.0.ffn_gate.weight", b"\x11\0\0\0\0\0\0\0token_embd.weight"
        ),
    }
    for message, data in cases.items():
        (tmp_path / "x.gguf").write_bytes(data)
        with pytest.raises(ModelFileError, match=message):
            read_model(tmp_path / "x.gguf")


def test_what_is_no_model_file_at_all(tmp_path: Path) -> None:
    """A missing file, a folder, a split part, an importance matrix, a vocabulary: one clear message each."""
    small = np.ones((2, 32), np.float32)
    cases = {
        "there is no such file": tmp_path / "nothing.gguf",
        "is a folder": tmp_path,
        "is part 1 of a model in 3 files, and is not called": write_model(tmp_path / "split.gguf", split_count=3),
        "is an importance matrix": write_imatrix(tmp_path / "i.gguf", {"a": small}, {"a": np.ones((2, 1), np.float32)}),
        "without general.architecture": write_model(tmp_path / "none.gguf", architecture=None),
        "holds no tensors": write_model(tmp_path / "vocabulary.gguf", tensors={}),
    }
    for message, path in cases.items():
        with pytest.raises(ModelFileError, match=message):
            read_model(path)


def test_shared_models(shared_data: Path) -> None:
    """The small trained models are read whole."""
    for path in sorted((shared_data / "models").glob("*.gguf")):
        model = read_model(path)
        assert (model.architecture, model.n_blocks, len(model.tensors)) == ("llama", 5, 47)
        assert model.types["token_embd.weight"] == "F32"


def test_imatrix_values_are_float32_quotients(tmp_path: Path) -> None:
    """GGUF form: sums over rounded counts in float32, per expert; 1 where an expert was never used; facts kept."""
    sums = RNG.random((3, 64)).astype(np.float32) * 1000
    counts = np.array([[3.5], [0.0], [7.0]], np.float32)
    found = load_imatrix(write_imatrix(tmp_path / "i.gguf", {"e.weight": sums}, {"e.weight": counts}))
    expected = np.concatenate([sums[0] / np.float32(4), np.ones(64, np.float32), sums[2] / np.float32(7)])
    assert found.entries["e.weight"].dtype == np.float32
    assert found.entries["e.weight"].tobytes() == expected.astype(np.float32).tobytes()
    assert (found.datasets, found.n_chunks, len(found.sha256)) == (("wiki.train", "more.txt"), 12, 64)


def test_legacy_imatrix(tmp_path: Path) -> None:
    """The .dat form: sums over calls in float32, untouched where there were none; the tail's chunks and text are optional."""
    values = RNG.random(32).astype(np.float32)
    path = tmp_path / "i.dat"
    tail = struct.pack("<ii", 99, 9) + b"wiki.text"
    path.write_bytes(legacy_imatrix({"a.weight": (7, values), "b.weight": (0, values)}, tail))
    found = load_imatrix(path)
    assert found.entries["a.weight"].tobytes() == (values / np.float32(7)).tobytes()
    assert found.entries["b.weight"].tobytes() == values.tobytes()
    assert (found.datasets, found.n_chunks) == (("wiki.text",), 99)
    path.write_bytes(legacy_imatrix({"a.weight": (7, values)}))
    assert (load_imatrix(path).datasets, load_imatrix(path).n_chunks) == ((), 0)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1 << 12), junk=st.binary(max_size=64))
def test_damaged_imatrix_is_named(cut: int, junk: bytes, tmp_path: Path) -> None:
    """A cut .dat, or any junk, is a `ModelFileError` that names the file."""
    data = legacy_imatrix({f"blk.{i}.weight": (3, np.ones(64, np.float32)) for i in range(3)})
    path = tmp_path / "i.dat"
    for content in (data[: cut % len(data)], b"\xff\xff\xff\x7f" + junk):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"i\.dat"):
            load_imatrix(path)


def test_imatrix_defects(tmp_path: Path) -> None:
    """Values that aren't finite, sums without counts, counts that don't divide, missing metadata: refused by name."""
    good, one = np.ones((1, 32), np.float32), np.ones((1, 1), np.float32)
    bad = good.copy()
    bad[0, 3] = np.inf
    path = tmp_path / "i.gguf"
    cases: list[tuple[str, Arrays, Arrays, bool]] = [
        ("not all finite", {"a": bad}, {"a": one}, True),
        ("counts of a are not all finite", {"a": good}, {"a": one * np.nan}, True),
        (r"no float32 tensor a\.counts", {"a": good}, {}, True),
        (r"no float32 tensor b\.in_sum2", {"a": good}, {"a": one, "b": one}, True),
        ("32 sums for 3 counts", {"a": good}, {"a": np.ones((3, 1), np.float32)}, True),
        ("without imatrix.datasets", {"a": good}, {"a": one}, False),
    ]
    for message, sums, counts, metadata in cases:
        with pytest.raises(ModelFileError, match=message):
            load_imatrix(write_imatrix(path, sums, counts, metadata=metadata))
    (tmp_path / "bad.dat").write_bytes(legacy_imatrix({"a": (1, bad)}))
    with pytest.raises(ModelFileError, match="not all finite"):
        load_imatrix(tmp_path / "bad.dat")
