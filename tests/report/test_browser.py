"""The page in a real browser, headless: nothing is fetched, no name runs, charts answer to the pointer, tables sort and filter.

Skipped where Chromium or playwright is missing (``apt-get install chromium``; CEREBELLUM_CHROMIUM names another browser of its kind).
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cerebellum.report.page import page_of, vega
from cerebellum.report.reading import view_of
from tests.report.pages import BENCH, VALIDITY, hostile, large_allocation, large_sweep

CHROMIUM = os.environ.get("CEREBELLUM_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not vega.is_available(), reason="the report extra isn't installed"),
]
SLOW = 120_000  # milliseconds that a loaded machine may take


@dataclass
class Opened:
    """A page in the browser, with what it asked for and what went wrong."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def rows(self, section: str, which: int = 0) -> list[list[str]]:
        """The cells of a section's table as they stand."""
        table = self.page.locator(f"#{section} table").nth(which)
        found: list[list[str]] = table.locator("tbody tr").evaluate_all(
            "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
        )
        return found


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of a report (or a source) at a width, in a scheme."""
    contexts = []

    def opened(report: dict[str, Any] | str, width: int = 1100, scheme: str = "light") -> Opened:
        path = tmp_path / "report.html"
        path.write_text(report if isinstance(report, str) else page_of(view_of(report)), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        shown = Opened(context.new_page())
        shown.page.set_default_timeout(SLOW)
        shown.page.on("request", lambda request: shown.requests.append(request.url))
        shown.page.on(
            "console",
            lambda message: shown.errors.append(message.text) if message.type in ("error", "warning") else None,
        )
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.goto(path.as_uri())
        shown.page.wait_for_selector("html[data-ready=yes]", state="attached")
        assert shown.requests == [path.as_uri()] and shown.errors == []
        return shown

    yield opened
    for context in contexts:
        context.close()


def read(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return value


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (768, "dark"), (390, "light"), (390, "dark")])
def test_every_chart_is_drawn_and_the_page_is_no_wider_than_the_window(
    ground: Path, visit: Open, width: int, scheme: str
) -> None:
    shown = visit(read(ground / "sweep") | {"bench": BENCH, "validity": VALIDITY}, width, scheme)
    charts = shown.page.locator("[data-spec]").evaluate_all(
        "all => all.map(e => [e.dataset.spec, e.dataset.drawn, e.querySelectorAll('path').length])"
    )
    assert {name for name, *_ in charts} == {
        f"spec-{key}" for key in "frontier types prediction sweep validity bench flips bytes".split()
    }
    assert all(drawn == "yes" and marks > 3 for _, drawn, marks in charts)
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, back = (shown.page.evaluate(f"getComputedStyle(document.body).{key}") for key in ("color", "backgroundColor"))
    light = [sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) for colour in (ink, back)]
    assert (light[0] < light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 450


def test_hovering_over_a_cell_tells_the_tensor_its_type_bytes_slope_and_damage(ground: Path, visit: Open) -> None:
    report = read(ground / "out")
    shown = visit(report)
    cell = shown.page.locator("#types svg .mark-rect path").first
    cell.scroll_into_view_if_needed()
    cell.hover(force=True)
    tip = shown.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    told = dict(
        tip.locator("tr").evaluate_all("rows => rows.map(r => [r.cells[0].textContent, r.cells[1].textContent])")
    )
    tensor = next(t for t in report["tensors"] if t["name"] == told["tensor"])
    assert (told["type"], told["bytes"]) == (tensor["type"], f"{tensor['bytes']:,}")
    assert float(told["predicted damage"].replace(",", "")) == pytest.approx(1e3 * tensor["damage"], rel=1e-3)
    assert float(told["slope [90 %]"].split(" [")[0]) == pytest.approx(tensor["slope"]["mean"], rel=1e-3)


def test_a_table_sorts_by_number_and_filters_by_words(ground: Path, visit: Open) -> None:
    report = read(ground / "out")
    shown = visit(report)
    shown.page.locator("#types summary").click()
    before = shown.rows("types")
    damage = shown.page.locator("#types th", has_text="predicted damage")
    damage.locator("button").click()
    by_damage = [row[0] for row in shown.rows("types")]
    truth = sorted(report["tensors"], key=lambda t: t["damage"])
    assert (
        by_damage == [t["name"].removesuffix(".weight") for t in truth]
        and damage.get_attribute("aria-sort") == "ascending"
    )
    damage.locator("button").click()
    assert [row[0] for row in shown.rows("types")] == by_damage[::-1]
    shown.page.locator("#types input").fill("FFN_down q2")
    wanted = [t for t in reversed(truth) if t["role"] == "ffn_down" and "Q2" in t["type"] + t["stock_type"]]
    assert [row[0] for row in shown.rows("types")] == [t["name"].removesuffix(".weight") for t in wanted] != []
    assert shown.page.locator("#types output").inner_text() == f"{len(wanted)} of {len(before)} rows"


def test_a_role_of_the_sweep_is_chosen(ground: Path, visit: Open) -> None:
    shown = visit(read(ground / "sweep"))
    marks = shown.page.locator("#sweep svg .mark-symbol path[aria-roledescription=point]")
    first = marks.evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    shown.page.locator("#sweep select").select_option("ffn_up")
    shown.page.wait_for_timeout(300)
    other = marks.evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert len(first) == len(other) == 8 and "ffn_down" in first[0] and all("ffn_up" in label for label in other)


@pytest.mark.parametrize("kind", ["out", "sweep"])
def test_no_hostile_name_runs(ground: Path, visit: Open, kind: str) -> None:
    shown = visit(hostile(read(ground / kind)))
    for summary in shown.page.locator("summary").all():
        summary.click()
    for select in shown.page.locator("select").all():
        select.select_option(index=1)
    for mark in shown.page.locator("#types svg .mark-rect path").all()[:6]:
        mark.hover(force=True)
    assert shown.page.locator("[data-drawn=yes]").count() == shown.page.locator("[data-spec]").count() > 3
    assert shown.page.evaluate("window.hacked === undefined")
    assert shown.page.locator("main img, section img, #vg-tooltip-element img").count() == 0
    assert shown.errors == [] and len(shown.requests) == 1


@pytest.mark.parametrize(("kind", "large"), [("out", large_allocation), ("sweep", large_sweep)])
def test_a_large_study_is_drawn_and_its_table_answers_at_once(ground: Path, visit: Open, kind: str, large: Any) -> None:
    """What is bounded is what grows: elements on the page, and the work of one letter in the filter."""
    shown = visit(large(read(ground / kind)))
    assert shown.page.evaluate("document.querySelectorAll('*').length") < 40_000
    section, role = ("prediction", "blk.7.ffn_up") if kind == "out" else ("sweep", "blk.7.ffn_up")
    shown.page.locator(f"#{section} summary").first.click()
    shown.page.locator(f"#{section} input").last.fill(role)
    rows = shown.rows(section, shown.page.locator(f"#{section} table").count() - 1)
    assert len(rows) == 10 and all(row[0].startswith(role) for row in rows)
    taken = shown.page.evaluate(
        f"""(() => {{ const input = [...document.querySelectorAll('#{section} input')].pop(); const began = performance.now();
        input.value = 'Q2_K'; input.dispatchEvent(new Event('input')); return performance.now() - began; }})()"""
    )
    assert taken < 3000


# -- files compared, and a sweep alone ---------------------------------------------------------------------------------


def compared(made: Path) -> dict[str, Any]:
    """The comparison, with a file that is nearly another: their names must not lie on each other."""
    report = read(made / "compared")
    near = copy.deepcopy(next(e for e in report["files"] if e["model"] == "world-Q4_K_M.gguf"))
    near |= {"model": "world-Q4_K_S.gguf", "kld": 1.05 * near["kld"], "file_bytes": int(0.99 * near["file_bytes"])}
    return {**report, "files": [*report["files"], near]}


@pytest.mark.parametrize(
    ("width", "scheme", "media"),
    [(1280, "light", "screen"), (768, "dark", "screen"), (390, "dark", "screen"), (720, "dark", "print")],
)
def test_files_compared_are_drawn_with_every_name_apart(
    made: Path, visit: Open, width: int, scheme: str, media: str
) -> None:
    """No wider than the window or the paper; on paper dark letters, and no part of a table beyond the edge."""
    shown = visit(compared(made), width, scheme)
    shown.page.emulate_media(media=media)
    charts = shown.page.locator("[data-spec]")
    drawn = charts.evaluate_all("all => all.map(e => [e.dataset.spec.slice(5), e.dataset.drawn])")
    assert dict(drawn) == dict.fromkeys("frontier roles validity speed".split(), "yes")
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    for chart, count in (("frontier", 5), ("validity", 5)):
        boxes = shown.page.locator(f"#{chart} svg .mark-text text").evaluate_all(
            "all => all.map(e => [e.textContent, e.getBoundingClientRect()]).map(([t, b]) => [t, b.left, b.right, b.top, b.bottom])"
        )
        named = [box for box in boxes if box[0]]
        assert len(named) >= count
        for i, a in enumerate(named):
            for b in named[:i]:
                assert a[1] >= b[2] or b[1] >= a[2] or a[3] + 3 >= b[4] or b[3] + 3 >= a[4], (chart, a, b)
    ink = shown.page.evaluate("getComputedStyle(document.body).color")
    assert (ink == "rgb(0, 0, 0)") == (media == "print")


def test_a_compared_file_answers_to_the_pointer_and_its_tables_sort_and_filter(made: Path, visit: Open) -> None:
    report = read(made / "compared")
    shown = visit(report)
    by_name = {e["model"].removeprefix("world-").removesuffix(".gguf"): e for e in report["files"]}
    mark = shown.page.locator("#frontier svg .mark-symbol path[aria-roledescription=point]").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    tip = shown.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    told = dict(tip.locator("tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))"))
    file = by_name[told["label"]]
    assert told["size"] == f"{file['file_bytes'] / 1e6:,.2f} MB"
    assert float(told["KLD [95 %]"].split(" [")[0].replace(",", "")) == pytest.approx(1e3 * file["kld"], rel=1e-3)
    size = shown.page.locator("#figures th", has_text="bytes").first
    size.locator("button").click()
    ordered = [e["model"] for e in sorted(report["files"], key=lambda e: e["file_bytes"])]
    assert [row[0] for row in shown.rows("figures")] == ordered
    size.locator("button").click()
    assert [row[0] for row in shown.rows("figures")] == ordered[::-1] and size.get_attribute(
        "aria-sort"
    ) == "descending"
    shown.page.locator("#figures input").fill("q4_k no")
    assert all("Q4_K" in row[0] and "no" in " ".join(row).lower() for row in shown.rows("figures"))
    shown.page.locator("#figures input").fill("no such file")
    assert shown.rows("figures") == []
    assert shown.page.locator("#figures output").inner_text() == f"0 of {len(ordered)} rows"
    assert len(shown.requests) == 1 and shown.errors == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_a_sweep_alone_is_drawn(made: Path, visit: Open, width: int, scheme: str) -> None:
    report = json.loads((made / "swept" / "sweep.json").read_text())
    shown = visit(report, width, scheme)
    assert shown.page.locator("[data-drawn=yes]").count() == shown.page.locator("[data-spec]").count() >= 1
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    shown.page.locator("#sweep summary").click()
    rows = shown.rows("sweep")
    assert len(rows) == len(report["sweep"])
    shown.page.locator("#sweep input").last.fill("blk.0.ffn_gate")
    kept = shown.rows("sweep")
    assert 0 < len(kept) < len(rows) and all("blk.0.ffn_gate" in row[0] for row in kept)
