"""`measure`, `validity`, the gate and the noise floor on the fake backend: planted truth in, the right words out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cerebellum import api
from cerebellum.domain import Chunk, Corpus, TensorType
from cerebellum.errors import EngineError, InputError, OutputError, RefusedError, StudyError, TextError
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.progress import Silent
from cerebellum.report.divergence import flat, measurement_grid
from cerebellum.report.ladder import ladder_grid
from cerebellum.report.noise import noise_line
from cerebellum.results import Noise
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.stats.intervals import quantile_interval
from cerebellum.study.store import Study
from cerebellum.testing import Effect, FakeBackend, FakeEngine, Fault, write_fake_model
from cerebellum.verbs.capture import check_room, exact_bytes, reference_facts
from cerebellum.verbs.noise import changes_of
from cerebellum.verbs.validity import LADDER

GATES = [f"blk.{i}.ffn_gate.weight" for i in range(4)]
STEPS = {"Q8_0": 0.001, "Q6_K": 0.004, "Q5_K": 0.01, "Q4_K": 0.03, "Q3_K": 0.08, "Q2_K": 0.3}


def rungs(nll: dict[str, float]) -> FakeBackend:
    """A backend whose file types are ``STEPS`` away from the reference, with the given NLL changes."""
    return FakeBackend({TensorType(GATES[0], kind): Effect(nll=nll[kind], kld=kld) for kind, kld in STEPS.items()})


HONEST = rungs({kind: 0.9 * kld for kind, kld in STEPS.items()})
LYING = rungs({kind: -0.5 * kld for kind, kld in STEPS.items()})


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    words = [f"word{i * i % 9973}" for i in range(64 * 60)]
    (tmp_path / "text.txt").write_text(" ".join(words))
    (tmp_path / "other.txt").write_text(" ".join(f"other{i * i % 89}" for i in range(64 * 60)))
    write_fake_model(tmp_path / "model.gguf")
    for ftype in ("Q4_K_M", "Q2_K"):
        HONEST.quantize(tmp_path / "model.gguf", tmp_path / f"{ftype}.gguf", ftype)
    return tmp_path


def measure(ground: Path, *names: str, **more: Any) -> Any:
    options = {"reference": ground / "model.gguf", "text": ground / "text.txt", "ctx": 64, "backend": HONEST, **more}
    return api.measure([ground / name for name in names], **options)


# -- measure -----------------------------------------------------------------------------------------------------------


def test_measure_finds_the_planted_divergence(ground: Path) -> None:
    found = measure(ground, "Q4_K_M.gguf", "Q2_K.gguf")
    near, far = found.files
    for file, kld in ((near, 0.03), (far, 0.3)):
        mean = file.summary.divergence.mean
        assert mean.low < mean.estimate < mean.high
        assert math.isclose(mean.estimate, kld, rel_tol=0.1)
        assert math.isclose(file.log_ratio.estimate, 0.9 * kld, rel_tol=0.1)
        assert math.isclose(math.log(file.summary.perplexity) - found.reference_nll.estimate, file.log_ratio.estimate)
    assert near.from_first is None and far.from_first.judgement.verdict == "damages"


def test_a_file_is_no_distance_from_itself(ground: Path) -> None:
    (file,) = measure(ground, "model.gguf").files
    figures = flat(file, measure(ground, "model.gguf"))
    assert figures["kld"] == figures["kld_max"] == figures["kld_p999"] == 0.0
    assert figures["log_ratio"] == pytest.approx(0.0, abs=1e-12)
    assert figures["same_top"] == 1.0 and figures["perplexity"] == pytest.approx(figures["reference_perplexity"])


def test_flat_figures_carry_their_limits(ground: Path) -> None:
    found = measure(ground, "Q4_K_M.gguf", chunks=6)
    figures = flat(found.files[0], found)
    assert figures["chunks"] == 6 and figures["tokens"] == 6 * 31
    for name in ("perplexity", "kld", "same_top", "mean_dp", "rms_dp", "log_ratio", "kld_median"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
    text = "\n".join(" ".join(row) for row in measurement_grid(found).rows)
    assert "KLD mean" in text and "[" in text


def test_what_was_measured_is_kept_and_not_measured_again(ground: Path) -> None:
    broken = FakeBackend(HONEST.effects, faults=(Fault(chunk=9),))
    with pytest.raises(EngineError, match="chunk 9"):
        measure(ground, "Q4_K_M.gguf", out=ground / "kept", backend=broken)
    with Study.open(ground / "kept" / "study.sqlite", read_only=True) as study:
        assert len(study.scores(1)) == 9
    counted = CountingBackend(HONEST.effects)
    again = measure(ground, "Q4_K_M.gguf", out=ground / "kept", backend=counted)
    assert again == measure(ground, "Q4_K_M.gguf") and sum(e.n_scored for e in counted.opened) == 60 - 9


class CountingBackend(FakeBackend):
    """Remembers the engines it opened."""

    @property
    def opened(self) -> list[FakeEngine]:
        return self.__dict__.setdefault("engines", [])

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        self.opened.append(super().open(model, settings, sources))
        return self.opened[-1]


def test_ubatch_size_reaches_every_engine(ground: Path) -> None:
    """Of each function that measures; and a size that is none is refused."""
    backend, text = CountingBackend(HONEST.effects), ground / "text.txt"
    given: dict[str, Any] = {"text": text, "ctx": 64, "chunks": 6, "ubatch_size": 16, "backend": backend}
    api.perplexity(ground / "model.gguf", **given)
    measure(ground, "Q4_K_M.gguf", **given)
    api.validity(ground / "model.gguf", **given)
    api.sweep(ground / "model.gguf", report_text=ground / "other.txt", out=ground / "out", **given)
    assert len(backend.opened) >= 5 and {engine._settings.n_ubatch for engine in backend.opened} == {16}


@pytest.mark.parametrize("verb", [api.perplexity, api.measure, api.validity, api.sweep])
@pytest.mark.parametrize("size", [0, -5])
def test_a_ubatch_size_that_is_none_is_refused(ground: Path, verb: Any, size: int) -> None:
    more = {api.measure: {"reference": ground / "model.gguf"}, api.sweep: {"out": ground / "none"}}.get(verb, {})
    backend = CountingBackend(HONEST.effects)
    with pytest.raises(InputError, match=f"ubatch_size .* is {size}; "):
        verb(ground / "model.gguf", text=ground / "text.txt", ctx=64, ubatch_size=size, backend=backend, **more)
    assert not backend.opened


def test_a_folder_holds_one_reference(ground: Path) -> None:
    measure(ground, "Q4_K_M.gguf", chunks=2, out=ground / "kept")
    with pytest.raises(StudyError, match="another output folder"):
        measure(ground, "Q4_K_M.gguf", chunks=2, out=ground / "kept", reference=ground / "Q2_K.gguf")


def test_measure_refuses_what_it_cannot_do(ground: Path) -> None:
    with pytest.raises(InputError, match="no model"):
        measure(ground)
    with pytest.raises(TextError, match="only"):
        measure(ground, "Q4_K_M.gguf", ctx=4096)
    with pytest.raises(InputError, match=r"nothing\.gguf"):
        measure(ground, "Q4_K_M.gguf", reference=ground / "nothing.gguf")


# -- validity ----------------------------------------------------------------------------------------------------------


def check(ground: Path, backend: FakeBackend, *names: str, **more: Any) -> Any:
    options = {"text": ground / "text.txt", "ctx": 64, "backend": backend, **more}
    return api.validity([ground / name for name in names], **options)


def test_perplexity_that_follows_divergence_is_valid_and_one_that_runs_against_it_is_not(ground: Path) -> None:
    honest, lying = (check(ground, backend, "model.gguf") for backend in (HONEST, LYING))
    assert honest.report.verdict == "valid" and lying.report.verdict == "invalid"
    assert [rung.name for rung in honest.rungs] == ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
    assert "invalid" in ladder_grid(lying).notes[0] and lying.report.worst_below == "Q2_K"


def test_files_give_the_ladder_that_the_model_gives_in_memory(ground: Path) -> None:
    for ftype in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"):
        HONEST.quantize(ground / "model.gguf", ground / f"{ftype}.gguf", ftype)
    memory = check(ground, HONEST, "model.gguf")
    files = check(ground, HONEST, "model.gguf", *(f"{rung.name}.gguf" for rung in memory.rungs))
    assert [(r.ppl, r.kld) for r in files.rungs] == [(pytest.approx(r.ppl), pytest.approx(r.kld)) for r in memory.rungs]
    assert files.report.verdict == memory.report.verdict
    for found in (files, memory):  # with their sizes it is the stock ladder
        on_disk = [(ground / f"{Path(r.name).stem}.gguf").stat().st_size for r in found.rungs]
        assert [r.file_bytes for r in found.rungs] == on_disk
        assert all(r.kld_low <= r.kld <= r.kld_high for r in found.rungs)
        grid = ladder_grid(found)
        assert grid.columns[1] == "MB" and grid.rows[1][1] == f"{min(on_disk, key=lambda n: -n) / 1e6:,.2f}"


def test_a_sweep_leaves_a_report_of_its_own(ground: Path) -> None:
    """Beside what a run writes: page, picture and data with the figures of the result."""
    found = api.sweep(
        ground / "model.gguf",
        out=ground / "out",
        text=ground / "text.txt",
        ctx=64,
        chunks=4,
        blocks=[0],
        backend=HONEST,
    )
    data = json.loads((ground / "out" / "sweep.json").read_text())
    assert data["kind"] == "sweep only" and len(data["sweep"]) == len(found.sweep.rows) == 1
    kld = found.sweep.rows[0].contrast.kld
    assert kld and data["sweep"][0]["contrast"]["kld"]["estimate"] == kld.estimate
    page = (ground / "out" / "sweep.md").read_text()
    assert "1 trial: 1 damages" in page and "sweep.svg" in page and not (ground / "out" / "report.md").exists()
    assert (ground / "out" / "sweep.svg").read_text().startswith("<svg")


def test_a_quantized_model_alone_has_no_ladder(ground: Path) -> None:
    with pytest.raises(InputError, match="quantized already"):
        check(ground, HONEST, "Q4_K_M.gguf")
    with pytest.raises(InputError, match="not both"):
        api.validity([], backend=HONEST)
    with pytest.raises(InputError, match="--text"):
        api.validity([ground / "model.gguf"], backend=HONEST)


@pytest.mark.parametrize(
    "content", ["nonsense", "[1, 2]", '{"by_type": {}}', '{"by_type": {"a": {"ppl": "x", "kld": 0}}}']
)
def test_a_ladder_file_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "ladder.json").write_text(content)
    with pytest.raises(InputError):
        api.validity(ladder=tmp_path / "ladder.json")


# -- the gate ----------------------------------------------------------------------------------------------------------


def run(ground: Path, backend: FakeBackend, **more: Any) -> Any:
    texts = {"text": ground / "text.txt", "report_text": ground / "other.txt"}
    options = {**texts, "ctx": 64, "chunks": 24, "out": ground / "out", **more}
    return api.choose(ground / "model.gguf", backend=backend, **options)


@pytest.mark.parametrize("options", [{"policy": "published"}, {"objective": "nll"}])
def test_perplexity_may_not_choose_where_it_is_invalid(ground: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="trust-perplexity"):
        run(ground, LYING, **options)
    with Study.open(ground / "out" / "study.sqlite", read_only=True) as study:
        assert study.fact("result") is None
    trusted = run(ground, LYING, trust_perplexity=True, **options)
    assert trusted.validity.report.verdict == "invalid"
    report = (ground / "out" / "report.md").read_text()
    assert (
        "invalid" in report
        and json.loads((ground / "out" / "report.json").read_text())["validity"]["verdict"] == "invalid"
    )


def test_file_types_that_come_out_the_same_are_one_rung(ground: Path) -> None:
    """Rows of 64 weights hold no k-quant: counted twice, a file would agree with itself."""
    narrow = write_fake_model(ground / "narrow.gguf", width=64)
    backend = FakeBackend()
    types = {name: tuple(sorted(backend.types(narrow, name, (), None).items())) for name in LADDER}
    found = api.validity(narrow, text=ground / "text.txt", ctx=64, chunks=6, backend=backend)
    assert len(found.rungs) == len(set(types.values())) < len(LADDER)
    for rung in found.rungs:
        assert len({types[name] for name in rung.name.split(" = ")}) == 1
    assert sorted(name for rung in found.rungs for name in rung.name.split(" = ")) == sorted(LADDER)


def test_the_default_never_asks_perplexity(ground: Path) -> None:
    assert run(ground, LYING).validity is None
    assert run(ground, HONEST, policy="published", out=ground / "honest").validity.report.verdict == "valid"


# -- the noise floor ---------------------------------------------------------------------------------------------------


class ShakyEngine(FakeEngine):
    """Small batches move every divergence by ``shift``."""

    shift = 0.004

    def sweep(self, *args: Any, settings: Settings | None = None, **more: Any) -> Iterator[Any]:
        own, self._settings = self._settings, settings or self._settings
        try:
            yield from super().sweep(*args, settings=settings, **more)
        finally:
            self._settings = own

    def _score(self, types: Any, chunk: Chunk, reference: Any) -> Any:

        score = super()._score(types, chunk, reference)
        if score.kld is None or self._settings.n_ubatch == Settings().n_ubatch:
            return score
        return replace(score, kld=score.kld + self.shift * score.n_tokens)


class ShakyBackend(FakeBackend):
    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> FakeEngine:
        engine = super().open(model, settings, sources)
        return ShakyEngine(self, engine._model, settings, sources)


def test_an_effect_under_the_noise_floor_is_none(ground: Path) -> None:
    """Blocks 1 and 2 differ from the base by less and by more than what a batch of another shape does."""
    effects = {
        TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.04),
        TensorType(GATES[1], "Q2_K"): Effect(kld=0.002),
        TensorType(GATES[2], "Q2_K"): Effect(kld=0.02),
    }
    steady = {row.effect.block: row.contrast.judgement.verdict for row in run(ground, FakeBackend(effects)).sweep.rows}
    (ground / "out").rename(ground / "steady")
    result = run(ground, ShakyBackend(effects))
    shaky = {row.effect.block: row.contrast.judgement.verdict for row in result.sweep.rows}
    assert result.noise.floor == pytest.approx(ShakyEngine.shift)
    assert "Noise floor 4 thousandths" in noise_line(result.noise)
    assert steady[1] == steady[2] == shaky[2] == "damages" and shaky[1] == "no detectable difference"


@pytest.mark.parametrize(("reference", "n_opened"), [(None, 2), ("Q4_K_M.gguf", 3)])
def test_the_noise_floor_opens_no_model_and_measures_nothing_twice(
    ground: Path, reference: str | None, n_opened: int
) -> None:
    """The model, the reference where it is another, and the base: each once. Killed in the third chunk of the floor, it goes on there."""
    given: dict[str, Any] = {
        "text": ground / "text.txt", "report_text": ground / "other.txt", "ctx": 64, "chunks": 6,
        "reference": reference and ground / reference,
    }  # fmt: skip
    whole = CountingBackend(HONEST.effects)
    found = api.sweep(ground / "model.gguf", out=ground / "whole", backend=whole, **given)
    assert len(whole.opened) == n_opened and len(found.noise.changes) > 1
    broken = FakeBackend(HONEST.effects, faults=(Fault(chunk=2),))
    with pytest.raises(EngineError, match=r"^trial 'reference, batches of 4 tokens', chunk 2: failed as planted$"):
        api.sweep(ground / "model.gguf", out=ground / "killed", backend=broken, **given)
    again = CountingBackend(HONEST.effects)
    assert api.sweep(ground / "model.gguf", out=ground / "killed", backend=again, **given).noise == found.noise
    assert sum(e.n_scored for e in again.opened) == sum(e.n_scored for e in whole.opened) - 2


@pytest.mark.parametrize(
    ("longest", "n_batch", "n_vocab", "other"),
    [
        (512, None, 1024, 32),
        (512, None, 262_144, 16),
        (512, 64, 1024, 4),
        (512, 8, 1024, 4),
        (8, None, 1024, 4),
        (64, 1, 1024, 2),
        (100, None, 1024, 6),
        (128, None, 1024, 8),
    ],
)
def test_the_other_batch_shape_is_another(
    ground: Path, longest: int, n_batch: int | None, n_vocab: int, other: int
) -> None:
    """Whatever bounds a batch (the longest chunk, option, vocabulary), the floor's is a different one; else it would be a false nothing."""
    settings = Settings(n_ctx=512, n_batch=n_batch)
    own = min(settings.batch_room(n_vocab), longest)
    change, *_ = changes_of(settings, read_model(ground / "model.gguf"), own)
    assert change.name == f"batches of {other} tokens"
    assert min(change.settings.batch_room(n_vocab), longest) == min(other, longest) != own


