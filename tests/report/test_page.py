"""The page: made from report.json alone, whole in one file, safe with any names, the same figures as on disk, quick for a large study."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.errors import InputError
from cerebellum.gguf.model_file import read_model
from cerebellum.report.page import page_of, vega
from cerebellum.report.reading import view_of
from tests.cli.command import cerebellum, refused
from tests.report.pages import BENCH, HOSTILE, VALIDITY, hash_of, hostile, large_allocation, large_sweep, parsed

HAVE_EXTRA = vega.is_available()
needs_extra = pytest.mark.skipif(not HAVE_EXTRA, reason="the report extra (altair, vl-convert-python) isn't installed")
KINDS = ("out", "sweep", "ladder")


def read(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return value


# -- where its figures come from ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_drawn_again_from_the_json_is_the_same_file(ground: Path, kind: str) -> None:
    pages = sorted((ground / kind).rglob("report.html"))
    before = [page.read_bytes() for page in pages]
    drawn = api.report(ground / kind)
    assert sorted(drawn) == pages and drawn[0] == ground / kind / "report.html"
    assert len(pages) == (3 if kind == "ladder" else 1)
    assert [page.read_bytes() for page in pages] == before


@needs_extra
def test_the_heat_map_has_the_types_and_bytes_of_the_file_on_disk(ground: Path) -> None:
    report = read(ground / "out")
    model = read_model(Path(report["written"]["path"]))
    page = parsed(ground / "out" / "report.html")
    rows = page.blocks["spec-types"]["datasets"]["rows"]
    assert {row["tensor"]: row["type"] for row in rows} == {name: model.types[name] for name in report["recipe"]}
    sizes = {t.name: -(-t.n_bytes // 32) * 32 for t in model.tensors}  # with the padding in the file
    assert {row["tensor"]: int(row["size_kb"].replace(",", "")) for row in rows} == {
        row["tensor"]: sizes[row["tensor"]] for row in rows
    }
    megabytes = [row["mb"] for row in page.blocks["spec-bytes"]["datasets"]["rows"] if row["series"] == "Cerebellum"]
    assert sum(megabytes) * 1e6 == pytest.approx(model.file_bytes, rel=1e-5)


@needs_extra
def test_the_first_chart_has_ours_the_stock_ladder_and_the_controls_with_intervals(ground: Path) -> None:
    controls = read(ground / "out")["controls"]
    rows = parsed(ground / "out" / "report.html").blocks["spec-frontier"]["datasets"]["rows"]
    ours = [row for row in rows if row["series"] == "Cerebellum"]
    mean = controls["report"]["rows"][1]["summary"]["divergence"]["mean"]
    assert [[row[k] / 1e3 for k in ("kld", "low", "high")] for row in ours] == [
        [pytest.approx(mean[k], rel=1e-5) for k in ("estimate", "low", "high")]
    ]
    stock = {row["label"]: row["kld"] for row in rows if row["series"] == "stock file"}
    assert stock == {r["ftype"]: pytest.approx(1e3 * r["kld"], rel=1e-5) for r in controls["stock_ladder"]}
    assert Counter(row["series"] for row in rows)["shuffled"] == 3
    assert "weight error alone" in " ".join(row["label"] for row in rows if row["series"] == "control")


def test_the_five_lines_come_first_and_everything_that_is_known_has_its_section(ground: Path) -> None:
    report = read(ground / "out")
    page = parsed(ground / "out" / "report.html").text
    places = [page.index(f"{line.partition(': ')[0]}: {line.partition(': ')[2]}") for line in report["verdict"][:5]]
    titles = (
        "KL divergence against bytes",
        "Types by role and block",
        "Predicted against measured",
        "Where each byte went",
        "Make it again",
    )
    assert sorted(places) == places and places[-1] < min(page.rindex(title) for title in titles)
    assert [page.rindex(title) for title in titles] == sorted(page.rindex(title) for title in titles)
    assert "May perplexity judge here?" not in page and "Benchmarks" not in page
    assert report["commands"]["llama_quantize"] in page and report["written"]["sha256"] in page


@needs_extra
def test_benchmarks_and_the_validity_ladder_are_shown_where_they_were_made(ground: Path) -> None:
    report = read(ground / "sweep") | {"bench": BENCH, "validity": VALIDITY}
    page = parsed(page_of(view_of(report)))
    assert "Two of six pairs are in another order." in page.text and "McNemar's p" in page.text
    lost = [row["n"] for row in page.blocks["spec-flips"]["datasets"]["rows"] if row["series"] == "lost"]
    assert lost == [-7, -7] and len(page.blocks["spec-bench"]["datasets"]["rows"]) == 4
    ladder = page.blocks["spec-validity"]["datasets"]["rows"]
    assert [row["y"] for row in ladder] == pytest.approx([0, 0, 10, 20, 30]) and ladder[1]["high"] == ladder[1]["y"]


@needs_extra
def test_the_sweep_has_every_trial_with_its_interval(ground: Path) -> None:
    report = read(ground / "sweep")
    rows = parsed(ground / "sweep" / "report.html").blocks["spec-sweep"]["datasets"]["rows"]
    truth = {f"{r['tensor']}: {r['from_type']} → {r['to_type']}": r["contrast"]["kld"] for r in report["sweep"]}
    assert {row["label"] for row in rows} == set(truth) and len(rows) == 16
    for row in rows:
        assert [row[k] / 1e3 for k in ("y", "low", "high")] == pytest.approx(
            [truth[row["label"]][k] for k in ("estimate", "low", "high")], rel=1e-5
        )
    chosen = {row["label"].partition(":")[0] for row in rows if row["chosen"]}
    assert chosen == set(report["choice"]["swaps"])


# -- one file, and no request ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interactive", [pytest.param(True, marks=needs_extra), False])
def test_nothing_is_fetched_and_only_our_scripts_may_run(ground: Path, kind: str, interactive: bool) -> None:
    source = page_of(view_of(read(ground / kind)), interactive=interactive)
    page = parsed(source)
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules.keys() == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"].split() == [hash_of(script) for script in page.scripts]
    assert len(page.scripts) == (2 if interactive else 1)
    loading = {"src", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href", "ping"}
    assert [(tag, key) for tag, key, _ in page.attributes if key in loading or key.startswith("on")] == []
    links = {value for _, key, value in page.attributes if key == "href"}
    assert all(re.fullmatch(r"#[a-z]+|[A-Z0-9_]+/report\.html", link) for link in links)
    assert not re.search(r"url\(|@import|expression\(", page.style)
    assert not set(page.tags) & {"iframe", "object", "embed", "link", "base", "img"}


@needs_extra
@pytest.mark.parametrize("kind", KINDS)
def test_the_specifications_hold_to_the_schema(ground: Path, kind: str) -> None:
    from cerebellum.report.page.charts import charts

    view = view_of(read(ground / kind) | ({"bench": BENCH, "validity": VALIDITY} if kind == "sweep" else {}))
    assert charts(view, check=True) == charts(view)


def test_the_javascript_is_made_once_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripts = [f"{vega.NOTICE}{number};{vega.END}" for number in range(3)]
    folders, made = iter([tmp_path, tmp_path, tmp_path, None]), iter(scripts)
    monkeypatch.setattr(vega, "cache_folder", lambda name, here: next(folders))
    monkeypatch.setattr(vega, "_bundle", lambda: next(made))
    javascript = vega.javascript.__wrapped__
    assert [javascript(), javascript()] == [scripts[0], scripts[0]]
    (tmp_path / "vega.js").write_text(scripts[0][:-5])  # damaged
    assert [javascript(), javascript()] == scripts[1:]


@needs_extra
def test_the_javascript_is_under_a_megabyte_and_has_no_end_of_a_script_in_it() -> None:
    script = vega.javascript()
    assert 100_000 < len(script.encode()) < 1_000_000
    assert not re.search("</script|<!--", script, re.IGNORECASE) and "\r" not in script


def test_without_the_extra_words_and_tables_are_the_same_and_pictures_are_plain(ground: Path) -> None:
    view = view_of(read(ground / "out"))
    plain = parsed(page_of(view, interactive=False))
    assert plain.tags.count("svg") == 3 and plain.blocks == {} and "cerebellum[report]" in plain.text
    if HAVE_EXTRA:
        full = parsed(page_of(view, interactive=True))
        assert full.tags.count("td") == plain.tags.count("td") > 100


def test_a_library_that_fails_leaves_a_page_with_plain_pictures(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page comes after hours of work: it isn't lost to a chart."""

    def broken() -> str:
        raise RuntimeError("no <JavaScript> today")

    monkeypatch.setattr(vega, "javascript", broken)
    page = parsed(page_of(view_of(read(ground / "out")), interactive=True))
    assert page.tags.count("svg") == 3
    if HAVE_EXTRA:
        assert "RuntimeError: no <JavaScript> today" in page.text


