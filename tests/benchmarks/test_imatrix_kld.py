"""The table of what a matrix is worth: when two figures differ, which types need a matrix, what the same tensors are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from benchmarks.imatrix_kld import Divergence, needs_matrix, same_tensors


def write(path: Path, weight: float, name: str) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_tensor("a.weight", np.full((2, 32), weight, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_same_tensors_may_have_other_metadata(tmp_path: Path) -> None:
    one, renamed, other = write(tmp_path / "1", 1, "a"), write(tmp_path / "2", 1, "b"), write(tmp_path / "3", 2, "a")
    assert same_tensors(one, renamed) and not same_tensors(one, other)


def test_figures_differ_where_their_intervals_share_nothing() -> None:
    assert Divergence(2, 1, 3).is_apart(Divergence(5, 4, 6)) and not Divergence(2, 1, 4).is_apart(Divergence(5, 4, 6))
    assert Divergence(0.00437, 0.0037, 0.00503).cell == "4.37 [3.70, 5.03]"


@pytest.mark.parametrize(
    ("kind", "needs"), [("IQ2_S", True), ("Q2_K_S", True), ("IQ3_XS", True), ("IQ3_S", False), ("Q2_K", False)]
)
def test_types_without_a_file_of_their_own(kind: str, needs: bool) -> None:
    assert needs_matrix(kind) == needs
