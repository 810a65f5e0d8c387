"""With all layers on a GPU: a trial is, to the last bit, its file opened fresh, replayed or whole, and leaves nothing behind.

Skipped where llama.cpp finds no GPU. The oracles are those of `test_exact` and `test_replay`, on the same device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as lc
import numpy as np
import pytest

from cerebellum.domain import Tensor, TensorType, TensorTypes
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.overrides import Pairs, pairs, pin
from cerebellum.gguf.types import fallback_type
from cerebellum.llamacpp.files import realized_types, write_file
from cerebellum.llamacpp.native import native_log, tensor_at
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.llamacpp.trial.engine import LlamaEngine
from cerebellum.llamacpp.trial.replay_cache import ReplayCache
from cerebellum.llamacpp.trial.sweep import TrialSweep, captured_of
from tests.llamacpp.test_replay import BASE, MADE, chunks_of, files, noted, singles, swept, whole

__all__ = ["files"]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    native_log()
    if not lc.llama_supports_gpu_offload():
        pytest.skip("llama.cpp finds no GPU, or is built for none")


#: Two batches a chunk; the first has nothing to score.
SETTINGS = Settings(n_ctx=64, n_batch=32, n_ubatch=32, n_threads=2, n_gpu_layers=99)
#: One batch a chunk: graphs of equal shape, one after the other, as CUDA's own graphs want them.
ONE_BATCH = replace(SETTINGS, n_batch=64, n_ubatch=64)
FTYPE = "Q3_K_M"
KINDS = ("Q2_K", "Q8_0", "Q4_K", "Q5_1", "Q6_K", "IQ4_XS", "Q4_0", "IQ3_S", "Q5_K", "F16", "IQ4_NL", "Q4_1", "BF16")
Files = tuple[Path, Path]


@contextmanager
def opened(path: Path, source: Path, settings: Settings = SETTINGS) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(path, settings, Sources(source))
    try:
        yield engine
    finally:
        engine.close()


def rows(engine: LlamaEngine, tensor_types: TensorTypes) -> list[bytes]:
    """Logits of two chunks, computed whole."""
    return [engine.logits(tensor_types, chunk).tobytes() for chunk in chunks_of(engine)]


def written(own: Files, tensor_types: TensorTypes, path: Path) -> Path:
    """A file with exactly these types."""
    source, base = own[0], read_model(own[1])

    def realized(lines: Pairs) -> dict[str, str]:
        return dict(realized_types(source, FTYPE, lines, None))

    write_file(source, path, FTYPE, pairs(pin(tensor_types, base.types, realized, base)), None)
    assert read_model(path).types == {**base.types, **{swap.tensor: swap.type for swap in tensor_types}}
    return path


def by_role(tensors: Iterable[Tensor]) -> list[TensorType]:
    """One tensor a role, from the middle block or outside the blocks, each role at another type than the base's."""
    roles = {t.role: t for t in tensors if t.block in (None, 1)}
    found = []
    for place, (_, tensor) in enumerate(sorted(roles.items())):
        kinds = (fallback_type(kind, tensor.row_length).name for kind in (*KINDS[place % len(KINDS) :], *KINDS))
        found.append(TensorType(tensor.name, next(kind for kind in kinds if kind != tensor.type)))
    return found


@pytest.mark.parametrize("name", MADE)
def test_every_role_is_its_file_opened_fresh(name: str, files: Callable[[str], Files], tmp_path: Path) -> None:
    """Each scored row of each trial, embeddings and a tied output included; after all of them the base is as before, and as its file."""
    source, base = files(name)
    with opened(base, source) as engine:
        before = rows(engine, ())
        tensor_types = [
            swap for swap in by_role(quantizable_tensors(read_model(base))) if swap.tensor not in engine.unused
        ]
        memory = {swap: rows(engine, (swap,)) for swap in tensor_types}
        assert rows(engine, ()) == before
    disk = {}
    for swap in tensor_types:
        path = written(files(name), (swap,), tmp_path / "trial.gguf")
        with opened(path, source) as fresh:
            disk[swap] = rows(fresh, ())
        path.unlink()
    assert [f"{s.tensor} as {s.type}" for s in tensor_types if memory[s] != disk[s]] == []
    assert [f"{s.tensor} as {s.type}" for s in tensor_types if memory[s] == before] == []
    with opened(base, source) as fresh:
        assert rows(fresh, ()) == before


