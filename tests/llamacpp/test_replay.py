"""Replay: a trial computed from the block that it changes is, to the last bit, the trial computed whole."""

from __future__ import annotations

import ctypes as C
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from cerebellum.allocation.plan import single_trial
from cerebellum.domain import Chunk, ChunkScore, TensorType, Trial, TrialKind, tensor_types_of
from cerebellum.errors import EngineError, TypeChoiceError
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.types import fallback_type
from cerebellum.llamacpp import native
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import ChunkScored, Note, Settings, Sources, TrialStarted
from cerebellum.llamacpp.trial import decoding
from cerebellum.llamacpp.trial.decoding import Bundle, Decoder, Digests, Programs
from cerebellum.llamacpp.trial.engine import CACHE_BYTES, LlamaEngine
from cerebellum.llamacpp.trial.eval_callback import EvalCallback, program
from cerebellum.llamacpp.trial.graph import Graph
from cerebellum.llamacpp.trial.replay_cache import ReplayCache
from cerebellum.llamacpp.trial.sweep import TrialSweep, affordable, in_parts
from cerebellum.llamacpp.trial.weights import Stored, Weights
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.text.chat import Conversation, Conversations
from tests.llamacpp import tiny
from tests.templates import CHATML

pytestmark = pytest.mark.engine

