"""The promise: what is measured in memory is, to the last bit, what the written file gives when it is opened fresh.

The oracle is a file that llama.cpp's own quantizer wrote, read back by name and opened fresh: for one trial of each model by a process of
its own, for the others by an engine of its own in this one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from cerebellum.domain import Chunk, ChunkScore, Model, Tensor, TensorTypes, Trial, TrialKind, tensor_types_of
from cerebellum.errors import EngineError, TensorChoiceError, TypeChoiceError
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import open_weights, read_model
from cerebellum.gguf.overrides import Pairs, pairs, pin
from cerebellum.gguf.types import TYPES, fallback_type
from cerebellum.llamacpp import vocabulary
from cerebellum.llamacpp.files import realized_types, write_file
from cerebellum.llamacpp.native import native_log
from cerebellum.llamacpp.process import LlamaBackend
from cerebellum.llamacpp.protocol import ChunkScored, Settings, Sources
from cerebellum.llamacpp.trial.engine import LlamaEngine
from cerebellum.llamacpp.trial.quantizer import imatrix_rows, quantize_rows
from cerebellum.parallel import Threads
from cerebellum.scoring.reference import ReferenceStore
from tests.llamacpp import tiny

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
TRAINED = ROOT.parent / "shared" / "data" / "models"
BUNDLED = ROOT / "src" / "cerebellum" / "bundled" / "world-gemma4-F16.gguf"

BACKEND = LlamaBackend()
#: Two batches with scored tokens a chunk, so that sums over batches are part of what is compared.
SETTINGS = Settings(n_ctx=64, n_batch=16, n_ubatch=16, n_threads=1)
FTYPE = "Q3_K_M"

Made = Callable[[Path], Path]
MADE: dict[str, Made] = {"llama": tiny.llama, "experts": tiny.experts, "gemma4": tiny.gemma4}
FOUND = {
    "stories260K": TRAINED / "stories260K-F32.gguf",
    "babyllama": TRAINED / "babyllama-tok361-F32.gguf",
    "bundled": BUNDLED,
}
ALL = (*MADE, *FOUND)
#: Where every role is tried, the bundled model takes long; a small one of its architecture is tried.
SMALL_ONES = [pytest.param(name, marks=pytest.mark.slow) if name == "bundled" else name for name in ALL]


@contextmanager
def opened(path: Path, weights: Path | None = None, settings: Settings = SETTINGS) -> Iterator[LlamaEngine]:
    engine = LlamaEngine(path, settings, Sources(weights) if weights else None)
    try:
        yield engine
    finally:
        engine.close()


@dataclass
class Bench:
    """A base that llama.cpp wrote, an engine open on it, a reference captured from the source, and the base's own scores."""

    source: Path
    folder: Path
    imatrix: Path | None = None
    weights: Path | None = None
    base_file: Path = field(init=False)
    base: Model = field(init=False)
    engine: LlamaEngine = field(init=False)
    chunks: list[Chunk] = field(init=False)
    reference: ReferenceStore = field(init=False)
    base_scores: list[ChunkScore] = field(init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.base_file = self.folder / "base.gguf"
        write_file(self.source, self.base_file, FTYPE, (), self.imatrix)
        if self.weights is not None:  # the base itself is all there is
            self.source = self.weights = self.base_file
        self.base = read_model(self.base_file)
        self.engine = LlamaEngine(self.base_file, SETTINGS, Sources(self.source, self.imatrix))
        self.chunks = self.engine.corpus("words", tiny.text(), SETTINGS.n_ctx).chunks([0, 2])
        self.reference = ReferenceStore(self.folder / "reference", None)
        with opened(self.source) as engine:
            list(engine.capture(self.chunks, self.reference))
        self.base_scores = self.scores(())

    def scores(self, tensor_types: TensorTypes) -> list[ChunkScore]:
        return list(self.engine.score(tensor_types, self.chunks, reference=self.reference, label="exact"))

    def fresh_scores(self, path: Path) -> list[ChunkScore]:
        with opened(path) as engine:
            return list(engine.score((), self.chunks, reference=self.reference))

    def other_process(self, tensor_types: TensorTypes) -> list[ChunkScore]:
        """The scores of a file that one new process wrote, in another new process."""
        path = self.folder / "fresh.gguf"
        BACKEND.quantize(self.source, path, FTYPE, self.lines(tensor_types), self.imatrix)
        engine = BACKEND.open(path, SETTINGS)
        try:
            return list(engine.score((), self.chunks, reference=self.reference))
        finally:
            engine.close()
            path.unlink()

    def realized(self, lines: Pairs) -> Mapping[str, str]:
        return realized_types(self.source, FTYPE, lines, self.imatrix)

    def lines(self, tensor_types: TensorTypes) -> Pairs:
        """Overrides that give exactly these types, mix counters held in place."""
        return pairs(pin(tensor_types, self.base.types, self.realized, self.base))

    def write(self, tensor_types: TensorTypes) -> Path:
        """A file with exactly these types."""
        return self.write_lines(self.lines(tensor_types), tensor_types)

    def write_lines(self, lines: Pairs, tensor_types: TensorTypes) -> Path:
        path = self.folder / f"trial-{next(self._numbers)}.gguf"
        write_file(self.source, path, FTYPE, lines, self.imatrix)
        assert read_model(path).types == {**self.base.types, **{s.tensor: s.type for s in tensor_types}}
        return path

    def check(self, tensor_types: TensorTypes, moves: bool = True) -> None:
        """In memory equals on disk; and it isn't the base's score under another name."""
        assert tensor_types
        path = self.write(tensor_types)
        memory, disk = self.scores(tensor_types), self.fresh_scores(path)
        path.unlink()
        assert memory == disk
        assert [s.chunk for s in memory] == [0, 2] and all(s.kld is not None and s.n_tokens == 31 for s in memory)
        assert (memory != self.base_scores) is moves

    def other(self, tensor: Tensor, wanted: Sequence[str]) -> str:
        """The first of ``wanted`` that, as really stored, isn't what the base has; BF16 fits any row."""
        kinds = (fallback_type(kind, tensor.row_length).name for kind in (*wanted, "BF16"))
        return next(kind for kind in kinds if kind != tensor.type)

    def used(self) -> list[Tensor]:
        return [t for t in quantizable_tensors(self.base) if t.name not in self.engine.unused]

    def by_role(self) -> dict[str, Tensor]:
        """One tensor a role, from the middle of the model."""
        middle = self.base.n_blocks // 2
        return {t.role: t for t in self.used() if t.block is None or t.block <= middle}


def source_of(name: str, folder: Path) -> Path:
    if name in MADE:
        return MADE[name](folder / f"{name}.gguf")
    if not FOUND[name].exists():
        pytest.skip(f"{FOUND[name].name} is not here")
    return FOUND[name]


def importance(source: Path, seed: int = 0) -> dict[str, tiny.Floats]:
    """Positive random rows for every matrix but the embeddings: [experts, row length] each."""
    rng = np.random.default_rng(seed)
    return {
        t.name: rng.lognormal(0.0, 1.0, (t.shape[2] if len(t.shape) > 2 else 1, t.row_length)).astype(np.float32)
        for t in quantizable_tensors(read_model(source))
        if "_embd" not in t.name
    }


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Bench]]:
    """Benches by model and kind of importance matrix; each is made once."""
    made: dict[tuple[str, str, bool], Bench] = {}

    def get(name: str, imatrix: str = "", twice: bool = False) -> Bench:
        key = (name, imatrix, twice)
        if key not in made:
            folder = tmp_path_factory.mktemp("bench")
            source = source_of(name, folder)
            path = matrix(source, folder, imatrix) if imatrix else None
            made[key] = Bench(source, folder, path, folder if twice else None)
        return made[key]

    yield get
    for bench in made.values():
        bench.engine.close()


