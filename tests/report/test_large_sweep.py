"""A large sweep can be read: summary and picture first, the picture of bounded height, long tables folded, CSV beside the JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cerebellum import api
from cerebellum.cli.run import show_sweep
from cerebellum.domain import TensorType
from cerebellum.report.chart import MOST_ROWS, ROW, Mark, marks_chart
from cerebellum.report.chosen_lines import chosen_lines
from cerebellum.report.rows import csv_text
from cerebellum.testing import Effect, FakeBackend, write_fake_model

BLOCKS, TYPES = 5, ("Q2_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
ROLES = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sweep``: 150 trials and more; ``run``: a choice of a few."""
    ground = tmp_path_factory.mktemp("large")
    (ground / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 12)))
    model = write_fake_model(ground / "model.gguf", BLOCKS)
    plant = {
        TensorType(f"blk.{b}.{role}.weight", kind): Effect(kld=0.001 * (b + 1) / (i + 1))
        for b in range(BLOCKS) for role in ROLES for i, kind in enumerate((*TYPES, "Q3_K"))
    }  # fmt: skip
    given: dict[str, Any] = {"text": ground / "text.txt", "ctx": 64, "chunks": 2, "backend": FakeBackend(plant)}
    api.sweep(model, role="all", to=",".join(TYPES), out=ground / "sweep", **given)
    result = api.choose(model, role="ffn_gate", to="Q2_K", allow=0.5, n_random=2, out=ground / "run", **given)
    (ground / "lines.txt").write_text("\n".join(chosen_lines(result)))
    return ground


def height_of(path: Path) -> float:
    return float(ElementTree.fromstring(path.read_text()).attrib["height"])


def test_the_picture_of_hundreds_of_trials_fits_a_screen(folder: Path) -> None:
    n_rows = len(json.loads((folder / "sweep" / "sweep.json").read_text())["sweep"])
    assert n_rows > 140 and height_of(folder / "sweep" / "sweep.svg") < 110 + ROW * MOST_ROWS
    dots = re.findall('r="3"', (folder / "sweep" / "sweep.svg").read_text())
    assert len(dots) == n_rows


def test_rows_of_many_roles_are_bounded_too() -> None:
    marks = [Mark(f"blk.0.role{i} → Q2_K", (float(i), i - 1.0, i + 1.0), "damages", False) for i in range(500)]
    drawn = marks_chart(marks, True, "note")
    assert float(ElementTree.fromstring(drawn).attrib["height"]) < 110 + ROW * MOST_ROWS
    assert "role499" in drawn and "role100 " not in drawn and "440 rows of smaller changes" in drawn


def test_summary_and_picture_come_before_the_table_which_is_folded(folder: Path) -> None:
    page = (folder / "sweep" / "sweep.md").read_text()
    head, fold, rest = page.partition("<details>")
    assert "trials: " in head and "![the sweep](sweep.svg)" in head and len(head.splitlines()) < 20
    table, _, _ = rest.partition("</details>")
    assert fold and table.count("\n| ") > 140 and "rows</summary>\n\n" in table


def test_the_printed_table_is_sorted_by_gain_a_byte_on_request(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By what the files hold, which stay in the model's order."""
    given: dict[str, Any] = {"text": folder / "text.txt", "ctx": 64, "chunks": 2, "backend": FakeBackend({})}
    result = api.sweep(folder / "model.gguf", role="all", to=",".join(TYPES), out=folder / "sweep", **given)
    capsys.readouterr()
    show_sweep(result, by_gain=True)
    lines = capsys.readouterr().out.splitlines()
    printed = [tuple(line.split()[i] for i in (0, 3)) for line in lines if line.startswith("blk.") and "→" in line]
    rows = list(csv.DictReader(io.StringIO((folder / "sweep" / "sweep.csv").read_text())))
    changes = {id(r): (float(r["kld_change"]), int(r["delta_bytes"])) for r in rows}
    useless = [r for r in rows if min(changes[id(r)]) >= 0]  # more bytes, and no less KL divergence
    rows = sorted((r for r in rows if r not in useless), key=lambda r: changes[id(r)][0] / abs(changes[id(r)][1]))
    rows += sorted(useless, key=lambda r: changes[id(r)][0])
    assert (
        printed == [(r["tensor"].removesuffix(".weight"), r["to_type"]) for r in rows if r["block"]]
        and len(printed) > 100
    )
    assert any("Sorted by gain a byte" in line for line in lines)


def test_a_short_table_is_not_folded(folder: Path) -> None:
    page = (folder / "run" / "report.md").read_text()
    assert "<details>" not in page and page.index("![the sweep]") < page.index("## Result")


def test_the_csv_has_the_figures_of_the_json(folder: Path) -> None:
    for where, name in (("sweep", "sweep.json"), ("run", "report.json")):
        rows = list(csv.DictReader(io.StringIO((folder / where / "sweep.csv").read_text())))
        truth = json.loads((folder / where / name).read_text())["sweep"]
        assert [r["tensor"] for r in rows] == [t["tensor"] for t in truth]
        assert [float(r["kld_change"]) for r in rows] == [t["contrast"]["kld"]["estimate"] for t in truth]
        assert [int(r["delta_bytes"]) for r in rows] == [t["delta_bytes"] for t in truth]


def test_a_hostile_name_is_no_formula() -> None:
    text = csv_text(("a", "b"), [("=1+1\x1b[31m", -0.5), ('@x,"y"', float("inf"))])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[1][0].startswith("'=1+1") and "\x1b" not in text and rows[1][1] == "-0.5" and rows[2][1] == ""


def test_five_lines_of_a_choice_are_in_terminal_report_card_and_page(folder: Path) -> None:
    lines = (folder / "lines.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Size", "KL divergence", "As good as", "Verdict", "Next"]
    assert "% of the base's [" in lines[1]
    report = (folder / "run" / "report.md").read_text()
    assert report.count("\n1. ") == 5 and report.index("1. Size") < report.index("## Result")
    (card,) = (folder / "run").glob("*.card.md")
    for word in ("* Size:", "* KL divergence:", "* As good as:", "* Verdict:", "* Next:"):
        assert word in card.read_text()
    assert json.loads((folder / "run" / "report.json").read_text())["verdict"][:5] == lines
