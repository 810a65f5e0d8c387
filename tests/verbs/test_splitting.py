"""Jobs from and to models in several files, on the fake backend: the same figures, exact bytes, proofs of the set itself."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.errors import CerebellumError, OutputError, ProofError
from cerebellum.gguf.model_file import read_model, sha256_model
from cerebellum.gguf.split_file import SplitLimit, write_set
from cerebellum.results.allocation import Allocation
from cerebellum.testing import FakeBackend, write_fake_model
from cerebellum.verbs import write
from cerebellum.verbs.verify import verify_file
from tests.allocation.test_allocation import planted


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    return write_fake_model(tmp_path / "model.gguf", 2)


@pytest.fixture
def shards(whole: Path) -> tuple[Path, ...]:
    return write_set(whole, whole, SplitLimit(max_bytes=20_000))


def allocate(path: Path, **more: Any) -> Allocation:
    options = {
        "text": path.parent / "text.txt",
        "ctx": 64,
        "out": path.parent / "out",
        "n_shuffled": 1,
        "refine": False,
        "chunks": 4,
    }
    return api.allocate(path, backend=planted(path), **{**options, "like": "Q3_K_M", **more})


def test_quantizing_a_set_gives_the_file_of_the_whole(tmp_path: Path, whole: Path, shards: tuple[Path, ...]) -> None:
    one = api.quantize(whole, "Q4_K_M", out=tmp_path / "a.gguf", backend=FakeBackend())
    two = api.quantize(shards[0], "Q4_K_M", out=tmp_path / "b.gguf", backend=FakeBackend())
    assert one.model.types == two.model.types and one.model.file_bytes == two.model.file_bytes


def test_a_file_is_written_in_parts_on_request(tmp_path: Path, whole: Path) -> None:
    made = api.quantize(whole, "Q4_K_M", out=tmp_path / "q.gguf", split_max_size=10_000, backend=FakeBackend())
    assert len(made.model.files) > 1 and made.model.path == tmp_path / f"q-00001-of-0000{len(made.model.files)}.gguf"
    assert made.sha256 == sha256_model(made.model.path) and f"in {len(made.model.files)} files" in made.summary()
    assert not (tmp_path / "q.gguf").exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(OutputError, match="--force replaces it"):
        api.quantize(whole, "Q4_K_M", out=tmp_path / "q.gguf", split_max_size=10_000, backend=FakeBackend())
    small = api.quantize(whole, "Q4_K_M", out=tmp_path / "one.gguf", split_max_size="1G", backend=FakeBackend())
    assert small.model.path == tmp_path / "one.gguf"


def test_an_allocation_from_a_set_into_a_set(tmp_path: Path, whole: Path, shards: tuple[Path, ...]) -> None:
    """The bytes of all files stay within those asked for, and the set is what was proven."""
    ours = allocate(shards[0], split_max_size=8_000)
    written = ours.written
    files = read_model(written.path).files
    assert len(files) > 1 and written.path.name.endswith(f"-00001-of-0000{len(files)}.gguf")
    assert written.file_bytes == sum(file.stat().st_size for file in files) <= ours.limit
    assert written.sha256 == sha256_model(written.path) and written.equal_chunks > 0
    card = next((tmp_path / "out").glob("*.card.md")).read_text()
    for file in files:
        assert f"| {file.name} | {file.stat().st_size:,} | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |" in card
    assert "ollama run" not in card
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in names if "unproven" in name or name.endswith(".partial")]
    stem = files[0].name.removesuffix(f"-00001-of-0000{len(files)}.gguf")
    assert {f"{stem}.overrides.txt", f"{stem}.card.md"} <= names and f"{stem}.gguf" not in names
    assert json.loads((tmp_path / "out" / "report.json").read_text())["written"]["sha256"] == written.sha256
    assert "ok" in {
        check.state.value for check in verify_file(FakeBackend(), written.path, study=tmp_path / "out").checks
    }


def test_a_quantized_set_is_its_own_base(tmp_path: Path, whole: Path) -> None:
    """What is written of it is one file: its bytes are planned from the joined size, or the proof of the size fails."""
    made = api.quantize(whole, "Q4_K_M", out=tmp_path / "q.gguf", split_max_size=9_000, backend=FakeBackend())
    result = allocate(made.model.path, like=None, size=made.model.file_bytes - 1_000)
    assert result.written.file_bytes == result.written.path.stat().st_size <= result.limit


def test_a_failed_proof_leaves_no_file_of_the_set(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ProofError("planted")

    monkeypatch.setattr(write, "check_equal", fails)
    with pytest.raises(ProofError, match="planted"):
        allocate(whole, split_max_size=8_000)
    assert not [path.name for path in (tmp_path / "out").iterdir() if "-of-" in path.name or "unproven" in path.name]


def test_the_study_is_of_all_files(tmp_path: Path, shards: tuple[Path, ...]) -> None:
    """Another byte in the last file is another model; the same bytes elsewhere are the same one."""
    allocate(shards[0])
    data = bytearray(shards[2].read_bytes())
    data[-1] ^= 1
    shards[2].write_bytes(data)
    with pytest.raises(CerebellumError, match="with other content"):
        allocate(shards[0])
    data[-1] ^= 1
    (tmp_path / "moved").mkdir()
    for path in shards:
        shutil.move(path, tmp_path / "moved" / path.name)
    (tmp_path / "moved" / shards[2].name).write_bytes(data)
    allocate(tmp_path / "moved" / shards[0].name, text=tmp_path / "text.txt", out=tmp_path / "out")