def matrix(source: Path, folder: Path, form: str) -> Path:
    entries = importance(source)
    if form == "gguf":
        return tiny.imatrix_gguf(folder / "imatrix.gguf", entries)
    odd = {"token_embd.weight": np.ones((1, 3), np.float32)}  # a wrong size there is normal, and llama.cpp ignores it
    return tiny.imatrix_legacy(folder / "imatrix.dat", {**entries, **odd})


# -- in memory equals on disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_one_tensor(name: str, benches: Callable[..., Bench]) -> None:
    """One ffn_gate at Q2_K: the published ablation. On rows that can't hold it, what llama.cpp stores instead. Other processes agree."""
    bench = benches(name)
    roles = bench.by_role()
    tensor = roles.get("ffn_gate") or roles["ffn_gate_exps"]
    tensor_types = tensor_types_of({tensor.name: bench.other(tensor, ["Q2_K", "Q4_1"])})
    bench.check(tensor_types)
    assert bench.other_process(tensor_types) == bench.scores(tensor_types)


@pytest.mark.parametrize("name", SMALL_ONES)
def test_every_role_alone(name: str, benches: Callable[..., Bench]) -> None:
    """One tensor of each role, each role at another type, embeddings and a tied output included."""
    bench = benches(name)
    kinds = ["Q2_K", "Q8_0", "Q4_K", "Q5_1", "Q6_K", "IQ4_XS", "Q4_0", "IQ3_S", "Q5_K", "F16", "IQ4_NL"]
    for place, (role, tensor) in enumerate(sorted(bench.by_role().items())):
        kind = bench.other(tensor, kinds[place % len(kinds) :] + kinds)
        try:
            bench.check(tensor_types_of({tensor.name: kind}))
        except AssertionError as error:
            raise AssertionError(f"{role} as {kind}: {error}") from error


