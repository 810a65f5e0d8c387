"""Pages of `compare` and of `sweep` alone: the figures on disk, one file without requests, safe with any names."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from cerebellum import api
from cerebellum.errors import InputError
from cerebellum.gguf.model_file import read_model
from cerebellum.report.card_picture import write_picture
from cerebellum.report.page import page_of, read_view, vega
from cerebellum.report.page.live import is_live
from cerebellum.report.reading import view_of
from tests.report.conftest import FILES
from tests.report.pages import HOSTILE, hash_of, parsed

needs_extra = pytest.mark.skipif(not vega.is_available(), reason="the report extra isn't installed")


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_every_file_is_there_with_the_figures_of_the_json(made: Path) -> None:
    report, page = read(made / "compared" / "report.json"), parsed(made / "compared" / "report.html")
    assert [entry["file_bytes"] for entry in report["files"]] == [
        read_model(made / f"world-{kind}.gguf").file_bytes for kind in FILES
    ]
    for entry in report["files"]:
        assert f"{entry['model']}: sha256 {entry['sha256']}" in page.text
        assert f"{entry['file_bytes']:,}" in page.text and f"{entry['bits_per_weight']:.3f}" in page.text
    words = " ".join(cell for cell in page.words if cell.startswith(("yes", "no: ", "not shown: ")))
    assert "no: world-Q2_K.gguf" in words  # planted: Q3_K is larger and worse
    assert "cerebellum compare 'a file.gguf'" in page.text and "Tokens a second" in page.text
    assert all(line.partition(":")[0] in page.text for line in report["verdict"])


@needs_extra
def test_the_charts_have_every_file(made: Path) -> None:
    report, page = read(made / "compared" / "report.json"), parsed(made / "compared" / "report.html")
    truth = {e["model"]: e for e in report["files"]}
    points = page.blocks["spec-frontier"]["datasets"]["rows"]
    assert {f"world-{p['label']}.gguf": p["kld"] for p in points} == {
        name: pytest.approx(1e3 * e["kld"], rel=1e-5) for name, e in truth.items()
    }
    assert {p["label"]: p["series"] for p in points}["Q3_K_M"] == "smaller ones are better"
    cells = {(c["file"], c["role"]): c["types"] for c in page.blocks["spec-roles"]["datasets"]["rows"]}
    for name, entry in truth.items():
        short = name.removeprefix("world-").removesuffix(".gguf")
        own = {role: ", ".join(f"{k} ×{n}" for k, n in kinds.items()) for role, kinds in entry["types"].items()}
        assert {role: types for (file, role), types in cells.items() if file == short} == own
    speeds = {row["file"]: row["x"] for row in page.blocks["spec-speed"]["datasets"]["rows"]}
    assert speeds == {n[6:-5]: pytest.approx(e["speed"]["generation"]["rate"], rel=1e-5) for n, e in truth.items()}


def test_a_sweep_alone_has_its_page(made: Path) -> None:
    report, page = read(made / "swept" / "sweep.json"), parsed(made / "swept" / "sweep.html")
    assert f"{len(report['sweep'])} trials:" in page.text and "Nothing was chosen" in page.text
    assert not (made / "swept" / "report.html").exists()
    for row in report["sweep"]:
        assert f"{row['from_type']} → {row['to_type']}" in page.text
    assert not is_live((made / "swept" / "sweep.html").read_bytes())


@pytest.mark.parametrize(("folder", "stem"), [("compared", "report"), ("swept", "sweep")])
@pytest.mark.parametrize("interactive", [pytest.param(True, marks=needs_extra), False])
def test_nothing_is_fetched_and_no_name_becomes_markup(made: Path, folder: str, stem: str, interactive: bool) -> None:
    report = read(made / folder / f"{stem}.json")
    names = dict(zip(FILES, HOSTILE, strict=False))
    evil = copy.deepcopy(report)
    for entry in evil.get("files", ()):
        entry["model"] = names[entry["model"][6:-5]]
        entry["types"] = {
            f"{role}{words}": kinds for (role, kinds), words in zip(entry["types"].items(), HOSTILE, strict=False)
        }
    for pair in evil.get("pairs", ()):
        pair["file"], pair["less"] = (names[pair[key][6:-5]] for key in ("file", "less"))
    for row in evil.get("sweep", ()):
        row["tensor"], row["role"] = HOSTILE[0], HOSTILE[1]
    if "verdict" in evil:
        evil["verdict"] = [f"File: {words}" for words in HOSTILE]
    evil["facts"]["warnings"], evil["facts"]["reference"]["file"] = list(HOSTILE), HOSTILE[2]
    evil["commands"] = {"cerebellum": HOSTILE[0]}
    tame = json.dumps(evil)
    for number, words in enumerate(HOSTILE):  # the same report with harmless names: the elements must be the same
        tame = tame.replace(json.dumps(words)[1:-1], f"harmless{number}")
    source = page_of(view_of(evil), interactive=interactive)
    page, other = parsed(source), parsed(page_of(view_of(json.loads(tame)), interactive=interactive))
    for tag in ("script", "img", "b", "svg", "meta", "iframe", "link", "li", "td"):
        assert page.tags.count(tag) == other.tags.count(tag)
    assert page.scripts == other.scripts and "onerror=window.hacked=1" in page.text
    assert [hash_of(script) in page.policy for script in page.scripts] == [True] * len(page.scripts)
    assert "default-src 'none'" in page.policy and not re.search("[\u202a-\u202e\u2028\u2029\x1b]", source)


@needs_extra
def test_the_specifications_hold_to_the_schema(made: Path) -> None:
    from cerebellum.report.page.charts import charts

    for folder, stem in (("compared", "report"), ("swept", "sweep")):
        view = read_view(made / folder, stem)
        assert charts(view, check=True) == charts(view) != {}


def test_the_page_is_drawn_again_from_the_json(made: Path) -> None:
    for folder, name in (("compared", "report.html"), ("swept", "sweep.html")):
        page = made / folder / name
        before = page.read_bytes()
        page.unlink()
        assert api.report(made / folder) == (page,) and page.read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files.kld_high", 1e308),
        ("pairs.kld", 10**400),
        ("files", []),
        ("files", [{}]),
        ("pairs", [{}]),
        ("verdict", [1]),
        ("facts", {}),
        ("speed", {"gpu_layers": "x"}),
    ],
)
def test_a_damaged_comparison_is_one_message(made: Path, key: str, value: Any) -> None:
    report = read(made / "compared" / "report.json")
    if "." in key:
        part, key = key.split(".")
        report[part][0][key] = value
    else:
        report[key] = value
    with pytest.raises(InputError, match=r"report\.json is damaged"):
        view_of(report)


@pytest.mark.parametrize("with_extra", [pytest.param(True, marks=needs_extra), False])
def test_a_card_s_picture_is_a_file_beside_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_extra: bool
) -> None:
    """PNG with the extra, else SVG; one of another kind, of an earlier card, doesn't stay."""
    monkeypatch.setattr(vega, "is_available", lambda: with_extra)
    kinds = ("png", "svg") if with_extra else ("svg", "png")
    path, other = (tmp_path / f"a (model).kld.{kind}" for kind in kinds)
    other.write_text("old")
    line, empty = write_picture(read(made / "compared" / "report.json"), tmp_path, "a (model)")
    target = line.removeprefix("![KL divergence against bytes](<").removesuffix(">)")
    assert (unquote(target), empty) == (path.name, "") and not other.exists() and "(" not in target
    start = path.read_bytes()[:24]
    if with_extra:
        assert start[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(start[16:20], "big") > 1000
    else:
        assert "Q3_K_M" in path.read_text() and start.startswith(b"<svg ")


def test_a_chart_that_fails_leaves_the_plain_picture(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(spec: Any) -> bytes:
        raise RuntimeError("no picture today")

    monkeypatch.setattr(vega, "is_available", lambda: True)
    monkeypatch.setattr(vega, "png", broken)
    assert "m.kld.svg" in write_picture(read(made / "compared" / "report.json"), tmp_path, "m")[0]
    assert (tmp_path / "m.kld.svg").is_file()
