"""HellaSwag beside the stock llama-perplexity: its output read, its order repeated, its outcomes equal item by item."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from benchmarks.compare_hellaswag import compare, read_tasks, stock_order
from benchmarks.stock import find_stock, why_not_built
from benchmarks.stock_output import StockOutputError, parse_hellaswag
from cerebellum import bundled

CAPTURED = (Path(__file__).parent / "captured" / "hellaswag.txt").read_text(encoding="utf-8")
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HELLASWAG = DATA / "hellaswag" / "hellaswag_val_full.txt.bz2"
MODELS = {
    "stories260K": DATA / "models" / "stories260K-F32.gguf",
    "babyllama": DATA / "models" / "babyllama-tok361-F32.gguf",
    "bundled": bundled.MODEL,
}


def test_outcomes_follow_from_the_running_accuracy() -> None:
    """As many right ones as the last line says, and each line again from the outcomes."""
    found = parse_hellaswag(CAPTURED, 40)
    assert len(found) == 40
    shares = [100 * sum(found[:n]) / n for n in range(1, 41)]
    for n, share in enumerate(shares, 1):
        assert f"\n{n}\t{share:.8f}%" in CAPTURED


@pytest.mark.parametrize("end", ["\n40\t", "\n17\t", "task\tacc_norm"])
def test_a_lost_line_is_an_error(end: str) -> None:
    """However much of the end is missing, and where there is more than was asked for."""
    with pytest.raises(StockOutputError, match=r"of 40 HellaSwag tasks"):
        parse_hellaswag(CAPTURED[: CAPTURED.index(end)], 40)
    with pytest.raises(StockOutputError, match=r"40 of 39 HellaSwag tasks"):
        parse_hellaswag(CAPTURED, 39)


def test_the_order_takes_each_task_once() -> None:
    """The program's generator is seeded with 1: its first number is 1791095845, which of 10,042 tasks chooses number 4187."""
    assert sorted(stock_order(50)) == list(range(50))
    assert stock_order(10_042)[0] == 1791095845 * 10_042 // 2**32 == 4187


def test_tasks_are_six_lines(tmp_path: Path) -> None:
    """Packed or not; four texts of context and ending."""
    text = "He ran. he\n2\nsat.\nfell.\nstood.\nslept.\nShe\n0\na\nb\nc\nd"
    (tmp_path / "plain.txt").write_text(text)
    (tmp_path / "packed.bz2").write_bytes(bz2.compress(text.encode()))
    first, second = read_tasks(tmp_path / "plain.txt")
    assert read_tasks(tmp_path / "packed.bz2") == [first, second]
    assert (first.right, first.texts[3], second.texts[0]) == (2, "He ran. he slept.", "She a")


@pytest.mark.stock
@pytest.mark.engine
@pytest.mark.skipif(find_stock() is None, reason=why_not_built())
@pytest.mark.skipif(not HELLASWAG.is_file(), reason="no ../shared/data/hellaswag")
@pytest.mark.parametrize("name", MODELS)
def test_each_item_has_the_stock_outcome(name: str) -> None:
    """60 tasks of HellaSwag; a difference would have to be a tie that rounding decides, and there is none among them."""
    outcomes = compare(MODELS[name], read_tasks(HELLASWAG)[:60])
    assert [outcome.ours for outcome in outcomes] == [outcome.stock for outcome in outcomes]
    assert 0 < sum(outcome.ours for outcome in outcomes) < 60
