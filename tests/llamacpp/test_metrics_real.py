"""Every figure on a trained model, against a slow computation in Python floats that shares no code with `cerebellum.scoring.metrics`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cerebellum import bundled
from cerebellum.domain import Chunk, ChunkScore
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend
from cerebellum.llamacpp.protocol import Settings
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.text.corpus import read_text

pytestmark = pytest.mark.engine

SLOW = pytest.mark.slow
BACKEND = LlamaBackend()
SETTINGS = Settings(n_ctx=256, n_threads=2)
FTYPES = ("Q8_0", "Q4_K_M", "Q2_K")
CHUNKS = (0, 7)
KEPT = (16, 64, 256)
#: As documented: 0.4, 0.5, … 1.2.
INVERSE_TEMPERATURES = [step / 10 for step in range(4, 13)]

Logits = npt.NDArray[np.float32]
Fields = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """The unquantized model, its quantized files by type, the text's chunks, the source's rows complete and compact."""

    models: Mapping[str, Path]
    chunks: Sequence[Chunk]
    references: Mapping[int | None, ReferenceStore]
    known: dict[tuple[str, int | None], list[ChunkScore]] = field(default_factory=dict)

    def scores(self, name: str, k: int | None = None) -> list[ChunkScore]:
        """With `SETTINGS`, in a process that captured nothing; each file is opened once."""
        if (name, k) not in self.known:
            with opened(self.models[name]) as engine:
                for kept, store in self.references.items():
                    self.known[name, kept] = list(engine.score((), self.chunks, reference=store))
        return self.known[name, k]

    def otherwise(self, name: str, settings: Settings) -> list[ChunkScore]:
        """With other settings, against complete rows."""
        with opened(self.models[name], settings) as engine:
            return list(engine.score((), self.chunks, reference=self.references[None]))


@contextmanager
def opened(path: Path, settings: Settings = SETTINGS) -> Iterator[EngineProcess]:
    engine = BACKEND.open(path, settings)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("real")
    models = {"F16": bundled.MODEL, **{ftype: folder / f"{ftype}.gguf" for ftype in FTYPES}}
    for ftype in FTYPES:
        BACKEND.quantize(bundled.MODEL, models[ftype], ftype)
    references = {k: ReferenceStore(folder / f"reference-{k}", k) for k in (None, *KEPT)}
    with opened(bundled.MODEL) as engine:
        chunks = engine.corpus("search", read_text(bundled.SEARCH_TEXT), SETTINGS.n_ctx).chunks(CHUNKS)
        for store in references.values():
            assert list(engine.capture(chunks, store)) == list(CHUNKS)
    return Files(models, chunks, references)


class SlowScores(dict[str, list[Fields]]):
    """File type → the same by the slow computation, over the logits as they come out of llama.cpp; computed when asked for."""

    def __init__(self, files: Files) -> None:
        super().__init__()
        self._files = files

    def __missing__(self, name: str) -> list[Fields]:
        logits = []
        for path in (self._files.models["F16"], self._files.models[name]):
            with opened(path) as engine:
                logits.append([engine.logits((), chunk) for chunk in self._files.chunks])
        self[name] = [slow_score(*rows) for rows in zip(*logits, self._files.chunks, strict=True)]
        return self[name]


@pytest.fixture(scope="module")
def slow(files: Files) -> SlowScores:
    return SlowScores(files)


def slow_score(reference: Logits, trial: Logits, chunk: Chunk) -> Fields:
    """All fields of one chunk: row i predicts the token after position 128 + i."""
    targets = chunk.tokens.tolist()[len(chunk.tokens) // 2 + 1 :]
    nll, kld, change, agree = [], [], [], 0
    tempered: list[list[float]] = [[] for _ in INVERSE_TEMPERATURES]
    for p_logits, q_logits, target in zip(reference.tolist(), trial.tolist(), targets, strict=True):
        log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
        nll.append(-log_q[target])
        kld.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))
        change.append(math.exp(log_q[target]) - math.exp(log_p[target]))
        agree += p_logits.index(max(p_logits)) == q_logits.index(max(q_logits))
        for values, beta in zip(tempered, INVERSE_TEMPERATURES, strict=True):
            values.append(-log_softmax([beta * x for x in q_logits])[target])
    return {
        "n_tokens": len(targets),
        "nll": math.fsum(nll),
        "nll2": math.fsum(x**2 for x in nll),
        "tempered": [math.fsum(values) for values in tempered],
        "kld": math.fsum(kld),
        "kld2": math.fsum(x**2 for x in kld),
        "kld_var": 0.0,
        "same_top": agree,
        "dp": math.fsum(change),
        "dp2": math.fsum(x**2 for x in change),
        "dp4": math.fsum(x**4 for x in change),
        "kld_tokens": kld,
    }


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    normalizer = top + math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - normalizer for x in row]


def tokens_of(score: ChunkScore) -> npt.NDArray[np.float32]:
    return np.frombuffer(score.kld_tokens or b"", np.float32)


# -- against the slow computation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ftype", [pytest.param("Q8_0", marks=SLOW), pytest.param("Q4_K_M", marks=SLOW), "Q2_K"])
def test_every_field(ftype: str, files: Files, slow: SlowScores) -> None:
    """Each sum of each chunk to a millionth; agreement and counts exactly."""
    for score, truth in zip(files.scores(ftype), slow[ftype], strict=True):
        assert (score.n_tokens, score.same_top, score.kld_var) == (127, truth["same_top"], 0.0)
        for name in ("nll", "nll2", "tempered", "kld", "kld2", "dp", "dp2", "dp4"):
            assert getattr(score, name) == pytest.approx(truth[name], rel=1e-6, abs=1e-15), name
        # Of a token both are sure of, nothing but rounding is left.
        assert tokens_of(score).tolist() == pytest.approx(truth["kld_tokens"], rel=1e-6, abs=1e-14)


@SLOW
def test_the_types_are_in_order(slow: SlowScores) -> None:
    """Fewer bits lie further from the source, so what is compared above isn't noise."""
    kld = [math.fsum(truth["kld"] for truth in slow[ftype]) for ftype in FTYPES]
    assert 0 < kld[0] < kld[1] / 3 < kld[2] / 9


