"""What a command says of wrong input: in our words, with what to give, wrapped between words on a terminal and on one line elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from cerebellum import bundled
from cerebellum.cli.common import for_stderr
from tests.cli.command import ENVIRONMENT, cerebellum, refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--types", "Q4_KM"), "no type is called 'Q4_KM' (did you mean Q4_K?)"),
        (("--types", "Q6_K,Q4_K_M"), "'Q4_K_M' (Q4_K_M is a file type, a mix of types: its most common one is Q4_K)"),
        (("--only", "fnn_*"), "called 'fnn_*' (did you mean ffn_*?); the roles are"),
        (("--keep", "token_emb=Q8_0"), "called 'token_emb' (did you mean token_embd?)"),
        (("--chunks", "1"), "Invalid value for '--chunks': 1 can't give an interval, which needs chunks to differ. Give 2 or more."),
        (("--calibration-text", bundled.SEARCH_TEXT), "search.txt, which makes the importance matrix, holds 100 % of search.txt"),
    ],
)  # fmt: skip
def test_a_choice_that_names_nothing_is_refused_before_the_model_is_opened(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = cerebellum(tmp_path, "run", bundled.MODEL, *words, "--out", "out")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "opening" not in done.stderr and not (tmp_path / "out").exists()


def test_the_bundled_text_is_named_at_once_where_none_is_given(tmp_path: Path) -> None:
    """Before the types are looked at, which end this command; not with --quiet, and not where a text is named."""
    line = "no --text: measuring on the bundled text (search.txt chooses, report.txt reports); give --text FILE for your own"
    wrong = ("run", bundled.MODEL, "--types", "none", "--out", "out")
    assert cerebellum(tmp_path, *wrong).stderr.startswith(line)
    mine = cerebellum(tmp_path, *wrong, "--report-text", "mine.txt").stderr
    assert mine.startswith("no --text: measuring on the bundled text (search.txt chooses, mine.txt reports);")
    assert "no --text" not in cerebellum(tmp_path, *wrong, "--quiet").stderr
    assert "no --text" not in cerebellum(tmp_path, *wrong, "--text", bundled.SEARCH_TEXT).stderr


def test_a_folder_in_the_models_place_has_no_empty_name(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("once upon a time")
    done = cerebellum(tmp_path, "run", ".", "--text", "text.txt", "--out", "out", "--dry-run")
    refused(done, 2, "can't read the file .: it is a folder; give the .gguf file inside it")
    assert "estimate" not in done.stderr


@pytest.mark.parametrize("content", ["Once upon a time", "[1, 2]", ""])
def test_a_map_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "search.txt").write_text(content)
    done = cerebellum(tmp_path, "plan", "search.txt", "--size", "9MB")
    refused(done, 2, "search.txt is not a sensitivity map: give the sensitivity.json that a run left in its --out")
    assert "line 1" not in done.stderr


WORDS = (
    "cerebellum: error: "
    + "the file /a/long-path/without_blanks/to/copy/model-cerebellum-Q3_K_M.gguf is none of ours " * 3
)


def test_a_message_is_one_line_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert for_stderr(WORDS) == WORDS
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for columns, least in (("80", 80), ("9", 80)):  # a path stays whole, whatever room there is
        monkeypatch.setenv("COLUMNS", columns)
        wrapped = for_stderr(WORDS)
        assert wrapped.split() == WORDS.split() and max(map(len, wrapped.split("\n"))) <= least


def test_on_a_terminal_of_80_columns_nothing_breaks_inside_a_word(tmp_path: Path) -> None:
    """An error of ours and one of click's, as a terminal gets them."""
    for arguments in (("plan", "m" * 70, "--size", "9MB"), ("run", "m.gguf", "--out", "o", "--chunks", "1")):
        ours, theirs = pty.openpty()
        environment = {**ENVIRONMENT, "COLUMNS": "80", "TERM": "dumb"}
        command = [sys.executable, "-m", "cerebellum", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment, stderr=theirs, stdout=theirs, check=False, timeout=120)
        os.close(theirs)
        printed = os.read(ours, 10_000).decode()
        os.close(ours)
        lines = printed.replace("\r", "").split("\n")
        assert max(map(len, lines)) <= 80 and len(lines) > 2, printed
        plain = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert printed.split() == plain.stderr.split()


@pytest.mark.parametrize("group", ["profile", "recipe"])
def test_a_group_without_a_command_prints_its_help(tmp_path: Path, group: str) -> None:
    """As click lays it out: a line a command, none of it an error's paragraph."""
    said = cerebellum(tmp_path, group)
    lines = (said.stdout + said.stderr).splitlines()
    assert "Commands:" in lines and not any(line.startswith("Error") for line in lines)