@pytest.mark.parametrize("name", ALL)
def test_several_tensors(name: str, benches: Callable[..., Bench]) -> None:
    """Demotions and promotions together, in several blocks and outside them."""
    bench = benches(name)
    kinds = ["Q2_K", "Q8_0", "Q4_K", "F16", "Q4_1"]
    chosen = bench.used()[::3]
    bench.check(tensor_types_of({t.name: bench.other(t, kinds[i % 5 :] + kinds) for i, t in enumerate(chosen)}))


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_at_once(name: str, benches: Callable[..., Bench]) -> None:
    """The blanket recipe, and nothing of the base left among the matrices."""
    bench = benches(name)
    bench.check(tensor_types_of({t.name: bench.other(t, ["Q2_K", "Q5_0", "F16", "BF16"]) for t in bench.used()}))


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "F32"])
@pytest.mark.parametrize("name", ["llama", "experts", "stories260K"])
def test_promotion(name: str, kind: str, benches: Callable[..., Bench]) -> None:
    """More bits than the base has, up to the source's own type and beyond."""
    bench = benches(name)
    roles = bench.by_role()
    tensor = roles.get("ffn_up") or roles["ffn_up_exps"]
    bench.check(tensor_types_of({tensor.name: kind}))


@pytest.mark.parametrize("name", ["gemma4", "bundled"])
def test_per_layer_embedding(name: str, benches: Callable[..., Bench]) -> None:
    """The tensor whose plain name hides in no other's, though ``token_embd.weight`` hides in it."""
    bench = benches(name)
    for kind in ("Q2_K", "Q8_0"):
        bench.check(tensor_types_of({"per_layer_token_embd.weight": kind}))


@pytest.mark.parametrize("name", ["stories260K", "babyllama", "gemma4", "bundled"])
def test_tied_embedding(name: str, benches: Callable[..., Bench]) -> None:
    """Where the embedding is also the output matrix, both uses change."""
    bench = benches(name)
    assert bench.base.tensor("output.weight") is None
    tensor = bench.base.tensor("token_embd.weight")
    assert tensor is not None
    bench.check(tensor_types_of({tensor.name: bench.other(tensor, ["Q4_0"])}))


@pytest.mark.parametrize(("role", "asked", "stored"), [("ffn_gate", "Q5_K", "Q5_1"), ("ffn_down", "Q2_K", "F16")])
def test_a_row_that_falls_back(role: str, asked: str, stored: str, benches: Callable[..., Bench]) -> None:
    """Asked for a K-quant on rows of 64 and 172 weights, llama.cpp stores what `fallback_type` says, and so do we."""
    bench = benches("stories260K")
    tensor = next(t for t in bench.used() if t.role == role and t.block == 1)
    assert fallback_type(asked, tensor.row_length).name == stored
    path = bench.folder / "fallback.gguf"
    write_file(bench.source, path, FTYPE, ((f"blk.1.{role}.weight", asked),), None)
    written = read_model(path).types
    assert written[tensor.name] == stored
    tensor_types = tensor_types_of(
        {n: kind for n, kind in written.items() if kind != bench.base.types[n]} | {tensor.name: stored}
    )
    assert bench.scores(tensor_types) == bench.fresh_scores(path)


