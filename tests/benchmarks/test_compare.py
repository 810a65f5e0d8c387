"""What the comparisons call the same and what they call different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from benchmarks.compare_kld import FIGURES, figures
from benchmarks.compare_quantize import differences
from benchmarks.running import relative
from benchmarks.stock_output import Statistic


def write(path: Path, weight: float = 1.0, kind: str = "f32", name: str = "small") -> Path:
    """A GGUF of two tensors."""
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    values = np.full((2, 32), weight, np.float32)
    writer.add_tensor("same", np.ones((2, 32), np.float32))
    if kind == "f32":
        writer.add_tensor("changed", values)
    else:
        # As many bytes, another type.
        writer.add_tensor("changed", values.view(np.int32), raw_dtype=GGMLQuantizationType.I32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_equal_files_have_no_differences(tmp_path: Path) -> None:
    """All tensors, keys and bytes are counted and the same."""
    found = differences(write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf"))
    assert found.none
    assert found.same_file
    assert (found.n_tensors, found.n_bytes) == (2, 2 * 2 * 32 * 4)


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    """The tensor whose bytes differ is named, the other isn't."""
    other = write(tmp_path / "b.gguf", weight=np.nextafter(np.float32(1), np.float32(2)))
    found = differences(write(tmp_path / "a.gguf"), other)
    assert found.tensors == ("changed",)
    assert not found.keys
    assert not found.same_file


def test_the_same_bytes_under_another_type_differ(tmp_path: Path) -> None:
    """Bytes alone don't make two tensors the same."""
    found = differences(write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf", kind="i32"))
    assert found.tensors == ("changed",)


def test_metadata_is_compared_by_value(tmp_path: Path) -> None:
    """The key whose value differs is named."""
    found = differences(write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf", name="other"))
    assert found.keys == ("general.name",)


def test_figures_that_only_one_program_gives_are_left_out() -> None:
    """A null in our JSON is no figure."""
    stock = {"Mean KLD": Statistic(0.2, 0.01, 1e-6), "Same top p": Statistic(0.7, 0.01, 1e-5)}
    found = list(figures("file", stock, {FIGURES["Mean KLD"]: 0.201, FIGURES["Same top p"]: None}))
    assert [figure.name for figure in found] == ["Mean KLD"]
    assert found[0].difference == pytest.approx(0.001)


def test_relative_difference_of_zero_is_absolute() -> None:
    """No division by zero where the stock figure is zero."""
    assert relative(3.0, 2.0) == 0.5
    assert relative(1e-3, 0.0) == 1e-3
