"""Every result of a public function has a short ``repr`` and HTML in which names of others are text."""

from __future__ import annotations

import inspect
import typing
from html.parser import HTMLParser
from pathlib import Path

import cerebellum
from cerebellum import api, bundled
from cerebellum.notebook import VIEWS, NotebookView, grid_html, view_html
from cerebellum.report.grids import Grid
from cerebellum.testing import FakeBackend, write_fake_model


class Tags(HTMLParser):
    """Counts tags, and keeps text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_public_result_has_a_view_and_is_exported() -> None:
    for name in api.__all__:
        if not inspect.isfunction(function := getattr(api, name)):
            continue
        returned = typing.get_type_hints(function)["return"]
        for kind in typing.get_args(returned) or (returned,):
            if kind.__module__.startswith("cerebellum") and name not in ("try_model", "doctor"):  # lists
                assert kind in VIEWS and kind.__name__ in cerebellum.__all__, (name, kind)


def test_names_are_text_never_markup() -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    text = view_html(NotebookView([evil], [Grid(evil, (evil,), ((evil,),), (evil,))]))
    tags = Tags(text)
    assert "script" not in tags.opened and tags.text.count("<script>alert(1)</script>") == 5
    assert "\x1b" not in text and sorted(tags.opened) == sorted(tags.closed)


def test_a_table_has_all_its_cells() -> None:
    tags = Tags(grid_html(Grid("title", ("a", "b"), (("1", "2"), ("3", "4")), ("note",))))
    assert (tags.opened.count("th"), tags.opened.count("td"), tags.opened.count("tr")) == (2, 4, 3)


def test_results_as_a_notebook_shows_them(tmp_path: Path) -> None:
    model = api.inspect(bundled.MODEL)
    assert repr(model).startswith("<Model: world-gemma4-F16.gguf: gemma4, ") and len(repr(model)) < 250
    (tmp_path / "text.txt").write_text(" ".join(f"w{i}" for i in range(64 * 30)))
    write_fake_model(tmp_path / "model.gguf")
    result = api.sweep(
        tmp_path / "model.gguf",
        out=tmp_path / "out",
        text=tmp_path / "text.txt",
        ctx=64,
        chunks=2,
        blocks="0",
        backend=FakeBackend({}),
    )
    tags = Tags(result._repr_html_())  # type: ignore[attr-defined]
    assert repr(result) == "<SweepResult: 1 trial of model.gguf at Q3_K_M>"
    assert "blk.0.ffn_gate" in tags.text and sorted(tags.opened) == sorted(tags.closed)