@pytest.mark.parametrize(
    ("name", "form"),
    [("llama", "gguf"), ("llama", "legacy"), ("experts", "gguf"), ("gemma4", "legacy"), ("bundled", "gguf")],
)
def test_with_an_importance_matrix(name: str, form: str, benches: Callable[..., Bench]) -> None:
    """Types that use one, a type that needs one, experts with rows of their own, and an embedding that has none."""
    bench = benches(name, form)
    assert bench.base_scores != benches(name).base_scores or name == "bundled"
    kinds = ["IQ3_XXS", "Q4_K", "Q2_K", "IQ4_XS", "Q3_K", "Q5_0", "Q5_K"]
    chosen = [t for t in bench.used() if "_embd" not in t.name][::2]
    tensor_types = {t.name: bench.other(t, kinds[i % len(kinds) :] + kinds) for i, t in enumerate(chosen)}
    bench.check(tensor_types_of({**tensor_types, "token_embd.weight": bench.other(bench.used()[0], ["Q4_K", "Q5_K"])}))


@pytest.mark.parametrize("name", ["llama", "gemma4", "stories260K", "bundled"])
def test_a_base_that_is_all_there_is(name: str, benches: Callable[..., Bench]) -> None:
    """Without an unquantized source the base's own weights are quantized a second time, as llama-quantize would."""
    bench = benches(name, twice=True)
    kinds = ["Q2_K", "Q4_0", "Q8_0"]
    chosen = [t for t in bench.used() if TYPES[t.type].quantized][::4]
    bench.check(tensor_types_of({t.name: bench.other(t, kinds) for t in chosen}))


def test_a_tensor_that_nothing_reads(benches: Callable[..., Bench]) -> None:
    """A block that takes another's keys has its own in the file; swapping them changes no number, in memory or on disk."""
    bench = benches("gemma4")
    assert {"blk.2.attn_k.weight", "blk.2.attn_v.weight"} <= bench.engine.unused
    bench.check(tensor_types_of({"blk.2.attn_k.weight": "Q8_0"}), moves=False)


# -- the bytes themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "experts"])
def test_stored_bytes_are_those_on_disk(name: str, tmp_path: Path) -> None:
    """Every type but those below, one tensor each, byte for byte what llama.cpp's quantizer put into the file."""
    check_stored_bytes(name, tmp_path, [t.name for t in TYPES.values() if t.quantized and t.name not in LONG_SET_UP])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "experts"])
def test_stored_bytes_of_the_smallest_types(name: str, tmp_path: Path) -> None:
    check_stored_bytes(name, tmp_path, LONG_SET_UP)


#: ggml takes long to set up the tables of these types.
LONG_SET_UP = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"]


def check_stored_bytes(name: str, tmp_path: Path, kinds: Sequence[str]) -> None:
    source = MADE[name](tmp_path / "source.gguf")
    imatrix = tiny.imatrix_gguf(tmp_path / "imatrix.gguf", importance(source))
    tensors = [t for t in quantizable_tensors(read_model(source)) if "_embd" not in t.name]
    for first in range(0, len(kinds), len(tensors)):
        wanted = dict(zip((t.name for t in tensors), kinds[first:], strict=False))
        path = tmp_path / "out.gguf"
        write_file(source, path, FTYPE, tuple((f"^{n}$", kind) for n, kind in wanted.items()), imatrix)
        assert {n: read_model(path).types[n] for n in wanted} == wanted
        before, after, rows = open_weights(source), open_weights(path), load_imatrix(imatrix).entries
        with ThreadPoolExecutor(2) as pool:
            for tensor_name, kind in wanted.items():
                tensor = before.tensor(tensor_name)
                ours = quantize_rows(
                    tensor, before.raw(tensor_name), kind, imatrix_rows(tensor, rows[tensor_name]), Threads(pool, 2)
                )
                assert np.array_equal(ours, after.raw(tensor_name)), f"{tensor_name} as {kind}"


# -- no memory of earlier trials ---------------------------------------------------------------------------------------


def test_putting_the_base_back_gives_the_base(benches: Callable[..., Bench]) -> None:
    """After any trial the base scores as before, and as its file opened fresh."""
    bench = benches("llama")
    bench.scores(tensor_types_of({t.name: bench.other(t, ["Q2_K", "Q8_0"]) for t in bench.used()}))
    assert bench.scores(()) == bench.base_scores == bench.fresh_scores(bench.base_file)


