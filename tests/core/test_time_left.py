"""The time left: by a robust rate, in hours and minutes, and of answers by their tokens."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from cerebellum.cli.console import ConsoleProgress
from cerebellum.progress import clock, seconds_left, seconds_to_write


def test_a_slow_start_says_nothing_of_the_rest() -> None:
    """The first step opens files and compiles for a minute; each later one takes 2 s. By the mean of all, 40 more would take 7 minutes."""
    times = [0.0, 60.0]
    for _ in range(7):
        times.append(times[-1] + 2.0)
    assert seconds_left(times, 40) == pytest.approx(80.0)
    assert seconds_left(times[:4], 40) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(7.31, "7.3 s"), (99.4, "99.4 s"), (99.6, "2 min"), (3540, "59 min"), (3900, "1 h 5 min"), (18416, "5 h 7 min"), (183600, "2 d 3 h")],
)  # fmt: skip
def test_spans_are_said_in_hours_and_minutes(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_answers_are_reckoned_by_tokens() -> None:
    """10 tokens a second. 4 of 20 answers have ended, of 50 tokens each, and 160 tokens are written in others: 16 · 50 - 160 are left."""
    told = [(float(t), 10 * t) for t in range(37)]
    assert told[-1][1] == 4 * 50 + 160
    assert seconds_to_write(told, 200, 4, 16) == pytest.approx(64.0)
    assert seconds_to_write(told, 0, 0, 20) is None and seconds_to_write(told[:3], 50, 1, 19) is None
    assert seconds_to_write(told, 4, 4, 1) == 0.0


def test_lines_show_tokens_before_an_answer_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = ConsoleProgress()
    progress.begin("asking", 4)
    for now in (float(second) for second in range(1, 41)):
        progress.written(10 * int(now), 0)
    progress.step()
    for now in (float(second) for second in range(41, 61)):
        progress.written(10 * int(now), 400)
    progress.end()
    lines = capsys.readouterr().err.splitlines()
    assert "asking: 0 of 4, 110 tokens written" in lines[0] and "left" not in lines[0]
    assert any("asking: 1 of 4, 550 tokens written, 2 min left" in line for line in lines), lines


def test_what_was_stopped_does_not_look_finished(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C and errors pass through the `finally` that ends the work."""
    for n_steps, error in ((3, KeyboardInterrupt), (3, None), (10, KeyboardInterrupt)):
        progress = ConsoleProgress()
        try:
            progress.begin("anchors", 10)
            try:
                for _ in range(n_steps):
                    progress.step()
                if error is not None:
                    raise error
            finally:
                progress.end()
        except KeyboardInterrupt:
            pass
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == [
        "anchors: 3 of 10",
        "anchors: 3 of 10",
        "anchors: 10 of 10",
    ]
    assert [line.endswith(" s, stopped") for line in lines] == [True, False, False]


def test_the_bar_of_a_terminal_says_the_time_left_within_80_columns() -> None:
    """With no comma in front of what the plain lines add to their sentence."""
    progress, drawn = ConsoleProgress(), io.StringIO()
    progress._console, progress._live = Console(file=drawn, force_terminal=True, width=80), True
    progress.begin("anchors of a_model_with_quite_a_long_name-BF16.gguf", 40)
    for number in range(8):
        progress.step(f"blk.{number}.ffn_gate.weight Q2_K")
    assert progress._bar is not None
    progress._bar.refresh()
    progress.end()
    bars = [
        line
        for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue()).replace("\r", "\n").split("\n")
        if "/40" in line
    ]
    assert any(re.search(r"8/40 0:00:0\d 0 s left", line) for line in bars), bars
    assert max(map(len, bars)) <= 80 and not any(" , " in line for line in bars)