# -- names of strangers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["out", "sweep"])
@pytest.mark.parametrize("interactive", [pytest.param(True, marks=needs_extra), False])
def test_no_name_becomes_markup(ground: Path, kind: str, interactive: bool) -> None:
    report = read(ground / kind)
    evil = hostile(report)
    tame = copy.deepcopy(evil)
    for words in HOSTILE:  # the same report with harmless names: the elements must be the same
        tame = json.loads(json.dumps(tame).replace(json.dumps(words)[1:-1], "harmless"))
    one, other = (parsed(page_of(view_of(value), interactive=interactive)) for value in (evil, tame))
    kept = {"script", "img", "b", "noscript", "style", "meta", "svg"}
    assert {tag: one.tags.count(tag) for tag in kept} == {tag: other.tags.count(tag) for tag in kept}
    assert one.scripts == other.scripts and "onerror=window.hacked=1" in one.text
    source = page_of(view_of(evil), interactive=interactive)
    assert not re.search("[\u202a-\u202e\u2028\u2029\x1b]", source)


def test_a_label_that_leads_elsewhere_is_no_link_and_nothing_is_written_there(ground: Path, tmp_path: Path) -> None:
    report = read(ground / "ladder")
    report["recipes"][0]["label"], report["recipes"][1]["label"] = "../elsewhere", "javascript:alert(1)//"
    for name in ("elsewhere", "study"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "report.json").write_text((ground / "out" / "report.json").read_text())
    (tmp_path / "study" / "report.json").write_text(json.dumps(report))
    assert api.report(tmp_path / "study") == (tmp_path / "study" / "report.html",)
    links = [value for _, key, value in parsed(tmp_path / "study" / "report.html").attributes if key == "href"]
    assert all(link.startswith("#") for link in links) and not (tmp_path / "elsewhere" / "report.html").exists()