def test_nothing_tried_is_no_noise() -> None:
    assert Noise((), 0).floor == 0.0


# -- percentiles -------------------------------------------------------------------------------------------------------


def test_a_percentiles_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Log-normal tokens whose chunks differ in level, 40 chunks: the truth from a sample of a million."""
    rng = np.random.default_rng(5)

    def chunk() -> Any:
        return rng.lognormal(rng.normal(0.0, 0.3), 1.0, 200)

    truth = np.percentile(np.concatenate([chunk() for _ in range(5000)]), [50.0, 95.0])
    hits = np.zeros(2)
    for _ in range(400):
        sample = [chunk() for _ in range(40)]
        for place, percent in enumerate((50.0, 95.0)):
            x = quantile_interval(sample, percent)
            hits[place] += x.low <= truth[place] <= x.high
    assert (hits / 400 > 0.92).all() and (hits / 400 < 0.985).all()


def test_a_limit_that_few_chunks_cant_know_is_infinite() -> None:
    rng = np.random.default_rng(1)
    few = quantile_interval([rng.exponential(1, 50) for _ in range(4)], 99.9)
    assert few.high == math.inf and few.low > 0.0
    assert quantile_interval([np.ones(5)], 50.0).low == -math.inf
    same = quantile_interval([np.zeros(5)] * 3, 99.0)
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        quantile_interval([], 50.0)


# -- the reference's rows ----------------------------------------------------------------------------------------------


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_what_an_older_metric_measured_is_named_and_measured_anew(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, once: after it is measured with the new one, nothing is said."""
    options: dict[str, Any] = {"out": ground / "study", "chunks": 4}
    for module in ("study.runner", "verbs.capture"):
        monkeypatch.setattr(f"cerebellum.{module}.METRIC_VERSION", METRIC_VERSION - 1)
    measure(ground, "Q4_K_M.gguf", "Q2_K.gguf", **options)
    monkeypatch.undo()
    said = []
    for names in (("Q4_K_M.gguf",), ("Q4_K_M.gguf", "Q2_K.gguf"), ("Q2_K.gguf",)):
        notes = Notes()
        measure(ground, *names, **options, progress=notes)
        said.append([note for note in notes.said if "metric" in note])
    assert [len(notes) for notes in said] == [1, 1, 0]
    assert (
        f"version {METRIC_VERSION - 1} of the metric (now it is {METRIC_VERSION}): Q4_K_M.gguf, Q2_K.gguf. "
        in said[0][0]
    )
    assert f"{METRIC_VERSION}): Q2_K.gguf. " in said[1][0]