@pytest.mark.parametrize("name", MADE)
def test_a_replayed_trial_is_the_trial_computed_whole(name: str, files: Callable[[str], Files]) -> None:
    """Trials in the first, the middle and the last block, each scored row; and they are replayed."""
    source, base = files(name)
    with opened(base, source) as engine:
        trials, (chunk,) = [BASE, *singles(base, (0, 1, 2))], chunks_of(engine, [1])
        starts = TrialSweep(engine, engine.decoder, trials).starts_on((chunk,))
        kept = captured_of(starts)
        assert {0, 1} <= set(kept)
        engine.decoder.lean, states = True, ReplayCache()
        captured = engine.decoder.capturing((chunk,), states, kept, whole=True)
        assert engine.decoder.rows((chunk,), captured).tobytes() == engine.decoder.rows((chunk,), None).tobytes()
        differ = []
        for trial, start in zip(trials, starts, strict=True):
            if start < 0:
                continue
            with engine.swapped(trial.tensor_types):
                replayed = engine.decoder.rows((chunk,), engine.decoder.replaying((chunk,), states, start))
                if not np.array_equal(replayed, engine.decoder.rows((chunk,), None)):
                    differ.append(trial.label)
        assert differ == []


@pytest.mark.parametrize("name", MADE)
def test_a_sweep_gives_the_sums_of_trials_computed_whole(name: str, files: Callable[[str], Files]) -> None:
    """Whatever the engine leaves out, and after all trials the base's sums are as before."""
    source, base = files(name)
    with opened(base, source) as engine:
        trials, chunks = [BASE, *singles(base, (None, 0, 1, 2))], chunks_of(engine)
        before = whole(engine, [BASE], chunks)
        assert swept(engine, trials, chunks) == whole(engine, trials, chunks)
        assert whole(engine, [BASE], chunks) == before


@pytest.mark.parametrize("name", ["llama", "gemma4"])
def test_quantizing_ahead_changes_no_number(
    name: str, files: Callable[[str], Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next trial's tensors made while the GPU computes this one: nearly all are, and the sums are those without."""
    source, base = files(name)
    trials = [BASE, *singles(base, (0, 1, 2))]
    with opened(base, source) as engine:
        made = noted(engine, monkeypatch)
        ahead = swept(engine, trials, chunks_of(engine))
        assert sum(each.ahead for each in made) >= len(made) - 2
    with opened(base, source) as engine:
        monkeypatch.setattr(engine, "ahead", lambda tensor_types: None)
        assert swept(engine, trials, chunks_of(engine)) == ahead


@pytest.mark.parametrize("kinds", [("Q4_0", "IQ4_NL"), ("Q3_K", "IQ3_S"), ("F16", "BF16")], ids="+".join)
@pytest.mark.parametrize("replay_bytes", [1 << 30, 0])
def test_types_of_one_size_in_the_same_memory(
    replay_bytes: int, kinds: tuple[str, str], files: Callable[[str], Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial's data freed, the next one's at its address, in a type of equally many bytes: nothing kept of the first is used for it."""
    source, base = files("llama")
    settings = replace(ONE_BATCH, replay_bytes=replay_bytes)
    trials = [(TensorType("blk.1.attn_output.weight", kind),) for kind in kinds]
    fresh = {}
    for tensor_types in trials:
        with opened(base, source, settings) as engine:
            fresh[tensor_types] = [
                engine.logits(tensor_types, chunk).tobytes() for chunk in chunks_of(engine, range(3))
            ]
    monkeypatch.setattr("cerebellum.llamacpp.trial.engine.CACHE_BYTES", 0)
    with opened(base, source, settings) as engine:
        chunks, places = chunks_of(engine, range(3)), set[int]()
        for tensor_types in (*trials, *trials):
            with engine.swapped(tensor_types):
                places.add(tensor_at(engine.addresses(tensor_types[0].tensor)[0]).data)
                assert [engine.decoder.rows((chunk,), None).tobytes() for chunk in chunks] == fresh[tensor_types], (
                    tensor_types
                )
    if len(places) > 1:
        pytest.skip(
            f"the data lay in {len(places)} places one after the other: nothing of one could be taken for another's"
        )
