"""Sums of an importance matrix: joined, written in both forms, read back by what quantizes; what it covers."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from cerebellum.domain import Model, Tensor
from cerebellum.errors import ModelFileError, OutputError
from cerebellum.gguf.coverage import coverage_of
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.imatrix_write import read_importance, write_importance
from cerebellum.gguf.importance import Importance, Sums, merged, n_side_by_side
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import NEEDS_IMATRIX
from cerebellum.testing import write_fake_model

DENSE, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"


def sums(values: list[float], counts: list[int]) -> Sums:
    return Sums(np.array(values, np.float32), np.array(counts))


def example() -> Importance:
    """A dense weight of two columns, and three experts of which one saw nothing."""
    entries = {DENSE: sums([4.0, 8.0], [4]), EXPERTS: sums([2.0, 6.0, 0.0, 0.0, 5.0, 10.0], [2, 0, 5])}
    return Importance(entries, ("one.txt", "two.txt"), 4, {"key": "k", "chunks_done": 1})


def written(tmp_path: Path, importance: Importance, name: str) -> Path:
    write_importance(importance, tmp_path / name, tmp_path / "partial")
    assert not (tmp_path / "partial").exists()
    return tmp_path / name


def test_a_gguf_gives_everything_back(tmp_path: Path) -> None:
    path = written(tmp_path, example(), "m.gguf")
    found = read_importance(path, 512)
    assert (found.datasets, found.chunk_size, found.n_chunks, dict(found.origin)) == (
        ("one.txt", "two.txt"), 4, 1, {"key": "k", "chunks_done": 1},
    )  # fmt: skip
    for name, entry in example().entries.items():
        np.testing.assert_array_equal(found.entries[name].values, entry.values)
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
    means = load_imatrix(path).entries
    np.testing.assert_array_equal(means[DENSE], [1.0, 2.0])
    np.testing.assert_array_equal(means[EXPERTS], [1.0, 3.0, 1.0, 1.0, 1.0, 2.0])


def test_the_older_form_is_llama_imatrixs_byte_for_byte(tmp_path: Path) -> None:
    """Each entry: its mean times its chunks, rounded up; an entry without rows is left out; the last text at the end."""
    nothing = {**example().entries, "blk.9.x.weight": sums([0.0], [0])}
    path = written(tmp_path, Importance(nothing, ("one.txt", "two.txt"), 4), "m.dat")

    def entry(name: str, calls: int, values: list[float]) -> bytes:
        return struct.pack(f"<i{len(name)}sii{len(values)}f", len(name), name.encode(), calls, len(values), *values)

    expected = struct.pack("<i", 2) + entry(DENSE, 1, [1.0, 2.0]) + entry(EXPERTS, 2, [2.0, 6.0, 2.0, 2.0, 2.0, 4.0])
    assert path.read_bytes() == expected + struct.pack("<ii7s", 1, 7, b"two.txt")
    np.testing.assert_array_equal(load_imatrix(path).entries[EXPERTS], example().entries[EXPERTS].means())
    assert read_importance(path, 4).entries[DENSE].counts.tolist() == [4]


def test_joining_adds_sums_and_counts_and_spreads_a_single_count() -> None:
    once = Importance({EXPERTS: sums([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [3])}, ("old.dat",), 4)
    both = merged([example(), once], 4)
    assert both.datasets == ("one.txt", "two.txt", "old.dat")
    np.testing.assert_array_equal(both.entries[EXPERTS].values, [3.0, 7.0, 1.0, 1.0, 6.0, 11.0])
    assert both.entries[EXPERTS].counts.tolist() == [5, 3, 8] and both.n_chunks == 2
    with pytest.raises(ValueError, match=DENSE):
        merged([example(), Importance({DENSE: sums([1.0], [1])}, (), 4)], 4)


@pytest.mark.parametrize(("n_ctx", "expected"), [(512, 4), (64, 32), (300, 6), (2048, 1), (4096, 1)])
def test_as_many_chunks_go_side_by_side_as_in_llama_imatrix(n_ctx: int, expected: int) -> None:
    assert n_side_by_side(n_ctx) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    path = written(tmp_path, Importance({DENSE: sums([1.0, value], [4])}, (), 4), "m.gguf")
    with pytest.raises(ModelFileError, match=DENSE):
        read_importance(path, 4)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path, example(), "m.gguf").read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_importance(tmp_path / "cut.gguf", 4)


def test_a_file_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"m\.gguf"):
        write_importance(example(), tmp_path / "file" / "m.gguf", tmp_path / "file" / "p")


def test_gaps_are_named_with_the_types_that_they_cost() -> None:
    """No entry; an expert without and with few rows; 32 dead columns side by side; a name and a size of another model."""
    tensors = (
        Tensor("token_embd.weight", (64, 8), "F16"),
        Tensor(DENSE, (64, 8), "F16"),
        Tensor("blk.0.attn_k.weight", (64, 8), "F16"),
        Tensor("blk.0.attn_v.weight", (64, 8), "F16"),
        Tensor(EXPERTS, (64, 8, 2), "F16"),
    )
    model = Model(Path("m.gguf"), "llama", "m", 1, "F16", 64, tensors, 0, {})
    dead = np.ones(64, np.float32)
    dead[32:] = 0
    entries = {
        DENSE: Sums(np.ones(64, np.float32), np.array([1000])),
        "blk.0.attn_k.weight": Sums(dead, np.array([1000])),
        EXPERTS: Sums(np.ones(128, np.float32), np.array([0, 5])),
        "blk.7.attn_q.weight": Sums(np.ones(64, np.float32), np.array([1])),
    }
    found = coverage_of(Importance(entries, (), 512), model)
    assert found.cannot_have == {
        "token_embd.weight": frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"}),
        "blk.0.attn_k.weight": frozenset({"IQ1_S", "IQ1_M"}),
        "blk.0.attn_v.weight": NEEDS_IMATRIX,
    }
    gap = found.gaps[EXPERTS]
    assert (gap.experts, gap.few, gap.n_experts, gap.zeros) == (1, 1, 2, 0)
    assert DENSE not in found.gaps and found.wrong == ("blk.7.attn_q.weight",)
    text = "\n".join(found.lines())
    for part in ("2 of 5 tensors have no entry", "1 of 2 experts", "32 columns", "blk.7.attn_q.weight"):
        assert part in text, text


def test_a_whole_one_has_no_gap(tmp_path: Path) -> None:
    model = read_model(write_fake_model(tmp_path / "m.gguf", n_blocks=1))
    entries = {t.name: Sums(np.ones(t.row_length, np.float32), np.array([999])) for t in quantizable_tensors(model)}
    found = coverage_of(Importance(entries, (), 512), model)
    assert not found.gaps and not found.lines() and found.n_tensors == len(entries)
