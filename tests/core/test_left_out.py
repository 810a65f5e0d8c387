"""Entries of the importance matrix that mislead are left out where a race says so, on a fake backend with planted gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.model_file import load_imatrix
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import WeightErrors
from cerebellum.results import RunResult
from cerebellum.testing import Effect, FakeBackend, write_fake_model

MISLED, OTHER = "blk.1.attn_v.weight", "blk.0.attn_q.weight"


@dataclass(frozen=True)
class Misled(FakeBackend):
    """By the search text's importance the bytes of two tensors are better without the matrix. What a file without their entries is like
    shows in the type that the first of them has there."""

    def weight_errors(
        self,
        source: Path,
        imatrix: Path | None,
        wanted: Sequence[tuple[str, Sequence[str]]],
        sampled: int,
        judge: Path | None = None,
    ) -> Iterator[WeightErrors]:
        for found in super().weight_errors(source, imatrix, wanted, sampled, judge):
            is_better = judge is not None and imatrix is None and found.tensor in (MISLED, OTHER)
            share = {MISLED: 0.5, OTHER: 0.9}[found.tensor] if is_better else 1.0
            yield replace(found, errors={kind: share * error for kind, error in found.errors.items()})

    def types(self, source: Path, ftype: str, overrides: Any = (), imatrix: Path | None = None) -> dict[str, str]:
        found = dict(super().types(source, ftype, overrides, imatrix))
        lacks = imatrix is not None and MISLED not in load_imatrix(imatrix).entries
        return {**found, MISLED: "Q4_K"} if lacks else found


def words(n: int, seed: int) -> str:
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 500, n))


def run(folder: Path, with_it: float, without: float, backend: type[FakeBackend] = Misled) -> RunResult:
    """A job whose base is ``with_it`` nats from the reference with the whole matrix."""
    model = write_fake_model(folder / "model.gguf", n_blocks=2)
    (folder / "text.txt").write_text(words(3000, 1))
    effects = {TensorType(MISLED, "Q3_K"): Effect(kld=with_it), TensorType(MISLED, "Q4_K"): Effect(kld=without)}
    given: Any = {
        "text": folder / "text.txt",
        "ctx": 64,
        "n_random": 0,
        "imatrix": "auto",
        "to": "Q5_K",
        "role": "ffn_up",
    }
    return api.choose(model, out=folder / "out", backend=backend(effects), **given)


def test_entries_that_mislead_are_left_out(tmp_path: Path) -> None:
    """The gain that was planted is in the interval; the matrix that is used lacks these entries alone, lies beside the results, and made
    the written file."""
    facts = run(tmp_path, 0.05, 0.02).facts["imatrix"]
    told = facts["left_out"]
    assert told["worse"] == [MISLED, OTHER] and MISLED in told["tensors"]
    assert told["change"]["low"] < -0.03 < told["change"]["high"] < 0 and "left out for" in told["sentence"]
    used, whole = (tmp_path / "out" / name for name in ("imatrix.left-out.gguf", "imatrix.gguf"))
    assert facts["file"] == used.name and facts["sha256"] == sha256_file(used)
    assert told["whole_sha256"] == sha256_file(whole)
    lacking = set(read_importance(whole, 512).entries) - set(read_importance(used, 512).entries)
    assert lacking == set(told["tensors"])
    for name, sums in read_importance(used, 512).entries.items():
        same = read_importance(whole, 512).entries[name]
        assert np.array_equal(sums.values, same.values) and np.array_equal(sums.counts, same.counts)
    assert not list((tmp_path / "out").glob(".left-out*")) and not list((tmp_path / "out").glob(".judge*"))


def test_a_second_call_finds_what_the_first_one_found(tmp_path: Path) -> None:
    first = run(tmp_path, 0.05, 0.02)
    again = run(tmp_path, 0.05, 0.02)
    assert again.facts["imatrix"] == first.facts["imatrix"]


@pytest.mark.parametrize(("with_it", "without"), [(0.02, 0.05), (0.03, 0.03)])
def test_they_are_kept_where_the_race_does_not_say_that_this_is_better(
    tmp_path: Path, with_it: float, without: float
) -> None:
    """A smaller error of weights is a reason to measure, no more."""
    facts = run(tmp_path, with_it, without).facts["imatrix"]
    assert facts["file"] == "imatrix.gguf" and facts["left_out"]["tensors"] == []
    assert facts["left_out"]["change"]["high"] >= 0 and "kept for all" in facts["left_out"]["sentence"]


def test_nothing_is_measured_where_no_tensor_is_better_off_without(tmp_path: Path) -> None:
    told = run(tmp_path, 0.05, 0.02, FakeBackend).facts["imatrix"]["left_out"]
    assert told["worse"] == told["tensors"] == [] and told["change"] is None
