"""Written files: tensors that are copied, other alignments, what is noted of an importance matrix, and why a write failed."""

from __future__ import annotations

import resource
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from cerebellum.errors import InputError, ModelFileError, OutputError
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.model_file import open_weights, read_model
from cerebellum.llamacpp.process import LlamaBackend
from tests.llamacpp import tiny
from tests.llamacpp.test_exact import importance

pytestmark = pytest.mark.engine

BACKEND = LlamaBackend()
TABLES: dict[str, np.dtype[Any]] = {
    "I8": np.dtype(np.int8), "I16": np.dtype(np.int16), "I32": np.dtype(np.int32), "I64": np.dtype(np.int64), "F64": np.dtype(np.float64),
}  # fmt: skip


def with_tensor(path: Path, values: Any, name: str = "blk.0.ffn_gate_tid2eid.weight") -> Path:
    """A small llama with one more tensor."""
    source = gguf.GGUFReader(tiny.llama(path.with_name("plain.gguf")))
    writer = gguf.GGUFWriter(path, "llama")
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.add_tensor(name, values)
    for field in source.fields.values():
        if field.name.startswith(("llama.", "tokenizer.")):
            value = field.contents()
            kind = field.types[0]
            writer.add_key_value(field.name, value, kind, field.types[1] if kind == gguf.GGUFValueType.ARRAY else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["blk.0.ffn_gate_tid2eid.weight", "blk.0.table"])
@pytest.mark.parametrize("kind", TABLES)
def test_integers_and_doubles_are_copied(kind: str, name: str, tmp_path: Path) -> None:
    """Byte for byte, as stock does; the rest is quantized."""
    values = np.arange(64, dtype=TABLES[kind]).reshape(2, 32)
    source = with_tensor(tmp_path / "source.gguf", values, name)
    assert read_model(source).types[name] == kind
    BACKEND.quantize(source, tmp_path / "out.gguf", "Q4_0")
    written = read_model(tmp_path / "out.gguf")
    assert written.types[name] == kind and written.types["blk.1.ffn_gate.weight"] == "Q4_0"
    assert open_weights(tmp_path / "out.gguf").raw(name).tobytes() == values.tobytes()


def aligned(path: Path, alignment: int) -> Path:
    """A small llama whose tensors begin at multiples of ``alignment`` bytes."""
    source = tiny.llama(path.with_name("plain.gguf"))
    header, weights = read_model(source), open_weights(source)
    data = source.read_bytes()
    first = min(weights.place(t.name)[1] for t in weights.model.tensors)
    table = b"".join(
        _entry(t.name, t.shape, {"F32": 0, "F16": 1}[t.type], o) for t, o in _offsets(header.tensors, alignment)
    )
    start = data.index(struct.pack("<Q", len(header.tensors[0].name)) + header.tensors[0].name.encode())
    n_pairs = struct.unpack_from("<Q", data, 16)[0]
    key = b"general.alignment"
    extra = struct.pack("<Q", len(key)) + key + struct.pack("<II", 4, alignment)
    head = data[:16] + struct.pack("<Q", n_pairs + 1) + data[24:start] + extra + table
    body = bytearray(head + bytes(-len(head) % alignment))
    for tensor in header.tensors:
        body += weights.raw(tensor.name).tobytes()
        body += bytes(-tensor.n_bytes % alignment)
    assert first
    path.write_bytes(body)
    return path