#: One batch a chunk, so that every decode has the same shape and llama.cpp would use its graph again.
ONE_BATCH = Settings(n_ctx=64, n_threads=1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("llama", SETTINGS), ("llama", ONE_BATCH), ("experts", ONE_BATCH), ("gemma4", ONE_BATCH)],
    ids=["llama, batches", "llama", "experts", "gemma4"],
)
def test_a_trial_does_not_remember_the_trials_before(
    name: str, settings: Settings, benches: Callable[..., Bench]
) -> None:
    """Trials and chunks in random order, some twice, give what a fresh engine gives that has seen nothing else."""
    bench = benches(name)
    used, rng = bench.used(), np.random.default_rng(0)
    trials = [(), *(tensor_types_of({t.name: bench.other(t, ["Q2_K", "Q8_0"]) for t in used[i::5]}) for i in range(3))]
    fresh = {}
    for tensor_types in trials:
        with opened(bench.base_file, bench.source, settings) as engine:
            fresh[tensor_types] = list(engine.score(tensor_types, bench.chunks, reference=bench.reference))
    with opened(bench.base_file, bench.source, settings) as engine:
        for _ in range(12):
            tensor_types, which = trials[rng.integers(len(trials))], int(rng.integers(2))
            (score,) = engine.score(tensor_types, [bench.chunks[which]], reference=bench.reference)
            assert score == fresh[tensor_types][which]


def test_a_trial_that_is_given_up_leaves_the_base(benches: Callable[..., Bench]) -> None:
    """Closed after its first chunk, or refused half way through its swaps, a trial leaves nothing behind."""
    bench = benches("llama")
    engine = LlamaEngine(bench.base_file, SETTINGS, Sources(bench.source))
    try:
        trial = engine.score(tensor_types_of({"blk.0.ffn_up.weight": "Q8_0"}), bench.chunks, reference=bench.reference)
        next(trial)
        trial.close()  # type: ignore[attr-defined]  # a generator
        assert list(engine.score((), bench.chunks, reference=bench.reference)) == bench.base_scores
        with pytest.raises(
            TypeChoiceError, match=r"blk\.1\.ffn_up\.weight can't be IQ1_S without an importance matrix"
        ):
            list(
                engine.score(
                    tensor_types_of({"blk.0.ffn_up.weight": "Q8_0", "blk.1.ffn_up.weight": "IQ1_S"}), bench.chunks
                )
            )
        assert list(engine.score((), bench.chunks, reference=bench.reference)) == bench.base_scores
        one = Trial("one", TrialKind.SINGLE, tensor_types_of({"blk.0.ffn_up.weight": "Q8_0"}))
        events = engine.sweep([one], bench.chunks, reference=bench.reference, settings=replace(SETTINGS, n_ubatch=8))
        assert any(isinstance(event, ChunkScored) for event in events)
        events.close()  # type: ignore[attr-defined]  # a generator
        assert list(engine.score((), bench.chunks, reference=bench.reference)) == bench.base_scores
    finally:
        engine.close()


def test_threads_change_no_number(benches: Callable[..., Bench]) -> None:
    """The one setting that is left out of a measurement's key."""
    bench = benches("gemma4")
    settings = Settings(SETTINGS.n_ctx, SETTINGS.n_batch, SETTINGS.n_ubatch, n_threads=3)
    assert settings.as_key() == SETTINGS.as_key()
    tensor_types = tensor_types_of({"blk.1.ffn_gate.weight": "Q2_K", "token_embd.weight": "Q4_K"})
    with opened(bench.base_file, bench.source, settings) as engine:
        assert list(engine.score(tensor_types, bench.chunks, reference=bench.reference)) == bench.scores(tensor_types)


