"""The stock program's HellaSwag, followed task by task."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare_hellaswag import drawn, our_verdicts, parse, split, stock_verdicts
from benchmarks.stock import find_stock, why_not_built
from benchmarks.stock_output import StockOutputError
from cerebellum import bundled
from cerebellum.backend import Settings
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.tasks.local import read_text

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "hellaswag"


def test_verdicts_are_read_from_the_running_share() -> None:
    output = "task\tacc_norm\n1\t0.00000000%\t[0, 1]\n2\t50.00000000%\t[0, 1]\n3\t66.66666667%\t[0, 1]\n"
    assert parse(output, 3) == [False, True, True]
    with pytest.raises(StockOutputError):
        parse(output, 4)


def test_every_task_is_drawn_once_in_an_order_of_its_own() -> None:
    order = drawn(50)
    assert sorted(order) == list(range(50)) and order != sorted(order) and order != drawn(50, seed=2)


def test_texts_are_split_where_they_first_differ() -> None:
    texts = [np.array(t, np.int32) for t in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 7], [1, 2, 3])]
    assert [(c.context.tolist(), c.continuation.tolist()) for c in split(texts)] == [
        ([1, 2], [3, 4]), ([1, 2], [3, 5, 6]), ([1, 2], [7]), ([1, 2], [3]),
    ]  # fmt: skip


@pytest.mark.stock
@pytest.mark.engine
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
@pytest.mark.skipif(find_stock() is None, reason=why_not_built())
def test_the_stock_program_and_ours_agree_on_every_task() -> None:
    text, _, _ = read_text(DATA, "hellaswag_val_full.txt.bz2")
    lines, programs = text.split("\n")[: 6 * 40], find_stock()
    assert programs is not None
    with contextlib.closing(LlamaBackend().respond(bundled.MODEL, Settings(n_threads=2))) as responder:
        assert our_verdicts(responder, lines) == stock_verdicts(programs.perplexity, bundled.MODEL, lines, 2)
