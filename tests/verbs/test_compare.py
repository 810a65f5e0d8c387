"""`compare` on the fake backend: planted distances in, the right table out."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.cli.compare import show_comparison, speed_use
from cerebellum.domain import TensorType
from cerebellum.errors import EngineDied, EngineError, InputError
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import Settings, Sources, SpeedUse, Timed
from cerebellum.report.comparison import comparison_json, speed_grid
from cerebellum.report.divergence import flat, measurement_grid, pairs_grid
from cerebellum.report.short_names import short_names
from cerebellum.testing import Effect, FakeBackend, FakeEngine, Fault, write_fake_model

GATE = "blk.0.ffn_gate.weight"
#: Q3_K is planted to be worse than the smaller Q2_K, and Q5_K as near as Q4_K to less than is shown.
KLD = {"Q8_0": 0.001, "Q5_K": 0.0301, "Q4_K": 0.03, "Q3_K": 0.5, "Q2_K": 0.3}
NAMES = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
BACKEND = FakeBackend({TensorType(GATE, kind): Effect(nll=0.9 * kld, kld=kld) for kind, kld in KLD.items()})


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 40)))
    write_fake_model(tmp_path / "world-F16.gguf")
    for ftype in NAMES:
        BACKEND.quantize(tmp_path / "world-F16.gguf", tmp_path / f"world-{ftype}.gguf", ftype)
    return tmp_path


def compare(ground: Path, *names: str, **more: Any) -> Any:
    given = {"reference": ground / "world-F16.gguf", "text": ground / "text.txt", "ctx": 64, "backend": BACKEND, **more}
    return api.compare([ground / f"world-{name}.gguf" for name in names or NAMES], **given)


def test_who_dominates_whom(ground: Path) -> None:
    """As planted, and as the sizes on disk are."""
    found = comparison_json(compare(ground))
    files = {entry["model"]: entry for entry in found["files"]}
    for name, entry in files.items():
        assert entry["file_bytes"] == (ground / name).stat().st_size
    assert files["world-Q3_K_M.gguf"]["dominated_by"] == ["world-Q2_K.gguf"]
    assert files["world-Q5_K_M.gguf"]["unproven_against"] == ["world-Q4_K_M.gguf"]
    assert all(not files[f"world-{n}.gguf"]["dominated_by"] for n in ("Q8_0", "Q4_K_M", "Q2_K"))
    assert [files[f"world-{n}.gguf"]["rank"] for n in NAMES] == [1, 2, 2, 5, 4]


def test_measure_says_the_same(ground: Path) -> None:
    """One implementation: figures, ranks and pairs are equal."""
    compared = compare(ground)
    measured = api.measure(
        [ground / f"world-{n}.gguf" for n in NAMES],
        reference=ground / "world-F16.gguf", text=ground / "text.txt", ctx=64, backend=BACKEND,
    )  # fmt: skip
    assert measured == compared.measurement
    table = {row[0]: row[1:] for row in measurement_grid(measured).rows}
    assert table["rank"] == ("1", "2", "2", "5", "4") and table["worth having"][3] == "no: world-Q2_K.gguf"


def test_each_two_files_are_paired_by_chunk(ground: Path) -> None:
    """Ten pairs; a pair's difference is that of the means, its level that of ten at once."""
    found = compare(ground).measurement
    assert len(found.pairs) == 10
    for pair in found.pairs:
        means = [found.files[i].summary.divergence.mean.estimate for i in (pair.first, pair.second)]
        assert pair.contrast.kld.estimate == pytest.approx(means[1] - means[0])
        assert pair.contrast.kld.level == 1 - 0.05 / 10
    assert len(pairs_grid(found).rows) == 10


def test_the_report_holds_every_figure(ground: Path) -> None:
    """Page, data and picture are written; the data are those of the result, and the page names every file with its hash."""
    found = compare(ground, out=ground / "out", speed=SpeedUse(64, 8, 3))
    data = json.loads((ground / "out" / "report.json").read_text())
    for entry, file in zip(data["files"], found.files, strict=True):
        assert entry["kld"] == flat(file.measured, found.measurement)["kld"]
        assert entry["types"]["ffn_gate"] == dict(file.types["ffn_gate"])
        assert entry["speed"]["prompt"]["tokens"] == 64 and len(entry["speed"]["generation"]["seconds"]) == 3
    page = (ground / "out" / "report.md").read_text()
    assert all(f.measured.sha256 in page and f.measured.name in page for f in found.files)
    assert "compare.svg" in page and "not worth having" in page
    words = [e.text for e in ET.parse(ground / "out" / "compare.svg").iter() if e.tag.endswith("text")]
    assert {"Q2_K", "Q8_0"} <= set(words)