@SLOW
@pytest.mark.parametrize("ftype", FTYPES)
def test_compact_rows_are_near_the_truth(ftype: str, files: Files, slow: SlowScores) -> None:
    """Of every chunk within four standard errors of its own, which fall as more words are kept."""
    errors = []
    for k in KEPT:
        scores = files.scores(ftype, k)
        for score, truth in zip(scores, slow[ftype], strict=True):
            assert score.kld is not None and score.kld_var is not None
            assert abs(score.kld - truth["kld"]) < 4 * math.sqrt(score.kld_var) + 1e-9 * truth["kld"]
            assert score.same_top == truth["same_top"]
        errors.append([score.kld_var or 0.0 for score in scores])
    assert all(more > less > 0 for a, b in itertools.pairwise(errors) for more, less in zip(a, b, strict=True))


# -- identity and sign ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, *KEPT])
def test_the_source_against_itself(k: int | None, files: Files) -> None:
    """Opened fresh in another process, the same weights are at distance exactly zero, in every field and token."""
    for score in files.scores("F16", k):
        assert (score.kld, score.kld2, score.dp, score.dp2, score.dp4) == (0.0, 0.0, 0.0, 0.0, 0.0)
        assert score.same_top == score.n_tokens == 127
        assert not tokens_of(score).any()


@SLOW
@pytest.mark.parametrize("ftype", FTYPES)
@pytest.mark.parametrize("k", [None, *KEPT])
def test_divergence_is_never_negative(ftype: str, k: int | None, files: Files) -> None:
    """No token of any type, in either form of the reference."""
    for score in files.scores(ftype, k):
        assert len(tokens_of(score)) == 127 and (tokens_of(score) >= 0).all()
        assert score.kld is not None and score.kld > 0


# -- what the settings change --------------------------------------------------------------------------------------------


@SLOW
@pytest.mark.parametrize("name", ["F16", "Q4_K_M", "Q2_K"])
def test_threads_change_no_bit(name: str, files: Files) -> None:
    """One thread gives what two give."""
    assert files.otherwise(name, Settings(n_ctx=256, n_threads=1)) == files.scores(name)


@SLOW
@pytest.mark.parametrize("name", ["F16", "Q4_K_M"])
def test_batches_of_one_shape_of_work_differ_in_rounding_alone(name: str, files: Files) -> None:
    """llama.cpp computes 64 tokens at a time in both; ours adds up four parts of a chunk, or one."""
    whole, parts = (files.otherwise(name, Settings(256, n_batch, 64, 2)) for n_batch in (256, 64))
    for a, b in zip(whole, parts, strict=True):
        assert (a.kld_tokens, a.same_top) == (b.kld_tokens, b.same_top)
        for sums in ("nll", "nll2", "tempered", "kld", "kld2", "dp", "dp2", "dp4"):
            assert getattr(a, sums) == pytest.approx(getattr(b, sums), rel=1e-12, abs=1e-15), sums


#: Largest change by another ``n_ubatch``, in nats a token of a chunk: NLL, KL divergence. Three times what was measured. Another
#: shape takes another kernel, which rounds otherwise; a quantized matrix also rounds its input to 8 bits, and there the
#: smallest difference can tip a value to the next step.
BY_SHAPE = {"F16": (1e-4, 1e-7), "Q8_0": (1.5e-3, 1e-5), "Q4_K_M": (5e-3, 8e-5), "Q2_K": (5e-3, 1e-3)}


@SLOW
@pytest.mark.parametrize("n_ubatch", [32, 64])
@pytest.mark.parametrize("name", BY_SHAPE)
def test_shape_of_work(name: str, n_ubatch: int, files: Files) -> None:
    """Another ``n_ubatch`` than 512 changes numbers, but little: the reason why it is part of a measurement's key."""
    nll, kld = BY_SHAPE[name]
    for a, b in zip(files.otherwise(name, Settings(256, None, n_ubatch, 2)), files.scores(name), strict=True):
        assert abs(a.nll - b.nll) < nll * 127
        assert abs((a.kld or 0.0) - (b.kld or 0.0)) < kld * 127
