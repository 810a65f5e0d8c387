"""What a node does, without Ray: a channel that carries pickles inside this process."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerebellum.domain import TensorType, Trial, TrialKind, tensor_types_of
from cerebellum.errors import CerebellumError, EngineDied, EngineError, InputError
from cerebellum.fleet.admission import Canary, admitted
from cerebellum.fleet.node import CACHE, FILES, Made, NeededFile, NodeHost, Order, call_of
from cerebellum.fleet.ray_fleet import connected, reason
from cerebellum.fleet.remote import RemoteEngine
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.split_file import SplitLimit
from cerebellum.keys import content_key, sha256_file
from cerebellum.llamacpp.protocol import Settings, Sources
from cerebellum.progress import Silent
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.builds import pool
from cerebellum.study.others import Others, allotted
from cerebellum.study.runner import TrialRunner
from cerebellum.study.store import Study
from cerebellum.testing import Effect, FakeBackend, Fault, write_fake_model
from cerebellum.verbs.splitting import split_model

SWAP = TensorType("blk.1.ffn_gate.weight", "Q2_K")
BACKEND = FakeBackend({SWAP: Effect(nll=0.02, kld=0.01)})
SETTINGS = Settings(n_ctx=32)
BASE, ONE = Trial("base", TrialKind.BASE), Trial("one", TrialKind.SINGLE, (SWAP,))


class Pickled:
    """A channel to a host in this process; what goes through is pickled. ``kill`` is the end of it, ``is_gone`` of its node too."""

    def __init__(self, backend: FakeBackend = BACKEND, folders: tuple[str, ...] = ()) -> None:
        self.name = "node-a"
        self._backend, self._folders = backend, folders
        self.is_dead = self.is_gone = False
        self.calls: list[str] = []
        self.restart()

    def restart(self) -> None:
        if self.is_gone:
            raise EngineError(f"node {self.name} is gone")
        self._host, self.is_dead = NodeHost(pickle.loads(pickle.dumps(self._backend)), self._folders), False

    def _checked(self, label: str) -> None:
        if self.is_dead:
            raise EngineDied(f"{label}: the worker on node {self.name} is gone")

    def call(self, label: str, method: str, *args: Any) -> Any:
        self._checked(label)
        self.calls.append(method)
        try:
            return pickle.loads(pickle.dumps(call_of(self._host, method, pickle.loads(pickle.dumps(args)))))
        except CerebellumError as error:
            raise pickle.loads(pickle.dumps(error)) from error

    def stream(self, label: str, method: str, *args: Any) -> Iterator[Any]:
        self._checked(label)
        for item in call_of(self._host, method, pickle.loads(pickle.dumps(args))):
            yield pickle.loads(pickle.dumps(item))
            self._checked(label)

    def close(self) -> None:
        self.is_dead = True


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(FILES, raising=False)
    (tmp_path / "here").mkdir()
    write_fake_model(tmp_path / "here" / "model.gguf")
    return tmp_path


def needed(path: Path, made: Made | None = None) -> NeededFile:
    return NeededFile(path, sha256_file(path), path.stat().st_size, made)


def order(folder: Path) -> Order:
    model = needed(folder / "here" / "model.gguf")
    return Order(model, model, None, SETTINGS)


def corpus(folder: Path) -> Any:
    text = " ".join(f"word{i * i % 9973}" for i in range(12 * 32))
    return BACKEND.open(folder / "here" / "model.gguf", SETTINGS).corpus("text", text, 32)


def test_a_remote_engine_gives_what_one_here_gives_and_rows_travel_once(folder: Path) -> None:
    path, channel = folder / "here" / "model.gguf", Pickled()
    here, there = BACKEND.open(path, SETTINGS, Sources(path)), RemoteEngine(channel, order(folder))
    chunks, store = corpus(folder).chunks(range(4)), ReferenceStore(folder / "reference" / "0123", None)
    list(here.capture(chunks, store))
    for _ in range(2):
        assert list(there.sweep([BASE, ONE], chunks, reference=store)) == list(
            here.sweep([BASE, ONE], chunks, reference=store)
        )
    assert list(there.score((SWAP,), chunks, reference=store)) == list(here.score((SWAP,), chunks, reference=store))
    assert channel.calls.count("keep") == 4 and channel.calls.count("lacking") == 1
    assert there.unused == here.unused and there.n_vocab == here.n_vocab
    assert there.quantized_sha256((SWAP,)) == here.quantized_sha256((SWAP,))
    second = Pickled()
    list(RemoteEngine(second, order(folder)).score((), chunks, reference=store))
    assert "keep" not in second.calls  # another engine of the same node
    for refused in (lambda: there.corpus("a", "b", 32), lambda: there.capture(chunks, store)):
        with pytest.raises(EngineError, match="an engine on a node"):
            refused()


def test_files_are_known_by_content_wherever_they_lie(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = needed(folder / "here" / "model.gguf")
    assert NodeHost(BACKEND).find(wanted) == wanted.path
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv(FILES, str(elsewhere))
    with pytest.raises(
        InputError,
        match=r"node .* lacks model.gguf \(sha256 [0-9a-f]{12}….*--cluster-files FOLDER, or CEREBELLUM_FILES",
    ):
        NodeHost(BACKEND).find(wanted)
    (elsewhere / "model.gguf").write_bytes(b"x" * wanted.n_bytes)
    with pytest.raises(InputError, match=r"elsewhere/model.gguf is another file"):
        NodeHost(BACKEND).find(wanted)
    (elsewhere / "model.gguf").write_bytes(wanted.path.read_bytes())
    assert NodeHost(BACKEND).find(wanted) == elsewhere / "model.gguf"
    monkeypatch.delenv(FILES)
    wanted = replace(wanted, path=folder / "no" / "model.gguf")
    monkeypatch.setenv("HOME", str(folder))
    assert NodeHost(BACKEND, ("~/elsewhere",)).find(wanted) == elsewhere / "model.gguf"


def test_a_model_in_several_files_is_whole_in_one_folder_or_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is known by its own hash; the one that is lacking, or is another file, is named."""
    there = folder / "there"
    split_model(folder / "here" / "model.gguf", folder / "set.gguf", SplitLimit(max_tensors=8))
    first, second, *rest = sorted(folder.glob("set-*.gguf"))
    hashed: list[str] = []

    def hash_file(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    wanted = NeededFile.of(first, hash_file)
    assert hashed == [path.name for path in (first, second, *rest)] and len(wanted.files) >= 3
    there.mkdir()
    for path in (first, second, *rest):
        shutil.copy(path, there)
    monkeypatch.setenv(FILES, str(there))
    host = NodeHost(BACKEND)
    assert host.find(wanted) == there / first.name
    assert (
        host.open(Order(wanted, wanted, None, SETTINGS))[0]
        == BACKEND.open(folder / "here" / "model.gguf", SETTINGS).n_vocab
    )
    (there / second.name).write_bytes(b"x" * second.stat().st_size)
    with pytest.raises(
        InputError, match=rf"lacks {second.name} .*, one of \d files .*there/{second.name} is another file"
    ):
        host.find(wanted)
    (there / second.name).unlink()
    with pytest.raises(InputError, match=rf"lacks {second.name} \(sha256 .*looked in .*there, .*--cluster-files"):
        host.find(wanted)


def test_a_node_makes_the_base_of_the_source_and_proves_it(folder: Path) -> None:
    source, base = folder / "here" / "model.gguf", folder / "base-Q4_K_M.gguf"
    BACKEND.quantize(source, base, "Q4_K_M", [("ffn_down", "q6_k")])
    wanted = needed(base, Made("Q4_K_M", (("ffn_down", "q6_k"),)))
    base.unlink()
    channel = Pickled()
    engine = RemoteEngine(channel, Order(wanted, needed(source), None, SETTINGS))
    (made,) = (folder / "cache" / "files").rglob("*.gguf")
    assert sha256_file(made) == wanted.sha256 and read_model(made).types["blk.0.ffn_down.weight"] == "Q6_K"
    assert engine.n_vocab
    with pytest.raises(InputError, match=r"makes another base-Q4_K_M\.gguf of the same source"):
        RemoteEngine(Pickled(), Order(replace(wanted, sha256="ab" * 32), needed(source), None, SETTINGS))
    assert len([path for path in (folder / "cache" / "files").rglob("*") if path.is_file()]) == 1


def runner(folder: Path, study: Study, *engines: RemoteEngine) -> TrialRunner:
    types = read_model(folder / "here" / "model.gguf").types
    return TrialRunner(engines, study, study.series("s", {}), types, corpus(folder))


TRIALS = [Trial(f"t{i}", TrialKind.SINGLE, tensor_types_of({f"blk.{i}.ffn_up.weight": "Q2_K"})) for i in range(4)]


def test_a_worker_that_dies_is_started_anew_on_its_node(folder: Path) -> None:
    channel = Pickled()
    engine = RemoteEngine(channel, order(folder))
    with Study.open(folder / "study.sqlite") as study:
        whole = runner(folder, study, engine).measure([BASE], range(3))
        channel.is_dead = True
        again = runner(folder, study, engine).measure([BASE, *TRIALS], range(3))
        assert again["base"] == whole["base"] and len(again) == 5 and study.failures() == []
    assert channel.calls.count("open") == 2


def test_the_work_of_a_node_that_is_gone_goes_to_the_others(folder: Path) -> None:
    dead, alive = Pickled(), Pickled()
    engines = [RemoteEngine(channel, order(folder)) for channel in (dead, alive)]
    with Study.open(folder / "study.sqlite") as study:
        dead.is_dead = dead.is_gone = True
        found = runner(folder, study, *engines).measure([BASE, *TRIALS], range(6))
        assert all(len(scores) == 6 for scores in found.values()) and study.failures() == []
        alive.is_dead = alive.is_gone = True
        with pytest.raises(EngineError, match="node node-a is gone"):
            runner(folder, study, *engines).measure([BASE], range(8))


def test_an_abort_on_a_node_is_the_trial_s(folder: Path) -> None:
    """Twice: then that trial failed, and the others go on."""
    engine = RemoteEngine(
        Pickled(replace(BACKEND, faults=(Fault(TRIALS[2].tensor_types[0], dies=True),))), order(folder)
    )
    with Study.open(folder / "study.sqlite") as study:
        found = runner(folder, study, engine).measure([BASE, *TRIALS], range(3))
        assert set(found) == {"base", "t0", "t1", "t3"} and [label for label, *_ in study.failures()] == ["t2"]


def admission(
    folder: Path, *backends: FakeBackend, strict: bool = False
) -> tuple[list[str], list[str], list[tuple[str, str]], list[str]]:
    """(builds that are one, builds that differ, what was decided, what was told)."""

    class Told(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    def note(build: str, how: str, why: str) -> None:
        noted.append((build, how))

    told: list[str] = []
    noted: list[tuple[str, str]] = []
    engines = [RemoteEngine(Pickled(backend), order(folder)) for backend in backends]
    path = folder / "here" / "model.gguf"
    canary = Canary(tuple(corpus(folder).chunks(range(2))), (SWAP,))
    same, differing = admitted(
        engines, BACKEND.id, canary, lambda: BACKEND.open(path, SETTINGS, Sources(path)),
        same_build_only=strict, progress=Told(), note=note,
    )  # fmt: skip
    return [engine.build for engine in same], [engine.build for engine in differing], noted, told


def test_another_build_is_one_with_ours_only_where_it_agrees_bit_for_bit(folder: Path) -> None:
    same, other = replace(BACKEND, id="fake same"), replace(BACKEND, id="fake other", rounding=2)
    assert admission(folder, BACKEND, BACKEND) == (["fake 1", "fake 1"], [], [], [])
    ours, theirs, noted, told = admission(folder, BACKEND, same, other)
    assert ours == ["fake 1", "fake same"] and theirs == ["fake other"]
    assert noted == [("fake same", "admitted"), ("fake other", "pooled")]
    assert "bit for bit: taken for the same" in told[0]
    assert "quantized bytes differ: it gets chunks of its own, each trial beside its own base" in told[1]
    for backend, n_same in ((same, 1), (other, 0)):  # compared with one opened here
        assert len(admission(folder, backend)[0]) == n_same
    with pytest.raises(EngineError, match="--same-build-only allows none"):
        admission(folder, BACKEND, same, strict=True)


def with_others(folder: Path, study: Study, n_own: int, *others: RemoteEngine) -> TrialRunner:
    """A runner with engines of its own and others of another build, as a session makes it."""
    own = runner(folder, study, *(RemoteEngine(Pickled(), order(folder)) for _ in range(n_own)))
    theirs = study.series("s", {"build": "fake other"})
    pool(study, content_key("series", {}), content_key("series", {"build": "fake other"}))
    return replace(own, reads_pairs=True, others=[Others(theirs, others)])


def test_a_build_that_differs_measures_chunks_of_its_own_beside_its_own_base(folder: Path) -> None:
    """One engine of three: a third of the chunks in full. Ours are as if it weren't there; it is measured once, whoever is quicker."""
    other = replace(BACKEND, id="fake other", rounding=2)
    with Study.open(folder / "alone" / "study.sqlite") as study:
        alone = runner(folder, study, RemoteEngine(Pickled(), order(folder))).measure([BASE, *TRIALS], range(6))
    with Study.open(folder / "pooled" / "study.sqlite") as study:
        both = with_others(folder, study, 2, RemoteEngine(Pickled(other), order(folder)))
        ours = both.measure([BASE, *TRIALS], range(6))
        assert ours["base"] == alone["base"]
        assert all(ours[t.label] == {c: alone[t.label][c] for c in range(4)} for t in TRIALS)
        for trial in TRIALS:
            scores, bases = both.paired(trial, range(6))
            assert sorted(scores) == sorted(bases) == list(range(6))
            assert all(scores[c] == alone[trial.label][c] and bases[c] == alone["base"][c] for c in range(4))
            assert all(scores[c] != alone[trial.label][c] and bases[c] != alone["base"][c] for c in (4, 5))
            differences = [scores[c].nll - bases[c].nll for c in range(6)]
            assert differences == pytest.approx(
                [alone[trial.label][c].nll - alone["base"][c].nll for c in range(6)], abs=1e-3
            )
        counted = [engine._channel.calls.count("sweep") for engine in (*both.engines, *both.others[0].engines)]  # type: ignore[attr-defined]
        assert both.measure([BASE, *TRIALS], range(6)) == ours
        assert counted == [engine._channel.calls.count("sweep") for engine in (*both.engines, *both.others[0].engines)]  # type: ignore[attr-defined]


def test_what_a_build_that_differs_leaves_undone_is_measured_here(folder: Path) -> None:
    other = Pickled(replace(BACKEND, id="fake other", rounding=2))
    engine = RemoteEngine(other, order(folder))
    other.is_dead = other.is_gone = True
    with Study.open(folder / "study.sqlite") as study:
        both = with_others(folder, study, 1, engine)
        found = both.measure([BASE, *TRIALS], range(6))
        assert all(len(scores) == 6 for scores in found.values()) and study.failures() == []


@pytest.mark.parametrize(
    ("n_chunks", "n_own", "n_others"), [(16, 8, [1]), (2, 8, [1]), (2, 1, [1]), (7, 1, [2, 3]), (0, 1, [1])]
)
def test_chunks_are_one_build_s_in_full(n_chunks: int, n_own: int, n_others: list[int]) -> None:
    shares = allotted(list(range(n_chunks)), n_own, n_others)
    gone = [chunk for share in shares for chunk in share]
    assert len(gone) == len(set(gone)) and set(gone) <= set(range(n_chunks))
    assert [len(share) for share in shares] == [n_chunks * n // (n_own + sum(n_others)) for n in n_others]


@pytest.mark.parametrize(
    "address", ["", "ray:", "ray://", "ray://host", "dask", "ray://host:port", "ray://a b:1", "ray\n"]
)
def test_what_is_no_cluster_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="--cluster"), connected(address):
        pass


def test_the_reason_of_a_long_message_is_its_last_error() -> None:
    text = "\x1b[36mray::Host\x1b[39m (pid=1)\n  File 'x'\nModuleNotFoundError: No module named 'cerebellum'\n"
    assert reason(RuntimeError(text)) == "ModuleNotFoundError: No module named 'cerebellum'"
    assert reason(RuntimeError("")) == "RuntimeError" and os.linesep not in reason(RuntimeError("a\nb"))
