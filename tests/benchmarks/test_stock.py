"""Where the stock programs are looked for, and what a test says when they aren't there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks import stock


def put_programs(folder: Path) -> Path:
    """Empty executables where a finished build has its programs."""
    programs = folder / version(stock.PACKAGE) / "build" / "bin"
    programs.mkdir(parents=True)
    for name in stock.TARGETS:
        (programs / name).touch(mode=0o755)
    return programs


def test_nothing_is_found_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache folder gives None, and the reason names the command that builds."""
    monkeypatch.setenv("CEREBELLUM_STOCK", str(tmp_path))
    assert stock.find_stock() is None
    assert stock.BUILD_COMMAND in stock.why_not_built()


def test_an_unfinished_build_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs without the stamp that the end of a build leaves are not used."""
    monkeypatch.setenv("CEREBELLUM_STOCK", str(tmp_path))
    put_programs(tmp_path)
    assert stock.find_stock() is None


def test_a_finished_build_is_found_without_running_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With programs and stamp in place `stock_programs` returns at once, so it can be called by every test."""
    monkeypatch.setenv("CEREBELLUM_STOCK", str(tmp_path))
    programs = put_programs(tmp_path)
    (programs / "built.json").touch()
    assert stock.stock_programs().perplexity == programs / "llama-perplexity"


def test_a_failed_step_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """The message holds the step, the exit code and what the program printed last."""
    with pytest.raises(stock.StockBuildError, match=r"(?s)configure: sh ended with 3.*no such compiler"):
        stock._step("configure", ["sh", "-c", "echo no such compiler; exit 3"], tmp_path)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """No traceback where CMake isn't installed."""
    with pytest.raises(stock.StockBuildError, match="surely-not-installed is not installed"):
        stock._step("configure", ["surely-not-installed"], tmp_path)
