"""Chunks decoded side by side give each the bits that it has alone: of every kind of product, at several contexts, on many chunks.

The oracle is the same engine decoding one chunk at a time. llama.cpp multiplies by an expert's k-quants and IQ types in another kernel
when it gets eight tokens or more, so neighbours would change bits there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cerebellum.domain import Chunk, ChunkScore, Trial, TrialKind, tensor_types_of
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import ChunkScored, Settings, Sources
from cerebellum.llamacpp.trial.decoding import spread
from cerebellum.llamacpp.trial.engine import LlamaEngine
from cerebellum.scoring.reference import ReferenceStore
from tests.llamacpp import tiny
from tests.llamacpp.test_exact import importance

pytestmark = pytest.mark.engine

N_CHUNKS = 64
#: Types with kernels for many columns and some without, that need no long setting up.
KINDS = ("Q4_K", "Q2_K", "Q6_K", "IQ4_XS", "Q3_K", "Q5_K", "Q8_0", "Q4_0", "IQ4_NL", "F16")
SLOW_KINDS = ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M")
MADE: dict[str, Callable[[Path], Path]] = {
    "dense": tiny.llama,
    "8 experts": lambda path: tiny.experts(path, n=8, feed_forward=256),
    "64 experts": lambda path: tiny.experts(path, n=64, feed_forward=256),
    "shared experts": tiny.shared_experts,
}
BASE = Trial("base", TrialKind.BASE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = MADE[name](tmp_path_factory.mktemp("models") / "model.gguf")
        return made[name]

    return get


def opened(path: Path, n_ctx: int, imatrix: Path | None = None) -> LlamaEngine:
    settings = Settings(n_ctx=n_ctx, n_batch=512, n_ubatch=512, n_threads=1)
    return LlamaEngine(path, settings, Sources(path, imatrix))


def chunks_of(engine: LlamaEngine, n_ctx: int, n: int = N_CHUNKS) -> list[Chunk]:
    return engine.corpus("words", tiny.text(n * n_ctx), n_ctx).chunks(range(n))


def trials_of(path: Path, kinds: Sequence[str]) -> list[Trial]:
    """One in which each matrix of the first block has a type, those that are multiplied by experts' rows first."""
    tensors = [t for t in quantizable_tensors(read_model(path)) if t.block == 0]
    tensors.sort(key=lambda tensor: "exps" not in tensor.name)
    parts = [kinds[at : at + len(tensors)] for at in range(0, len(kinds), len(tensors))]
    return [
        Trial(
            " ".join(part),
            TrialKind.RECIPE,
            tensor_types_of({t.name: kind for t, kind in zip(tensors, part, strict=False)}),
        )
        for part in parts
    ]


def swept(engine: LlamaEngine, trials: Sequence[Trial], chunks: Sequence[Chunk]) -> dict[tuple[int, int], ChunkScore]:
    events = engine.sweep(trials, chunks)
    return {(event.trial, event.score.chunk): event.score for event in events if isinstance(event, ChunkScored)}


def alone(engine: LlamaEngine, trials: Sequence[Trial], chunks: Sequence[Chunk]) -> dict[tuple[int, int], ChunkScore]:
    return {(i, s.chunk): s for i, trial in enumerate(trials) for s in engine.score(trial.tensor_types, chunks)}


@pytest.mark.parametrize("n_ctx", [16, 32, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MADE)
def test_as_alone(name: str, n_ctx: int, files: Callable[[str], Path]) -> None:
    """k-quants and others, the base of halves too. Experts are taken alone; dense chunks side by side, where enough of each is scored."""
    path = files(name)
    engine, kinds = opened(path, n_ctx), KINDS[:4] if name == "64 experts" else KINDS
    chunks, trials = chunks_of(engine, n_ctx), [BASE, *trials_of(path, kinds)]
    assert swept(engine, trials, chunks) == alone(engine, trials, chunks)
    size = max(map(len, engine.decoder.bundles(chunks, len(trials))))
    assert size == (512 // n_ctx if name == "dense" and n_ctx > 16 else 1)
    engine.close()


@pytest.mark.slow  # ggml takes long to set up the tables of IQ1 and IQ2
@pytest.mark.parametrize("name", ["dense", "8 experts"])
def test_types_that_want_an_importance_matrix(name: str, files: Callable[[str], Path], tmp_path: Path) -> None:
    """Their kernels are others again."""
    path = files(name)
    engine = opened(path, 32, tiny.imatrix_gguf(tmp_path / "imatrix.gguf", importance(path)))
    chunks, trials = chunks_of(engine, 32), trials_of(path, SLOW_KINDS)
    assert swept(engine, trials, chunks) == alone(engine, trials, chunks)
    engine.close()


@pytest.mark.parametrize("name", ["8 experts", "shared experts"])
def test_the_reference_s_rows(name: str, files: Callable[[str], Path], tmp_path: Path) -> None:
    """Kept from many chunks at once and from one at a time: the same bytes. The order of chunks is of no account either."""
    engine = opened(files(name), 32)
    chunks = chunks_of(engine, 32, 16)
    for folder, parts in (("together", [chunks[::-1]]), ("alone", [[chunk] for chunk in chunks])):
        for part in parts:
            list(engine.capture(part, ReferenceStore(tmp_path / folder, None)))
    for path in (tmp_path / "alone").iterdir():
        one, other = np.load(path), np.load(tmp_path / "together" / path.name)
        assert all(one[key].tobytes() == other[key].tobytes() for key in one.files)
    engine.close()


def test_neighbours_do_change_an_expert_s_bits(files: Callable[[str], Path]) -> None:
    """The premise: forced side by side, k-quants of experts give other bits, so a rule is needed and not only a try of one bundle."""
    path = files("8 experts")
    engine = opened(path, 32)
    chunks, (trial, *_) = chunks_of(engine, 32), trials_of(path, KINDS)
    with engine.swapped(trial.tensor_types):
        bundles = engine.decoder._packed(chunks)
        assert not all(map(engine.decoder.same_side_by_side, bundles))
    engine.close()


def test_more_than_one_bundle_is_tried() -> None:
    """The more there is to decode the more, from the first to the last."""
    bundles = [(chunk, chunk) for chunk in (Chunk(i, np.zeros(1, np.int32)) for i in range(10))]
    assert [b[0].id for b in spread(bundles, 20)] == [0]
    assert [b[0].id for b in spread(bundles, 200)] == [0, 4, 9]
    assert [b[0].id for b in spread(bundles, 2000)] == [0, 3, 6, 9]