@pytest.mark.parametrize(("n_vocab", "exact", "facts"), [
    (4096, False, {"k": None}), (4096, True, {"k": None}), (262_144, False, {"k": 248}), (262_144, True, {"k": None, "bits": 16}),
])  # fmt: skip
def test_the_facts_of_a_reference_say_how_much_is_kept(n_vocab: int, exact: bool, facts: dict[str, Any]) -> None:
    """They are part of every key; of small vocabularies all words are kept as they are anyhow."""
    assert reference_facts("x", n_vocab, exact) == {"sha256": "x", **facts}


def test_an_exact_reference_says_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 bytes a word and scored token; refused before anything is computed where the disk has less."""
    tokens = np.zeros(64 * 3, np.int32)
    corpus = Corpus("text", "", "", 64, tokens, None)
    assert exact_bytes(corpus, [0, 1], 262_144) == 2 * 31 * 262_144 * 2
    notes = Notes()
    check_room(tmp_path / "not" / "there", 5_000_000, notes)
    assert notes.said == ["--exact-reference: all words of the reference's rows take 0.01 GB of disk"]
    with pytest.raises(OutputError, match=r"takes 1,000,000,000,000\.00 GB and .* GB left: fewer --chunks"):
        check_room(tmp_path, 10**21, notes)


def test_the_draw_is_told_once_and_only_where_there_is_one(ground: Path) -> None:
    """In the notes under the table, in thousandths of a nat."""
    found = measure(ground, "Q4_K_M.gguf", "Q2_K.gguf")
    assert not [note for note in measurement_grid(found).notes if "draw" in note]
    drawn = [replace(f, summary=replace(f.summary, divergence=replace(f.summary.divergence, draw_error=error)))
             for f, error in zip(found.files, (1e-6, 2e-6), strict=True)]  # fmt: skip
    facts = {**found.facts, "reference": {**found.facts["reference"], "k": 248}}
    notes = measurement_grid(replace(found, files=tuple(drawn), facts=facts)).notes
    (note,) = (note for note in notes if "by a draw" in note)
    assert "at most 0.002 thousandths of a nat" in note
    assert any("its 124 most likely words a row, and 124 drawn from the others" in note for note in notes)
