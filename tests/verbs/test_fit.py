"""`fit` where llama.cpp's own figures are other than the formulas'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cerebellum import api, bundled
from cerebellum.errors import EngineDied, InputError
from cerebellum.gguf.memory import Allocated, ContextUse, file_bytes_for, footprint
from cerebellum.gguf.model_file import read_model
from cerebellum.progress import Silent
from cerebellum.verbs.fit import Asked, fit_model
from tests.llamacpp import tiny

LIMIT, USE = 62_000_000, ContextUse(0)


def said(factor: float) -> tuple[list[int], Asked]:
    """An answer of llama.cpp's that is ``factor`` times the formulas', and the contexts that it was asked for."""
    asked: list[int] = []

    def ask(path: Path, use: ContextUse) -> Allocated:
        asked.append(use.n_ctx)
        parts = footprint(read_model(path), use).both
        return Allocated(int(parts.cache * factor), parts.output, {"CPU": int(parts.compute * factor)})

    return asked, ask


def test_figures_that_agree_are_asked_for_once() -> None:
    asked, ask = said(1.01)
    fit = fit_model(bundled.MODEL, LIMIT, USE, ask)
    assert fit.notes == () and asked == [fit.largest] and fit.checked_ctx == fit.largest


def test_llama_cpp_s_figures_decide_where_they_are_others() -> None:
    """The context found fits by them, the next larger one doesn't."""
    _, ask = said(1.5)
    fit = fit_model(bundled.MODEL, LIMIT, USE, ask)
    ours = fit_model(bundled.MODEL, LIMIT, USE, None)

    def needs(n_ctx: int) -> float:
        parts = footprint(read_model(bundled.MODEL), ContextUse(n_ctx)).device
        return parts.weights + 1.5 * (parts.cache + parts.compute)

    assert 0 < fit.largest < ours.largest and "llama.cpp's own figures" in fit.notes[0]
    assert fit.checked_ctx == ours.largest  # the figures that are shown are of the context that was asked for
    assert needs(fit.largest) <= LIMIT < needs(fit.largest + 256)


def test_an_answer_that_does_not_come_is_told() -> None:
    def ask(path: Path, use: ContextUse) -> Allocated:
        raise EngineDied("it died")

    fit = fit_model(bundled.MODEL, LIMIT, USE, ask)
    assert fit.checked is None and "it died" in fit.notes[0] and fit.largest > 0


def test_a_short_model_that_does_not_fit_has_a_row(tmp_path: Path) -> None:
    """Trained for fewer tokens than the first context that is listed."""
    fit = fit_model(tiny.llama(tmp_path / "m.gguf"), 1_000_000, USE, None)
    assert fit.largest == 0 and [(row.n_ctx, row.fits) for row in fit.rows] == [(512, False)]


def test_the_memory_of_a_device_is_a_size_of_run_in_python() -> None:
    """Less what is left to the driver; told as the command tells it."""

    class Notes(Silent):
        def __init__(self) -> None:
            self.said: list[str] = []

        def note(self, text: str) -> None:
            self.said.append(text)

    notes = Notes()
    given = api.sized(bundled.MODEL, {"vram": "360MB", "fit_ctx": 1024, "chunks": 4}, notes)
    room = file_bytes_for(read_model(bundled.MODEL), 60_000_000, ContextUse(1024))
    assert given == {"size": room, "chunks": 4} and "360MB less 300MB" in notes.said[0]
    assert api.sized(bundled.MODEL, {"vram": 360_000_000, "fit_ctx": 1024})["size"] == room
    assert "size" not in api.sized(bundled.MODEL, {"chunks": 4})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_ctx": 64}, r"belongs to vram"),
        ({"vram": "4GB", "like": "Q3_K_M"}, r"two sizes"),
        ({"vram": "299MB"}, r"leaves nothing"),
        ({"vram": "4GB", "fit_ctx": 99_999}, r"trained for"),
        ({"vram": "4GB", "fit_ctx": 0}, r"from 1 to"),
        ({"vram": "4GB", "policy": "greedy"}, r"vram \(--vram\) belongs to an allocation"),
        ({"n_shuffled": 3, "policy": "published"}, r"\(--shuffled\) belongs to an allocation"),
    ],
)
def test_memory_that_is_no_size(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        api.run(bundled.MODEL, out=tmp_path / "out", text=bundled.SEARCH_TEXT, **options)
    assert not (tmp_path / "out").exists()