@pytest.mark.parametrize("name", ["gemma4", "bundled"])
def test_reading_a_table_on_demand_changes_no_bit(
    name: str, benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the per-layer embeddings llama.cpp reads the rows that it looks up; with that off, it has all of them in memory."""
    bench = benches(name)
    tensor_types = [
        (),
        tensor_types_of({"per_layer_token_embd.weight": "Q8_0"}),
        tensor_types_of({"blk.1.ffn_gate.weight": "Q8_0"}),
    ]

    def found() -> tuple[bool, list[bytes]]:
        native_log().lines.clear()
        engine = LlamaEngine(bench.base_file, SETTINGS, Sources(bench.source))
        try:
            on_demand = any("lazy read enabled" in line for line in native_log().lines)
            return on_demand, [engine.logits(own, bench.chunks[1]).tobytes() for own in tensor_types]
        finally:
            engine.close()

    on_demand = found()
    monkeypatch.setattr(vocabulary, "_LAZY", 0)
    at_once = found()
    assert (on_demand[0], at_once[0]) == (True, False)
    assert on_demand[1] == at_once[1] and len(set(at_once[1])) == 3


def test_other_settings_for_one_call_are_those_of_an_engine_opened_with_them(benches: Callable[..., Bench]) -> None:
    """Another batch shape moves the sums of base and trial, to what a fresh engine of that shape gives; the engine's own stay."""
    bench, other = benches("llama"), replace(SETTINGS, n_batch=None, n_ubatch=8, n_threads=2)
    tensor_types = tensor_types_of({bench.used()[-1].name: "Q8_0"})
    trials = [Trial("base", TrialKind.BASE), Trial("trial", TrialKind.SINGLE, tensor_types)]

    def scores(settings: Settings | None) -> list[ChunkScore]:
        events = bench.engine.sweep(trials, bench.chunks, reference=bench.reference, settings=settings)
        return [event.score for event in events if isinstance(event, ChunkScored)]

    with opened(bench.base_file, bench.source, other) as engine:
        fresh = [list(engine.score(trial.tensor_types, bench.chunks, reference=bench.reference)) for trial in trials]
    own = [*bench.base_scores, *bench.scores(tensor_types)]
    assert scores(None) == own
    assert scores(other) == fresh[0] + fresh[1] != own
    assert bench.scores(()) == bench.base_scores


# -- the reference -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 16])
@pytest.mark.parametrize("name", ["llama", "gemma4", "stories260K"])
def test_a_model_is_no_distance_from_itself(
    name: str, k: int | None, benches: Callable[..., Bench], tmp_path: Path
) -> None:
    """Against its own rows, complete or compact, KL divergence is exactly zero; a trial's is not."""
    bench = benches(name)
    store = ReferenceStore(tmp_path / "self", k)
    assert list(bench.engine.capture(bench.chunks, store)) == [0, 2]
    for score in bench.engine.score((), bench.chunks, reference=store):
        assert score.kld == score.kld2 == 0.0 and score.dp == score.dp2 == score.dp4 == 0.0
        assert score.same_top == score.n_tokens and not np.frombuffer(score.kld_tokens or b"", np.float32).any()
    tensor = bench.by_role()["ffn_up"]
    for score in bench.engine.score(tensor_types_of({tensor.name: "Q4_1"}), bench.chunks, reference=store):
        assert score.kld is not None and score.kld > 0


def test_promoting_everything_to_the_source_is_the_source(benches: Callable[..., Bench]) -> None:
    """With every matrix back at F16 the base is the reference: distance exactly zero."""
    bench = benches("gemma4")
    back = tensor_types_of({t.name: "F16" for t in quantizable_tensors(bench.base)})
    assert [score.kld for score in bench.scores(back)] == [0.0, 0.0]
    assert all(score.kld for score in bench.base_scores)


# -- what can't be ------------------------------------------------------------------------------------------------------


def test_impossible_swaps_are_refused_and_named(benches: Callable[..., Bench]) -> None:
    """A tensor that isn't there, a type that its rows can't hold, weights that nobody gave: each says which."""
    bench = benches("stories260K")
    with pytest.raises(TensorChoiceError, match=r"no tensor blk\.9\.ffn_up\.weight"):
        bench.scores(tensor_types_of({"blk.9.ffn_up.weight": "Q8_0"}))
    with pytest.raises(TypeChoiceError, match=r"blk\.0\.ffn_down\.weight can't be Q8_0: its rows hold 172"):
        bench.scores(tensor_types_of({"blk.0.ffn_down.weight": "Q8_0"}))
    engine = BACKEND.open(bench.base_file, SETTINGS)
    with pytest.raises(EngineError, match=r"trial 7.*open the engine with sources"):
        list(engine.score(tensor_types_of({"blk.0.ffn_up.weight": "Q8_0"}), bench.chunks, label="trial 7"))
    engine.close()
    assert bench.scores(()) == bench.base_scores