def _offsets(tensors: Any, alignment: int) -> Any:
    at = 0
    for tensor in tensors:
        yield tensor, at
        at += -(-tensor.n_bytes // alignment) * alignment


def _entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    text = name.encode()
    dims = struct.pack(f"<{len(shape)}Q", *shape)
    return struct.pack("<Q", len(text)) + text + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_any_alignment(alignment: int, tmp_path: Path) -> None:
    """Read and measured as the same weights in the usual alignment are; written in that, with what the file then says."""
    from cerebellum import api

    text = tmp_path / "text.txt"
    text.write_text(tiny.text(), encoding="utf-8")
    source, plain = aligned(tmp_path / "source.gguf", alignment), tmp_path / "plain.gguf"
    for path, out in ((source, tmp_path / "a.gguf"), (plain, tmp_path / "b.gguf")):
        BACKEND.quantize(path, out, "Q4_0")
    one, other = (read_model(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert one.metadata["general.alignment"] == 32 and one.types == other.types
    assert all(
        open_weights(one.path).raw(name).tobytes() == open_weights(other.path).raw(name).tobytes() for name in one.types
    )
    assert api.perplexity(source, text, ctx=32, chunks=2, threads=1) == api.perplexity(
        plain, text, ctx=32, chunks=2, threads=1
    )


@pytest.mark.parametrize("form", ["gguf", "legacy"])
def test_what_is_noted_of_an_importance_matrix(form: str, tmp_path: Path) -> None:
    """The four keys of llama-quantize, last and in its order; without a matrix none of them."""
    source = tiny.llama(tmp_path / "source.gguf")
    path = tmp_path / f"imatrix.{form}"
    (tiny.imatrix_gguf if form == "gguf" else tiny.imatrix_legacy)(path, importance(source))
    BACKEND.quantize(source, tmp_path / "out.gguf", "Q4_K_S", (), path)
    found = read_model(tmp_path / "out.gguf").metadata
    assert list(found)[-4:] == [
        f"quantize.imatrix.{name}" for name in ("file", "dataset", "entries_count", "chunks_count")
    ]
    assert found["quantize.imatrix.file"] == str(path)[:127] and found["quantize.imatrix.dataset"] == "made up"
    assert found["quantize.imatrix.entries_count"] == len(load_imatrix(path).entries)
    assert found["quantize.imatrix.chunks_count"] == 2
    BACKEND.quantize(source, tmp_path / "plain.gguf", "Q4_K_S")
    assert not any("imatrix" in key for key in read_model(tmp_path / "plain.gguf").metadata)


def test_the_system_s_words_for_a_write_that_failed(tmp_path: Path) -> None:
    """A bound on file sizes isn't a full disk."""
    source = tiny.llama(tmp_path / "source.gguf")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="File too large") as caught:
            BACKEND.quantize(source, tmp_path / "out.gguf", "Q4_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "disk" not in str(caught.value) and not (tmp_path / "out.gguf").exists()


def test_a_tensor_without_a_weight(tmp_path: Path) -> None:
    """Named, before llama.cpp divides by its rows."""
    source = with_tensor(tmp_path / "source.gguf", np.zeros((0, 32), np.float32), "blk.0.empty.weight")
    with pytest.raises(ModelFileError, match=r"blk\.0\.empty\.weight of shape \(32, 0\)"):
        BACKEND.quantize(source, tmp_path / "out.gguf", "Q4_0")


def test_a_value_too_large_for_a_type(tmp_path: Path) -> None:
    """llama.cpp gives the file up at that tensor; it is named, left as it was, and all else is stored."""
    from cerebellum import api
    from cerebellum.errors import TensorStoreError

    source = tiny.llama(tmp_path / "source.gguf")
    name = "blk.1.ffn_gate.weight"
    path = with_values(source, tmp_path / "large.gguf", name, 3e6)
    with pytest.raises(TensorStoreError, match=rf"{name} can't be stored as Q4_0: its values are too large") as caught:
        BACKEND.quantize(path, tmp_path / "out.gguf", "Q4_0")
    assert (caught.value.tensor, caught.value.kind) == (name, "Q4_0")
    assert not (tmp_path / "out.gguf").exists()
    found = api.quantize(path, "Q4_0", out=tmp_path / "out.gguf")
    assert found.left_out == {name: "its values are too large or not finite for Q4_0"}
    assert found.model.types[name] == "F32" and found.model.types["blk.0.ffn_gate.weight"] == "Q4_0"


def with_values(source: Path, path: Path, name: str, first: float) -> Path:
    """The model with one tensor as F32, its first weight another."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for tensor in reader.tensors:
        values = np.array(tensor.data)
        if tensor.name == name:
            values = values.astype(np.float32)
            values.flat[0] = first
        writer.add_tensor(tensor.name, values)
    for field in reader.fields.values():
        if field.name.startswith(("llama.", "tokenizer.")):
            kind = field.types[0]
            inner = field.types[1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_source_that_changes_while_it_is_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of half the one and half the other appears."""
    from cerebellum.llamacpp import files

    source, quantize = tiny.llama(tmp_path / "model.gguf"), files._run

    def changing(path: Path, out: str, *given: Any, dry_run: bool) -> None:
        quantize(path, out, *given, dry_run=dry_run)
        if not dry_run:
            path.write_bytes(path.read_bytes())

    monkeypatch.setattr(files, "_run", changing)
    with pytest.raises(InputError, match=r"model\.gguf changed while it was used"):
        files.write_file(source, tmp_path / "out.gguf", "Q8_0", (), None)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