# -- a large study -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "large"), [("out", large_allocation), ("sweep", large_sweep)])
def test_five_hundred_tensors_at_ten_types_are_a_few_megabytes(ground: Path, kind: str, large: Any) -> None:
    source = page_of(view_of(large(read(ground / kind))))
    page = parsed(source)
    assert len(source) < 4_000_000
    assert max(page.tags.count("tr"), 0) < 1200  # the other rows are data
    assert sum(len(rows) for key, rows in page.blocks.items() if key.startswith("table")) > 4700


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_draws_the_page_and_names_it(ground: Path) -> None:
    page = ground / "out" / "report.html"
    page.unlink()
    done = cerebellum(ground, "report", "out")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out/report.html\n", "") and page.is_file()


def test_what_is_no_report_is_refused_in_one_line_and_the_page_stays(ground: Path, tmp_path: Path) -> None:
    report = read(ground / "out")
    (tmp_path / "report.html").write_text("before")
    assert "no such" in refusal(tmp_path, "elsewhere").lower()
    for content, words in [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "no report of an allocation"),
        (json.dumps(report | {"kind": "\x1b[31mx"}), "no report of an allocation"),
        (json.dumps(report | {"format": 99}), "this version reads 1"),
        (json.dumps({k: v for k, v in report.items() if k != "version"}), "repeat the command"),
        (json.dumps(report | {"tensors": [{"name": "x"}]}), "is damaged"),
        (json.dumps(report | {"other_bytes": -1}), "is damaged"),
        (json.dumps(report | {"facts": None}), "is damaged"),
        (json.dumps(report | {"controls": report["controls"] | {"shuffled": {"others": ["x"]}}}), "is damaged"),
        (json.dumps(report).replace('"type": "Q2_K"', '"type": "Q99"'), "is damaged"),
        (json.dumps(report).replace('"estimate": 0.', '"estimate": 1e999, "x": 0.'), "is damaged"),
    ]:
        (tmp_path / "report.json").write_text(content)
        assert words in refusal(tmp_path, ".")
    assert (tmp_path / "report.html").read_text() == "before"


def refusal(folder: Path, *arguments: str) -> str:
    done = cerebellum(folder, "report", *arguments)
    refused(done, InputError.exit_code)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stderr)
    return done.stderr
