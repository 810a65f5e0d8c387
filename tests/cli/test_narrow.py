"""Tables within 80 columns: nothing breaks inside a word, no line ends in blanks, nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cerebellum.cli.console import NARROW, print_narrow
from cerebellum.report.grids import Grid

words = st.text("abc.→_0123", min_size=1, max_size=34)
cells = st.lists(words, max_size=4).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(cells, cells, cells, cells), min_size=1, max_size=5))
def test_every_word_stays_whole_and_every_line_fits(
    capsys: pytest.CaptureFixture[str], rows: list[tuple[str, str, str, str]]
) -> None:
    print_narrow(Grid("a title", ("tensor", "type", "KLD change", "verdict"), tuple(rows), ("a note",)))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= NARROW and line == line.rstrip() for line in lines)
    printed = " ".join(lines).replace(";", " ").split()
    for row in rows:
        for cell in row:
            assert all(word in printed for word in cell.split()), (cell, lines)


def test_a_long_name_makes_rows_prose(capsys: pytest.CaptureFixture[str]) -> None:
    long = "blk.27.ffn_down_exps_of_a_model_with_long_names.weight"
    print_narrow(Grid("Differences", ("tensor", "first", "second", "why"), ((long, "Q4_K", "Q6_K", long),)))
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1] == long and lines[2].startswith("  first: Q4_K; second: Q6_K; why:") and max(map(len, lines)) <= NARROW
    )


def test_a_table_that_fits_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_narrow(Grid("T", ("set", "size"), (("recipe", "9.16 MB"), ("base", "9.35 MB"))))
    assert capsys.readouterr().out.splitlines()[:4] == ["T", "set     size", "recipe  9.16 MB", "base    9.35 MB"]


def test_long_file_names_wrap_after_their_hyphens_before_rows_become_prose(capsys: pytest.CaptureFixture[str]) -> None:
    """As `compare` shows a file that is named in two columns."""
    ours = "smollm2-cerebellum-Q3_K_M"
    rows = tuple(
        (file, "1", "93.46", "5.45", "127 [39.8, 179]", "75.8", "19.487", f"not shown: {ours}")
        for file in (ours, "base-Q3_K_M")
    )
    print_narrow(Grid("Distance", ("file", "#", "MB", "bits", "KLD", "top %", "PPL", "worth having"), rows))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("file") and max(map(len, lines)) <= NARROW
    assert any(line.startswith("smollm2-") for line in lines) and any(
        line.rstrip().endswith("cerebellum-") for line in lines
    )


def test_a_row_without_a_name_goes_on_with_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    """As `bench` shows a task's base below its file; no line is a lone dash."""
    long = "x" * 50
    print_narrow(Grid("T", ("task", "file", "score"), (("world", long, long), ("", "base", long))))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "world" and [line for line in lines if not line.startswith("  ")] == ["T", "world", ""]
    assert any(line.startswith("  file: base;") for line in lines)