def test_the_tables_fit_80_columns_and_wide_ones_have_everything(
    ground: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(ground, speed=True)
    show_comparison(found, pairs=True, wide=False)
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80 and not re.search(r" $", narrow, re.M)
    assert "Q3_K_M is world-Q3_K_M.gguf" in " ".join(narrow.split())
    show_comparison(found, pairs=True, wide=True)
    wide = capsys.readouterr().out
    for words in ("KLD 99.9 %", "ffn_gate", "Tokens a second", "world-Q3_K_M.gguf", "Each two files"):
        assert words in wide


def test_speed_is_tokens_by_seconds_and_kept(ground: Path) -> None:
    """As planted: a token of the prompt takes a nanosecond a byte; more repetitions add those that lack."""
    timings: list[SpeedUse] = []

    class Counting(FakeBackend):
        def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Any:
            timings.append(use)
            return super().speed(model, settings, use)

    backend = Counting(BACKEND.effects)
    n_bytes = read_model(ground / "world-Q2_K.gguf").file_bytes
    for repetitions, new in ((2, [2, 2]), (2, []), (5, [3, 3])):
        timings.clear()
        found = compare(ground, "Q2_K", out=ground / "out", backend=backend, speed=SpeedUse(64, 8, repetitions))
        assert [use.repetitions for use in timings] == new
        speed = found.files[0].speed
        assert len(speed.prompt.seconds) == len(speed.generation.seconds) == repetitions
        assert min(speed.prompt.seconds) == pytest.approx(64 * n_bytes * 1e-9)
        assert speed.generation.rate == pytest.approx(2.5e8 / n_bytes, rel=0.05) and speed.generation.spread > 0.0


def test_a_timing_that_ends_early_goes_on_there(ground: Path) -> None:
    class Dying(FakeBackend):
        def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Any:
            for n, each in enumerate(super().speed(model, settings, use)):
                if n == 2:
                    raise EngineError("gone")
                yield Timed(each.generation, 7.0)

    with pytest.raises(EngineError, match="gone"):
        compare(ground, "Q2_K", out=ground / "out", backend=Dying(BACKEND.effects), speed=SpeedUse(64, 8, 4))
    found = compare(ground, "Q2_K", out=ground / "out", speed=SpeedUse(64, 8, 4))
    assert found.files[0].speed.prompt.seconds[:2] == (7.0, 7.0) and len(found.files[0].speed.prompt.seconds) == 4


def test_where_repacked_weights_end_the_process_all_are_timed_without(ground: Path) -> None:
    """The second file dies of them; the figures of the first one are of the same kind as its own."""

    class NoRepack(FakeBackend):
        def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Any:
            if use.repack and model.name == "world-Q2_K.gguf":
                raise EngineDied("llama.cpp's process died (SIGILL)")
            yield from (Timed(t.generation, 2.0 if use.repack else 3.0) for t in super().speed(model, settings, use))

    found = compare(ground, "Q4_K_M", "Q2_K", backend=NoRepack(BACKEND.effects), speed=SpeedUse(64, 8, 2))
    assert {s for f in found.files for s in (*f.speed.prompt.seconds, *f.speed.generation.seconds)} == {3.0}
    assert any("not repacked" in note for note in speed_grid(found).notes)


def test_it_goes_on_where_it_was_stopped(ground: Path) -> None:
    broken = FakeBackend(BACKEND.effects, faults=(Fault(chunk=9),))
    with pytest.raises(EngineError, match="chunk 9"):
        compare(ground, "Q4_K_M", "Q2_K", out=ground / "out", backend=broken)
    assert not (ground / "out" / "report.json").exists()
    assert compare(ground, "Q4_K_M", "Q2_K", out=ground / "out") == compare(ground, "Q4_K_M", "Q2_K")


def test_files_of_one_name_are_told_apart_and_one_file_twice_is_refused(ground: Path) -> None:
    (ground / "theirs").mkdir()
    (ground / "theirs" / "world-Q2_K.gguf").write_bytes((ground / "world-Q3_K_M.gguf").read_bytes())
    found = api.compare(
        [ground / "world-Q2_K.gguf", ground / "theirs" / "world-Q2_K.gguf"],
        reference=ground / "world-F16.gguf", text=ground / "text.txt", ctx=64, backend=BACKEND,
    )  # fmt: skip
    assert [f.measured.name for f in found.files] == [f"{ground.name}/world-Q2_K.gguf", "theirs/world-Q2_K.gguf"]
    with pytest.raises(InputError, match="given twice"):
        compare(ground, "Q2_K", "Q2_K")


class OtherWords(FakeBackend):
    """Cuts the text of one file into other tokens than all others do."""

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        engine = super().open(model, settings, sources)
        if model.name == "world-Q2_K.gguf":
            cut = engine.corpus
            engine.corpus = lambda name, text, n_ctx: cut(name, text.replace("word4 ", "word5 "), n_ctx)  # type: ignore[method-assign]
        return engine


def test_another_tokenization_is_refused(ground: Path) -> None:
    """By name, and no report is left that compares what can't be compared."""
    with pytest.raises(InputError, match=r"world-Q2_K\.gguf .* into other tokens"):
        compare(ground, "Q4_K_M", "Q2_K", out=ground / "out", backend=OtherWords(BACKEND.effects))
    assert not (ground / "out" / "report.md").exists()


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("m-Q4_K_M.gguf", "m-Q4_K_S.gguf"), ("Q4_K_M", "Q4_K_S")),
        (("one.gguf",), ("one",)),
        (("m.gguf", "m-Q2_K.gguf"), ("m", "m-Q2_K")),
        (("a/m.gguf", "b/m.gguf"), ("a/m", "b/m")),
        (("m-.gguf", "m-x.gguf"), ("m-.gguf", "m-x.gguf")),
    ],
)
def test_short_names_tell_files_apart(names: tuple[str, ...], short: tuple[str, ...]) -> None:
    assert short_names(names) == short


def test_options_of_speed_without_it_are_an_error() -> None:
    assert speed_use(False, None, None, None) is None
    assert speed_use(True, 32, None, 2) == SpeedUse(32, 128, 2)
    with pytest.raises(InputError, match="--speed"):
        speed_use(False, 32, None, None)