BUNDLED = Path(__file__).resolve().parents[2] / "src" / "cerebellum" / "bundled" / "world-gemma4-F16.gguf"
#: Four batches a chunk; the first two have nothing to score.
SETTINGS = Settings(n_ctx=64, n_batch=16, n_ubatch=16, n_threads=2)
BASE = Trial("base", TrialKind.BASE)
MADE: dict[str, Callable[[Path], Path]] = {
    "llama": tiny.llama,
    "experts": tiny.experts,
    "qwen3": tiny.qwen3,
    "gemma3": tiny.gemma3,
    "gemma4": tiny.gemma4,
}
ALL = (*MADE, "bundled")
#: Where every role is tried, the bundled model takes long; a small one of its architecture is tried.
SMALL_ONES = [*MADE, pytest.param("bundled", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Name → (source, its Q3_K_M)."""
    folder, made = tmp_path_factory.mktemp("replay"), {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            source = BUNDLED if name == "bundled" else {**MADE, "mamba": tiny.mamba}[name](folder / f"{name}.gguf")
            LlamaBackend().quantize(source, folder / f"{name}-base.gguf", "Q3_K_M")
            made[name] = source, folder / f"{name}-base.gguf"
        return made[name]

    return get


def opened(
    files: tuple[Path, Path], settings: Settings = SETTINGS, kind: type[LlamaEngine] = LlamaEngine
) -> LlamaEngine:
    return kind(files[1], settings, Sources(files[0]))


def chunks_of(engine: LlamaEngine, numbers: Sequence[int] = (0, 2)) -> list[Chunk]:
    return engine.corpus("words", tiny.text(400), engine.settings.n_ctx).chunks(numbers)


def singles(path: Path, blocks: Sequence[int | None] | None = None) -> list[Trial]:
    """Every tensor (of some blocks) alone at Q2_K or what its rows fall back to, last block first."""
    base = read_model(path)
    found = []
    for tensor in sorted(quantizable_tensors(base), key=lambda t: -(t.block or 0)):
        kind = fallback_type("Q2_K", tensor.row_length).name
        if kind == tensor.type:
            kind = fallback_type("Q4_K", tensor.row_length).name
        if blocks is None or tensor.block in blocks:
            found.append(single_trial(TensorType(tensor.name, kind)))
    return found


def whole(engine: LlamaEngine, trials: Sequence[Trial], chunks: Sequence[Chunk]) -> dict[tuple[int, int], ChunkScore]:
    """The oracle: each trial computed whole, one chunk at a time, in a context without a callback."""
    found = {}
    with engine.resting(), engine._decoding(replace(engine.settings, replay_bytes=0)) as plain:
        assert plain.places is False
        for i, trial in enumerate(trials):
            with engine.swapped(trial.tensor_types):
                for chunk in chunks:
                    (found[i, chunk.id],) = engine.score_bundle(plain, (chunk,), None, None)
    return found


def swept(
    engine: LlamaEngine, trials: Sequence[Trial], chunks: Sequence[Chunk], said: str = ""
) -> dict[tuple[int, int], ChunkScore]:
    """A sweep's figures; the user is told what has ``said`` in it, once, or nothing."""
    found, told = {}, list[str]()
    for event in engine.sweep(trials, chunks):
        if isinstance(event, Note):
            told.append(event.text)
        if isinstance(event, ChunkScored):
            assert (event.trial, event.score.chunk) not in found
            found[event.trial, event.score.chunk] = event.score
    assert len(told) == bool(said) and all(said in text for text in told), told
    return found


class Made(NamedTuple):
    """A tensor that was quantized; ``ahead``: by another thread than the main one."""

    tensor: str
    type: str
    ahead: bool


def noted(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """What the engine quantizes from now on."""
    made: list[Made] = []
    make = engine._make

    def noting(tensor: str, kind: str) -> npt.NDArray[np.uint8]:
        made.append(Made(tensor, kind, threading.current_thread() is not threading.main_thread()))
        return make(tensor, kind)

    monkeypatch.setattr(engine, "_make", noting)
    return made


@pytest.mark.parametrize("name", SMALL_ONES)
def test_every_role_of_first_middle_and_last_block(name: str, files: Callable[[str], tuple[Path, Path]]) -> None:
    """Every swappable tensor there is in those blocks and outside them, each scored row, bit for bit."""
    engine = opened(files(name))
    last = read_model(files(name)[1]).n_blocks - 1
    trials = [BASE, *singles(files(name)[1], (None, 0, last // 2, last))]
    (chunk,) = chunks_of(engine, [1])
    starts = TrialSweep(engine, engine.decoder, trials).starts_on((chunk,))
    roles = {swap.tensor.split(".")[-2] for trial in trials for swap in trial.tensor_types}
    assert len(roles) >= 7 and {start for start in starts if start >= 0} >= {last // 2 - 1, last - 1} - {-1}
    engine.decoder.lean = True
    states = ReplayCache()
    kept = sorted({s for s in starts if s >= 0})
    base = engine.decoder.rows((chunk,), engine.decoder.capturing((chunk,), states, kept, whole=True))
    assert base.tobytes() == engine.decoder.rows((chunk,), None).tobytes()
    moved = 0
    for trial, start in zip(trials[1:], starts[1:], strict=True):
        with engine.swapped(trial.tensor_types):
            replayed = engine.decoder.rows((chunk,), engine.decoder.replaying((chunk,), states, start))
            assert replayed.tobytes() == engine.decoder.rows((chunk,), None).tobytes(), trial.label
        moved += not np.array_equal(replayed, base)
    assert moved >= len(trials) - 1 - len(engine.unused)
    engine.close()


@pytest.mark.parametrize("name", ALL)
def test_logits_computed_in_place_are_those_that_are_copied(
    name: str, files: Callable[[str], tuple[Path, Path]]
) -> None:
    """Chunks alone and side by side, the base and a trial, beside an engine without a callback; and llama.cpp's other place for them
    isn't written."""
    for settings in (SETTINGS, Settings(n_ctx=32, n_batch=128, n_ubatch=128, n_threads=2)):
        engine, plain = opened(files(name), settings), opened(files(name), replace(settings, replay_bytes=0))
        chunks = chunks_of(engine, range(3))
        trial = singles(files(name)[1], (None, 1))[-1]
        for bundle in [(chunks[0],), tuple(chunks[: engine.decoder.together])]:
            for tensor_types in ((), trial.tensor_types):
                with engine.swapped(tensor_types), plain.swapped(tensor_types):
                    assert engine.decoder.rows(bundle, None).tobytes() == plain.decoder.rows(bundle, None).tobytes()
        assert engine.decoder.places is True and plain.decoder.places is False
        bundle = (chunks[0],)
        logits, (*_, graph) = engine.decoder.rows(bundle, None), engine.decoder.graphs(bundle)
        assert len(graph.outputs) == (4 if name in ("gemma4", "bundled") else 1)
        last = logits[-(graph.logit_bytes // logits[0].nbytes) :].tobytes()
        assert C.string_at(graph.nodes[-1].data, len(last)) != last
        engine.decoder.places = False
        assert engine.decoder.rows(bundle, None).tobytes() == logits.tobytes()
        assert C.string_at(graph.nodes[-1].data, len(last)) == last
        engine.close()
        plain.close()


class Doubtful(Decoder):
    """Two tokens with their logits placed differ from what they were: as where llama.cpp would read them somewhere else."""

    def digests(self, bundle: Bundle, programs: Programs) -> Digests:
        found = super().digests(bundle, programs)
        return found if programs is None or len(bundle[0].tokens) > 2 else dict.fromkeys(found, b"")


class Doubting(LlamaEngine):
    """An engine of such a decoder."""

    decoder_type = Doubtful


def test_where_logits_in_place_differ_they_are_copied(files: Callable[[str], tuple[Path, Path]]) -> None:
    """Found by trying, and the user is told, once; the numbers are right all the same."""
    engine = opened(files("gemma4"), kind=Doubting)
    chunks, trials = chunks_of(engine), [BASE, *singles(files("gemma4")[1], (1, 2))]
    assert swept(engine, trials, chunks, "logits computed where they are read differ") == whole(engine, trials, chunks)
    assert swept(engine, trials, chunks) == whole(engine, trials, chunks)
    assert engine.decoder.places is False and engine.decoder.replays is True
    rows, (*_, graph) = engine.decoder.rows((chunks[0],), None), engine.decoder.graphs((chunks[0],))
    last = rows[-(graph.logit_bytes // rows[0].nbytes) :].tobytes()
    assert C.string_at(graph.nodes[-1].data, len(last)) == last
    engine.close()


def test_where_the_batch_is_another_than_was_recorded_it_is_an_error(
    files: Callable[[str], tuple[Path, Path]],
) -> None:
    """Logits of another size are not placed: they might not fit."""
    engine = opened(files("llama"))
    (chunk,) = chunks_of(engine, [1])
    before = engine.decoder.rows((chunk,), None)
    graphs = engine.decoder.graphs((chunk,))
    graphs[-1].logit_bytes -= 4
    with pytest.raises(EngineError, match="no room for the recorded batch's logits"):
        engine.decoder.rows((chunk,), None)
    graphs[-1].logit_bytes += 4
    assert engine.decoder.rows((chunk,), None).tobytes() == before.tobytes()
    engine.close()


@pytest.mark.parametrize(
    ("kept", "match"), [(slice(1), "nodes where"), (slice(-1), "nodes where"), (slice(1, None), "was recorded")]
)
def test_another_graph_than_was_recorded_is_an_error(
    kept: slice, match: str, files: Callable[[str], tuple[Path, Path]]
) -> None:
    """More nodes, or others at a stop; the engine goes on."""
    engine = opened(files("llama"), replace(SETTINGS, n_batch=64, n_ubatch=64))
    (chunk,) = chunks_of(engine, [1])
    before = engine.decoder.rows((chunk,), None)
    (graph,) = engine.decoder.graphs((chunk,))
    other = Graph(graph.nodes[kept], graph.logit_bytes)
    with pytest.raises(EngineError, match=match):
        engine.decoder.rows(
            (chunk,), [program(other, range(len(other)), stops=[len(other) - 2] if len(other) > 1 else [])]
        )
    assert engine.decoder.rows((chunk,), None).tobytes() == before.tobytes()
    engine.close()


def test_what_goes_wrong_while_a_graph_is_recorded_is_raised(
    files: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not swallowed by native code, with a node missing."""
    engine = opened(files("llama"))
    (chunk,) = chunks_of(engine, [1])

    def broken() -> frozenset[int]:
        raise EngineError("planted")

    with monkeypatch.context() as patch, pytest.raises(EngineError, match="planted"):
        patch.setattr(native, "empty_ops", broken)
        engine.decoder.graphs((chunk,))
    trials = [BASE, *singles(files("llama")[1], (1,))]
    assert swept(engine, trials, [chunk]) == whole(engine, trials, [chunk])
    engine.close()


def test_the_reference_leaves_out_what_is_dead_and_is_the_same(
    files: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """Rows kept with and without it, byte for byte; and whole files measured so give the same sums."""
    for name, settings in (("lean", SETTINGS), ("whole", replace(SETTINGS, replay_bytes=0))):
        engine = opened(files("bundled"), settings)
        chunks = chunks_of(engine, range(6))
        list(engine.capture(chunks, ReferenceStore(tmp_path / name, None)))
        assert engine.decoder.lean is (name == "lean")
        assert swept(engine, [BASE], chunks) == whole(engine, [BASE], chunks)
        engine.close()
    for path in (tmp_path / "whole").iterdir():
        one, other = np.load(path), np.load(tmp_path / "lean" / path.name)
        assert all(one[key].tobytes() == other[key].tobytes() for key in one.files)


@pytest.mark.parametrize("name", ALL)
def test_a_sweep_gives_the_sums_of_trials_computed_whole(name: str, files: Callable[[str], tuple[Path, Path]]) -> None:
    """Sums of every trial on every chunk; the engine found its replays exact. Of the large model every third tensor."""
    engine = opened(files(name))
    step = 3 if name == "bundled" else 1
    trials = [BASE, *singles(files(name)[1], (None, 0, 1, read_model(files(name)[1]).n_blocks - 1))[::step]]
    chunks = chunks_of(engine)
    assert swept(engine, trials, chunks) == whole(engine, trials, chunks)
    assert engine.decoder.replays is True
    engine.close()


GPU = replace(SETTINGS, n_gpu_layers=99)
IDLE = replace(SETTINGS, n_threads=1, has_idle_cores=True)


@pytest.mark.parametrize(
    ("name", "settings"), [("llama", GPU), ("gemma4", GPU), ("llama", IDLE), ("gemma4", IDLE), ("llama", SETTINGS)]
)
def test_what_the_next_trial_swaps_is_made_while_this_one_is_computed(
    name: str, settings: Settings, files: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with layers on a GPU (this build has none and computes them here), and with idle cores: the same sums, each tensor made once, by
    the maker's thread. With all cores busy nothing is."""
    plain = opened(files(name), replace(SETTINGS, n_gpu_layers=settings.n_gpu_layers))
    engine = opened(files(name), settings)
    made = noted(engine, monkeypatch)
    chunks, trials = chunks_of(engine), [BASE, *singles(files(name)[1], (0, 1, 2))]
    assert swept(engine, trials, chunks) == whole(plain, trials, chunks)
    wanted = [swap.tensor for trial in trials for swap in trial.tensor_types if engine.addresses(swap.tensor)]
    assert sorted(each.tensor for each in made) == sorted(wanted)
    ahead = sum(each.ahead for each in made)
    # Not the first one, nor the one that the self-check took.
    assert ahead == 0 if settings is SETTINGS else ahead >= len(wanted) - 2
    engine.close()
    plain.close()


def n_bytes(stored: Mapping[int, Stored]) -> int:
    return sum(each.n_bytes for each in stored.values())


def test_only_what_may_be_kept_is_made_ahead(files: Callable[[str], tuple[Path, Path]]) -> None:
    """In the order of the next swaps; what was begun for others is dropped."""
    engine = opened(files("llama"), IDLE)
    one, two, three = (trial.tensor_types[0] for trial in singles(files("llama")[1], (1,))[:3])
    weights = engine._weights
    with engine.swapped((one, two, three)):
        sizes = [n_bytes(weights._cache[swap.tensor, swap.type]) for swap in (one, two, three)]
    assert [weights._size((swap.tensor, swap.type)) for swap in (one, two, three)] == sizes
    weights.trim(0)
    weights._limit = sizes[0] + sizes[1]
    engine.ahead((one, two, three))
    assert list(weights._coming) == [(one.tensor, one.type), (two.tensor, two.type)]
    engine.ahead((three,))
    assert list(weights._coming) == [(three.tensor, three.type)]
    engine.close()


def test_who_dies_while_another_is_quantized_ahead_names_both(
    files: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until that is done, and no longer."""
    engine, go = opened(files("llama"), replace(IDLE, replay_bytes=0)), threading.Event()
    make = engine._make

    def waiting(tensor: str, kind: str) -> npt.NDArray[np.uint8]:
        if threading.current_thread() is not threading.main_thread():
            assert go.wait(60)
        return make(tensor, kind)

    monkeypatch.setattr(engine, "_make", waiting)
    one, two = singles(files("llama")[1], (1,))[:2]
    started = list[str]()
    for event in engine.sweep([one, two], chunks_of(engine)):
        if isinstance(event, TrialStarted) and not event.base:
            started.append(event.told((one, two)[event.trial].label))
            if event.ahead:
                assert event == TrialStarted(0, event.chunk, ahead=two.label)
                go.set()
                for coming in engine._weights._coming.values():
                    coming.result()
    chunk = chunks_of(engine)[0].id
    assert f"trial {one.label!r}, chunk {chunk} (while trial {two.label!r} was being quantized)" in started
    assert sum("while" in told for told in started) == 1
    engine.close()


@pytest.mark.parametrize("room", [CACHE_BYTES, 0])
def test_what_several_trials_swap_is_made_once(
    room: int, files: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and together with others, and once more in a race's next round or among the controls: a sweep of its own.
    Where it can't be kept it is made again."""
    monkeypatch.setattr("cerebellum.llamacpp.trial.engine.CACHE_BYTES", room)
    engine = opened(files("llama"))
    made = noted(engine, monkeypatch)
    alone = singles(files("llama")[1], (1, 2))
    together = Trial("all", TrialKind.BLANKET, tuple(swap for trial in alone for swap in trial.tensor_types))
    chunks, trials = chunks_of(engine), [BASE, *alone, together]
    found = swept(engine, trials, chunks)
    assert swept(engine, trials, chunks) == found == whole(engine, trials, chunks)
    wanted = sorted(swap.tensor for swap in together.tensor_types)
    assert sorted({each.tensor for each in made}) == wanted and (len(made) == len(wanted)) == bool(room) == bool(
        engine._weights._cache
    )
    engine.close()


def test_recipes_in_a_row_share_what_they_have_in_common_and_take_no_more_memory_than_one(
    files: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each larger than the cache, each but one tensor like the one before: that one alone is made, and nothing stays afterwards."""
    monkeypatch.setattr("cerebellum.llamacpp.trial.engine.CACHE_BYTES", 0)
    engine = opened(files("llama"))
    made, stored = noted(engine, monkeypatch), list[int]()
    first = tuple(trial.tensor_types[0] for trial in singles(files("llama")[1], (1, 2)))
    others = [TensorType(swap.tensor, "Q8_0") for swap in first[:3]]
    recipes = [Trial(f"{n} changed", TrialKind.RECIPE, (*others[:n], *first[n:])) for n in range(len(others) + 1)]
    weights = engine._weights
    monkeypatch.setattr(weights, "_stored", watched(weights, stored))
    chunks = chunks_of(engine)
    found = swept(engine, recipes, chunks)
    monkeypatch.undo()
    assert {(each.tensor, each.type) for each in made} == {(s.tensor, s.type) for s in (*first, *others)}
    assert len(made) <= len(first) + 2 * len(others)  # a trial of each type is tried first
    sizes = [sum(weights._size((s.tensor, s.type)) for s in recipe.tensor_types) for recipe in recipes]
    assert max(stored) <= max(sizes) and not weights._cache
    assert found == whole(engine, recipes, chunks)
    engine.close()


def test_a_swap_that_fails_before_it_begins_leaves_the_engine_usable(files: Callable[[str], tuple[Path, Path]]) -> None:
    """A type that there isn't: the next trial was told that swaps are already in force."""
    engine = opened(files("llama"))
    (chunk, *_), (trial, *_) = chunks_of(engine), singles(files("llama")[1], (1,))
    with pytest.raises(TypeChoiceError):
        engine.logits((TensorType(trial.tensor_types[0].tensor, "Q9_9"),), chunk)
    before = engine.logits((), chunk).copy()
    assert not np.array_equal(engine.logits(trial.tensor_types, chunk), before)
    assert np.array_equal(engine.logits((), chunk), before)
    engine.close()


def watched(weights: Weights, sizes: list[int]) -> Callable[..., Any]:
    """`Weights._stored`, which notes how many bytes are cached after each."""
    store = weights._stored

    def noting(*given: Any) -> Any:
        made = store(*given)
        sizes.append(sum(map(n_bytes, weights._cache.values())))
        return made

    return noting


def test_a_part_of_what_does_not_all_fit_is_kept(
    files: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TrialSweep after sweep over twice as much as there is room for; what a later sweep has no use for makes room."""
    trials = singles(files("llama")[1], (1, 2))
    monkeypatch.setattr("cerebellum.llamacpp.trial.engine.CACHE_BYTES", 1 << 30)
    engine = opened(files("llama"))
    chunks = chunks_of(engine)
    found, bytes_kept = swept(engine, trials, chunks), {key: n_bytes(x) for key, x in engine._weights._cache.items()}
    engine.close()
    monkeypatch.setattr("cerebellum.llamacpp.trial.engine.CACHE_BYTES", room := sum(bytes_kept.values()) // 2)
    engine = opened(files("llama"))
    made = noted(engine, monkeypatch)

    def made_by(own: Sequence[Trial]) -> list[tuple[str, str]]:
        made.clear()
        assert swept(engine, own, chunks) == {
            (own.index(trials[number]), chunk): score
            for (number, chunk), score in found.items()
            if trials[number] in own
        }
        return sorted((each.tensor, each.type) for each in made)

    made_by(trials)
    kept = set(engine._weights._cache)
    assert 0 < sum(bytes_kept[key] for key in kept) <= room
    assert made_by(trials) == sorted(set(bytes_kept) - kept)
    others = [t for t in trials if not {(s.tensor, s.type) for s in t.tensor_types} & kept]
    few = others[: len(others) // 2]
    made_by(few)
    assert made_by(few) == [] and set(engine._weights._cache) >= {
        (s.tensor, s.type) for t in few for s in t.tensor_types
    }
    engine.close()


def test_most_of_a_trial_late_in_the_model_is_left_out(files: Callable[[str], tuple[Path, Path]]) -> None:
    """Gemma's last blocks leave no keys and values: a batch without scored tokens computes nothing of them."""
    engine = opened(files("bundled"))
    (chunk,) = chunks_of(engine, [1])
    first, *_, last = engine.decoder.graphs((chunk,))
    n = len(first.boundaries)
    assert not first.cut(first.boundaries[n - 2]) and last.cut(last.boundaries[n - 2])
    assert sum(first.live) < 0.7 * len(first) and all(last.live)
    engine.close()


def test_several_swaps_begin_at_the_first_of_them(files: Callable[[str], tuple[Path, Path]]) -> None:
    """A recipe and a blanket are trials like any other."""
    engine = opened(files("gemma4"))
    chunks = chunks_of(engine)
    late = tensor_types_of({"blk.1.ffn_gate.weight": "Q2_K", "blk.2.ffn_up.weight": "Q2_K"})
    everything = tensor_types_of(
        (t.tensor_types[0].tensor, t.tensor_types[0].type)
        for t in singles(files("gemma4")[1])
        if t.tensor_types[0].tensor not in engine.unused
    )
    trials = [BASE, Trial("late", TrialKind.RECIPE, late), Trial("all", TrialKind.BLANKET, everything)]
    assert TrialSweep(engine, engine.decoder, trials).starts_on((chunks[0],)) == [-1, 0, -1]
    assert swept(engine, trials, chunks) == whole(engine, trials, chunks)
    engine.close()


@pytest.mark.parametrize("kept", [64, 1])
def test_conversations_of_different_lengths(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each length is a shape of its own, recorded once; where too many to keep, a few times, not once a trial."""
    monkeypatch.setattr(decoding, "GRAPHS", kept)
    record, recorded = Decoder._record, 0

    def counting(decoder: Decoder, bundle: Bundle, tap: EvalCallback) -> list[Graph]:
        nonlocal recorded
        recorded += 1
        return record(decoder, bundle, tap)

    monkeypatch.setattr(Decoder, "_record", counting)
    source = tiny.llama(tmp_path / "chat.gguf", chat_template=CHATML, specials=("<|im_start|>", "<|im_end|>"))
    LlamaBackend().quantize(source, tmp_path / "base.gguf", "Q3_K_M")
    engine = opened((source, tmp_path / "base.gguf"))
    talks = tuple(
        Conversation("talks", ({"role": "user", "content": "who"}, {"role": "assistant", "content": tiny.text(n)}))
        for n in (3, 5, 8, 3)
    )
    corpus = engine.chat_corpus(Conversations("talks", "0" * 64, talks), 64)
    chunks = corpus.chunks(range(corpus.n_chunks))
    trials = [BASE, *singles(tmp_path / "base.gguf", (1, 2))]
    assert swept(engine, trials, chunks) == whole(engine, trials, chunks)
    assert recorded <= (4 if kept == 64 else 3 * len(chunks) + 2) < len(trials)  # with two tokens for placing logits
    engine.close()


@pytest.fixture(scope="module")
def five_whole(files: Callable[[str], tuple[Path, Path]]) -> dict[tuple[int, int], ChunkScore]:
    """The oracle of the next test, which depends on no memory."""
    engine = opened(files("gemma4"))
    found = whole(engine, [BASE, *singles(files("gemma4")[1], (1, 2))], chunks_of(engine, range(5)))
    engine.close()
    return found


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "n_bytes", [0, pytest.param(1, marks=SLOW), 40_000, pytest.param(100_000, marks=SLOW), 1 << 20]
)
def test_any_allowed_memory_gives_the_same_sums(
    n_bytes: int, files: Callable[[str], tuple[Path, Path]], five_whole: dict[tuple[int, int], ChunkScore]
) -> None:
    """Little memory means parts, fewer boundaries, or none: more work, the same numbers, and never more bytes than allowed."""
    engine = opened(files("gemma4"), replace(SETTINGS, replay_bytes=n_bytes))
    chunks = chunks_of(engine, range(5))
    trials = [BASE, *singles(files("gemma4")[1], (1, 2))]
    if n_bytes > 1:
        starts = [TrialSweep(engine, engine.decoder, trials).starts_on((chunk,)) for chunk in chunks]
        for part in in_parts(engine.decoder, [(chunk,) for chunk in chunks], starts):
            kept = [sorted({s for s in start if s >= 0}) for start in part.starts]
            assert sum(engine.decoder.state_bytes(b)(k) for b, k in zip(part.bundles, kept, strict=True)) <= n_bytes
    assert swept(engine, trials, chunks) == five_whole
    engine.close()


def test_what_is_kept_takes_the_bytes_that_were_reckoned(files: Callable[[str], tuple[Path, Path]]) -> None:
    """The plan of the memory is the memory."""
    engine = opened(files("gemma4"))
    (chunk,) = chunks_of(engine, [0])
    states = ReplayCache()
    engine.decoder.pass_over((chunk,), engine.decoder.capturing((chunk,), states, [0, 1], whole=False))
    assert states.n_bytes == engine.decoder.state_bytes((chunk,))([0, 1]) > 0
    engine.close()


def test_every_mth_boundary_is_kept_where_all_are_too_many() -> None:
    """The first is always among them, for every trial to have one before it."""

    def size(kept: Sequence[int]) -> int:
        return 10 * len(kept)

    assert affordable([2, 3, 5, 7, 9], 50, size) == [2, 3, 5, 7, 9]
    assert affordable([2, 3, 5, 7, 9], 30, size) == [2, 5, 9]
    assert affordable([2, 3, 5, 7, 9], 20, size) == [2, 7]
    assert affordable([2, 3, 5, 7, 9], 10, size) == [2]
    assert affordable([2, 3], 9, size) == () == affordable([], 9, size)


class Damaged(Decoder):
    """Its states are damaged: as where an architecture or a device could not be replayed."""

    def replaying(self, bundle: Bundle, states: ReplayCache, start: int) -> Programs:
        if start >= 0:
            for data in states._kept.values():
                data[::7] ^= 1
        return super().replaying(bundle, states, start)


class Forgetful(LlamaEngine):
    """An engine of such a decoder."""

    decoder_type = Damaged


def test_where_a_replay_differs_everything_is_computed_whole_and_it_is_said(
    files: Callable[[str], tuple[Path, Path]],
) -> None:
    """One warning that names the trial; the numbers are right all the same."""
    engine = opened(files("llama"), kind=Forgetful)
    chunks, trials = chunks_of(engine), [BASE, *singles(files("llama")[1], (1, 2))]
    events = list(engine.sweep(trials, chunks))
    (said,) = (event for event in events if isinstance(event, Note))
    assert "computed whole" in said.text and "blk." in said.text and engine.decoder.replays is False
    assert {(e.trial, e.score.chunk): e.score for e in events if isinstance(e, ChunkScored)} == whole(
        engine, trials, chunks
    )
    assert not [event for event in engine.sweep(trials, chunks) if isinstance(event, Note)]
    engine.close()


def test_a_recurrent_state_is_never_replayed(files: Callable[[str], tuple[Path, Path]]) -> None:
    """Known by the model, not tried."""
    engine = opened(files("mamba"))
    chunks, trials = chunks_of(engine), [BASE, *singles(files("mamba")[1], (1, 2))]
    assert engine.decoder.replays is False and engine.decoder.graphs((chunks[0],)) == []
    assert swept(engine, trials, chunks) == whole(engine, trials, chunks)
    engine.close()


def test_a_sweep_given_up_leaves_the_base(files: Callable[[str], tuple[Path, Path]]) -> None:
    """Closing the iterator in the middle of a replayed trial puts the base back."""
    engine = opened(files("gemma4"))
    chunks, trials = chunks_of(engine), [BASE, *singles(files("gemma4")[1], (2,))]
    before = whole(engine, [BASE], chunks)
    events: Iterator[object] = engine.sweep(trials, chunks)
    n = 0
    for event in events:
        n += isinstance(event, ChunkScored)
        if n == 4:
            break
    events.close()  # type: ignore[attr-defined]
    assert whole(engine, [BASE], chunks) == before
    engine.close()


@pytest.mark.parametrize("name", ["llama", "experts", "gemma3", pytest.param("bundled", marks=SLOW)])
def test_short_chunks_side_by_side(name: str, files: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """Four chunks a batch, and an incomplete last bundle: sums and the reference's rows as alone, trials replayed all the same.

    Experts' products round otherwise in larger batches (this build, this processor): the engine sees it and takes chunks alone.
    """
    settings = Settings(n_ctx=32, n_batch=128, n_ubatch=128, n_threads=2)
    engine, alone = opened(files(name), settings), opened(files(name), replace(settings, n_batch=32))
    chunks = chunks_of(engine, range(10))
    trials = [BASE, *singles(files(name)[1], (None, 1, 2))[:: 4 if name == "bundled" else 1]]
    assert swept(engine, trials, chunks) == whole(alone, trials, chunks)
    assert engine.decoder.replays is True and alone.decoder.packs is False
    if name != "experts":
        assert engine.decoder.packs is True
        assert [len(bundle) for bundle in engine.decoder.bundles(chunks)] == [4, 4, 2]
    for each, folder in ((engine, "together"), (alone, "alone")):
        assert sorted(each.capture(chunks, ReferenceStore(tmp_path / folder, None))) == list(range(10))
    for path in (tmp_path / "alone").iterdir():
        one, other = np.load(path), np.load(tmp_path / "together" / path.name)
        assert all(one[key].tobytes() == other[key].tobytes() for key in one.files)
    engine.close()
    alone.close()
