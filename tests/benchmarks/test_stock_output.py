"""The parsers, on what the stock llama-perplexity printed for a 260 thousand parameter model on WikiText-2."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from benchmarks.running import CommandFailedError, run_stock
from benchmarks.stock_output import StockOutputError, parse_divergence, parse_perplexity

CAPTURED = Path(__file__).parent / "captured"
PERPLEXITY = (CAPTURED / "perplexity.txt").read_text(encoding="utf-8")
DIVERGENCE = (CAPTURED / "divergence.txt").read_text(encoding="utf-8")
TOO_SHORT = (CAPTURED / "text_too_short.txt").read_text(encoding="utf-8")


def test_final_estimate_and_every_chunk() -> None:
    """The last line, the shape of the run and one running figure a chunk are read."""
    found = parse_perplexity(PERPLEXITY)
    assert (found.perplexity, found.std_error) == (108.8567, 9.48001)
    assert (found.chunks, found.n_ctx) == (12, 256)
    assert len(found.running) == 12
    assert found.running[0] == 84.9127
    assert found.running[-1] == found.perplexity


@pytest.mark.parametrize("output", ["", TOO_SHORT, PERPLEXITY[: PERPLEXITY.index("Final")]])
def test_no_estimate_is_an_error(output: str) -> None:
    """The program ends with exit code 0 on too short a text: silence must not become a number."""
    with pytest.raises(StockOutputError, match="no final estimate"):
        parse_perplexity(output)


def test_every_statistic_is_read() -> None:
    """6 figures of perplexity, 12 of KL divergence, 16 of token probabilities: none lost, none invented."""
    found = parse_divergence(DIVERGENCE)
    assert len(found) == 6 + 12 + 16
    assert sum("KLD" in name for name in found) == 12


@pytest.mark.parametrize(
    ("name", "value", "error", "resolution"),
    [
        ("Mean PPL(Q)", 108.856657, 9.480013, 1e-6),
        ("Cor(ln(PPL(Q)), ln(PPL(base)))", 0.9742, None, 1e-4),
        ("Mean ln(PPL(Q)/PPL(base))", 0.067256, 0.019664, 1e-6),
        ("Mean KLD", 0.149337, 0.005346, 1e-6),
        ("99.9% KLD", 1.997673, None, 1e-6),
        ("Median KLD", 0.084711, None, 1e-6),
        ("0.1% KLD", 0.000085, None, 1e-6),
        ("Mean Δp", -0.00808, 0.00208, 1e-5),
        ("RMS Δp", 0.08139, 0.00478, 1e-5),
        ("Same top p", 0.72441, 0.01145, 1e-5),
    ],
)
def test_statistics(name: str, value: float, error: float | None, resolution: float) -> None:
    """Values as printed, percentages as fractions, and the unit of the last digit for a fair comparison."""
    found = parse_divergence(DIVERGENCE)[name]
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.error == (None if error is None else pytest.approx(error, rel=1e-12))
    assert found.resolution == pytest.approx(resolution)


def test_both_programs_modes_agree_in_the_capture() -> None:
    """The two captures are of the same file and chunks, so the perplexity in both is the same."""
    assert parse_divergence(DIVERGENCE)["Mean PPL(Q)"].value == pytest.approx(
        parse_perplexity(PERPLEXITY).perplexity, abs=5e-5
    )


@pytest.mark.parametrize("end", ["=== Perplexity", "=== KL", "=== Token", "RMS", "Same top p:"])
def test_cut_off_statistics_are_an_error(end: str) -> None:
    """However much of the end is lost, it is noticed."""
    with pytest.raises(StockOutputError, match="no KL divergence statistics"):
        parse_divergence(DIVERGENCE[: DIVERGENCE.index(end)])


def test_a_run_whose_end_was_lost_is_repeated(tmp_path: Path) -> None:
    """The stock program sometimes ends well without its last lines; the same command is then run again."""
    marker, whole = shlex.quote(str(tmp_path / "ran")), shlex.quote(str(CAPTURED / "perplexity.txt"))
    script = f"if [ -e {marker} ]; then cat {whole}; else touch {marker}; head -n 5 {whole}; fi"
    assert run_stock(["sh", "-c", script], parse_perplexity).perplexity == 108.8567


def test_a_program_that_fails_is_not_repeated(tmp_path: Path) -> None:
    """An exit code is an answer; the message names it and shows what was printed."""
    log = tmp_path / "runs"
    command = [sys.executable, "-c", f"open({str(log)!r}, 'a').write('x'); print('no such model'); raise SystemExit(4)"]
    with pytest.raises(CommandFailedError, match=r"ended with 4:\s+no such model"):
        run_stock(command, parse_perplexity)
    assert log.read_text() == "x"
