"""The page of a run that goes on: rewritten with time left, replaced by the report, put back or ended where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cerebellum.errors import EngineError, OutputError
from cerebellum.progress import Silent
from cerebellum.report.page import live
from cerebellum.report.page.live import LivePage, is_live
from cerebellum.study.store import Study
from tests.allocation.test_allocation import allocate
from tests.report.pages import HOSTILE, parsed


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def text_of(out: Path) -> str:
    return parsed(out / "report.html").text


def test_it_is_rewritten_now_and_then_with_the_time_left(tmp_path: Path, clock: Clock) -> None:
    with LivePage(Silent(), tmp_path, "model.gguf", clock) as page:
        page.begin("anchors", 10)
        assert "model.gguf: being measured" in text_of(tmp_path) and "anchors : 0 of 10; 0 s so far" in text_of(
            tmp_path
        )
        for _ in range(4):
            clock.now += 5.0
            page.step("one")
        # 4 of 10 in 20 s: 30 s left; and the version of the fourth step is due, those between the versions aren't
        assert "anchors : 4 of 10, 30 s left in this step; 20 s so far" in text_of(tmp_path)
        before = (tmp_path / "report.html").read_bytes()
        clock.now += 1.0
        page.step("two")
        assert (tmp_path / "report.html").read_bytes() == before
        shown = parsed(before.decode())
        refresh = [value for tag, key, value in shown.attributes if (tag, key, value) == ("meta", "content", "10")]
        assert refresh and "report" not in shown.policy
    assert "It ended before there was a report." in text_of(tmp_path)
    ended = parsed(tmp_path / "report.html")
    assert not any(value == "refresh" for _, _, value in ended.attributes)


def test_it_is_there_while_a_job_runs_and_the_report_takes_its_place(
    ground: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """The figures so far are the study's; after the end the page is the report alone."""
    monkeypatch.setattr(live, "EVERY", 0.1)
    seen: list[str] = []

    class Watcher(Silent):
        def step(self, what: str = "") -> None:
            if (tmp_path / "out" / "report.html").exists() and len(seen) < 400:
                seen.append(text_of(tmp_path / "out"))

    for name in ("model-F16.gguf", "text.txt"):
        shutil.copy(ground / name, tmp_path)
    allocate(tmp_path / "model-F16.gguf", progress=Watcher(), n_shuffled=1, refine=False)
    assert "being measured" in seen[0] and any("left in this step" in page for page in seen)
    assert any("Measured so far" in page and "Means over the chunks measured so far" in page for page in seen)
    final = (tmp_path / "out" / "report.html").read_bytes()
    assert not is_live(final) and "Predicted against measured" in final.decode()


def test_figures_so_far_are_the_means_of_the_sums(ground: Path) -> None:
    with Study.open(ground / "out" / "study.sqlite", read_only=True) as study:
        newest, *_ = study.progressed(5)
        rows = study._rows("SELECT id FROM trial WHERE label = ? ORDER BY id DESC", newest.label)
        scores = study.scores(rows[0][0]).values()
        assert newest.n_chunks == len(scores) > 0 and len(study.progressed(5)) == 5
        assert newest.kld == pytest.approx(sum(s.kld or 0.0 for s in scores) / sum(s.n_tokens for s in scores))


def test_a_finished_page_comes_back_where_the_next_run_fails(ground: Path, tmp_path: Path, clock: Clock) -> None:
    finished = (ground / "out" / "report.html").read_bytes()
    (tmp_path / "report.html").write_bytes(finished)
    with pytest.raises(EngineError), LivePage(Silent(), tmp_path, "m.gguf", clock) as page:
        page.begin("anchors", 10)
        assert is_live((tmp_path / "report.html").read_bytes())
        raise EngineError("died")
    assert (tmp_path / "report.html").read_bytes() == finished


def test_a_report_that_was_published_on_the_way_stays(tmp_path: Path, clock: Clock) -> None:
    """Benchmarks follow a first report: nothing is written over it."""
    with LivePage(Silent(), tmp_path, "m.gguf", clock) as page:
        page.begin("anchors", 10)
        (tmp_path / "report.html").write_text("the report")
        clock.now += 100.0
        page.begin("benchmarks", 10)
    assert (tmp_path / "report.html").read_text() == "the report"


def test_a_stopped_run_says_why_and_a_new_one_begins_anew(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(OutputError), LivePage(Silent(), tmp_path, "m.gguf", clock) as page:
        page.begin("anchors", 10)
        raise OutputError("the disk is full <b>")
    assert "It ended before there was a report: the disk is full <b>" in text_of(tmp_path)
    with pytest.raises(KeyboardInterrupt), LivePage(Silent(), tmp_path, "m.gguf", clock) as page:
        page.begin("anchors", 10)
        raise KeyboardInterrupt
    assert "It was stopped before there was a report." in text_of(tmp_path)


def test_names_and_notes_of_strangers_are_words(tmp_path: Path, clock: Clock) -> None:
    with LivePage(Silent(), tmp_path, HOSTILE[0], clock) as page:
        for words in HOSTILE:
            page.note(words)
        page.begin(HOSTILE[1], 3)
        source = (tmp_path / "report.html").read_text()
    shown = parsed(source)
    assert shown.tags.count("script") == 1 and "img" not in shown.tags and "svg" not in shown.tags
    assert HOSTILE[1] in shown.text


def test_a_page_that_cant_be_written_costs_the_run_nothing(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "report.html").mkdir()
    with LivePage(Silent(), tmp_path, "m.gguf", clock) as page:
        page.begin("anchors", 1)
        page.step()
        page.end()
    with LivePage(Silent(), tmp_path / "missing", "m.gguf", clock) as page:
        page.begin("anchors", 1)
    assert not (tmp_path / "missing").exists()
