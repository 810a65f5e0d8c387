"""Reference rows on disk: as they were, whole or not at all, and damage is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cerebellum.errors import OutputError, StudyError
from cerebellum.llamacpp.trial.sums import join_reference, keeping, slice_reference
from cerebellum.parallel import Threads
from cerebellum.scoring.metrics import ReferenceRows, coded_rows, reference_rows, score_rows
from cerebellum.scoring.reference import COMPLETE_UP_TO, DEFAULT_K, EXACT_BITS, ReferenceStore, default_k


def some_rows(k: int | None) -> ReferenceRows:
    rng = np.random.default_rng(0)
    return reference_rows(rng.standard_normal((9, 40), np.float32), rng.integers(40, size=9), k)


@pytest.mark.parametrize("k", [None, 5])
def test_rows_come_back_as_they_were(tmp_path: Path, k: int | None) -> None:
    """Complete or compact, to the last bit and in the same types; the store travels to another process."""
    store, rows = ReferenceStore(tmp_path / "reference", k), some_rows(k)
    assert not store.has(3)
    store.write(3, rows)
    back = pickle.loads(pickle.dumps(store)).read(3)
    for name in ("logits", "lse", "target_nll", "top", "ids"):
        old, new = getattr(rows, name), getattr(back, name)
        assert (old is None and new is None) or (old.dtype == new.dtype and np.array_equal(old, new))
    logits = np.random.default_rng(1).standard_normal((9, 40), np.float32)
    targets = np.zeros(9, np.int64)
    assert score_rows(3, logits, targets, back) == score_rows(3, logits, targets, rows)
    assert store.has(3) and not store.has(4) and store.n_bytes == store.path(3).stat().st_size
    assert [p.name for p in store.folder.iterdir()] == ["chunk-000003.npz"]


def test_damaged_or_missing_rows_are_named(tmp_path: Path) -> None:
    """Cut short, overwritten or gone: which file, and what to do."""
    store = ReferenceStore(tmp_path, None)
    store.write(0, some_rows(None))
    data = store.path(0).read_bytes()
    for bad in (data[: len(data) // 2], b"", b"PK\3\4" + bytes(100), b"no archive"):
        store.path(0).write_bytes(bad)
        with pytest.raises(StudyError, match=r"chunk-000000\.npz can't be read .*delete the file and run again"):
            store.read(0)
    with pytest.raises(StudyError, match=r"chunk-000001\.npz"):
        store.read(1)


def test_a_folder_that_can_not_be_made_is_an_output_error(tmp_path: Path) -> None:
    """A file in the way."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="can't save reference rows in"):
        ReferenceStore(tmp_path / "file", None).write(0, some_rows(None))


def test_small_vocabularies_are_kept_complete() -> None:
    """Exact where it is cheap."""
    assert default_k(COMPLETE_UP_TO) is None and default_k(COMPLETE_UP_TO + 1) == DEFAULT_K


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_all_words_at_16_bits_are_nearly_exact(tmp_path: Path, spread: float) -> None:
    """Not clamped, however wide the row; a word that is impossible stays so; the rows come back from disk and in slices as they were; and
    a file is next to nothing from itself."""
    rng = np.random.default_rng(3)
    logits = (spread * rng.standard_normal((20, 3000))).astype(np.float32)
    logits[:, 7], logits[:, 8] = -np.inf, -400.0
    trial, targets = (logits + 0.1 * rng.standard_normal(logits.shape)).astype(np.float32), np.zeros(20, np.int64)
    store = ReferenceStore(tmp_path, None, EXACT_BITS)
    store.write(0, coded_rows(logits, targets))
    rows = store.read(0)
    assert rows.logits.dtype == np.uint16 and store.n_bytes < 20 * (2 * 3000 + 40) + 3000
    true = score_rows(0, trial, targets, reference_rows(logits, targets, None))
    found = score_rows(0, trial, targets, rows)
    assert found.kld == pytest.approx(true.kld, rel=1e-3, abs=20 * 1e-5) and found.kld_var == 0.0
    assert (found.dp, found.same_top) == (true.dp, true.same_top)
    assert 0.0 <= (score_rows(0, logits, targets, rows).kld or 0.0) < 20 * 1e-5
    parts = [slice_reference(rows, first, first + 10) for first in (0, 10)]
    joined = join_reference([part for part in parts if part is not None])
    assert score_rows(0, trial, targets, joined, Threads.of(3)) == found


@pytest.mark.parametrize("fit", [0, 1, 2, 3])
def test_rows_are_read_once_while_they_fit(fit: int) -> None:
    """Three chunks, asked for three times each: those that found room are read once, the others each time, and all come back as read."""
    rows, asked = some_rows(5), list[int]()

    def read(chunk: int) -> ReferenceRows:
        asked.append(chunk)
        return rows

    kept = keeping(read, fit * rows.n_bytes + rows.n_bytes // 2)
    assert all(kept(chunk) is rows for _ in range(3) for chunk in (7, 8, 9))
    assert sorted(asked) == sorted([7, 8, 9][:fit] + [7, 8, 9][fit:] * 3)
    assert rows.n_bytes == 9 * (5 * 4 + 5 * 4 + 8 + 8 + 8)
