"""Each engine has devices or cores of its own; which, changes no number."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cerebellum import api
from cerebellum.cores import core_shares
from cerebellum.domain import TensorType
from cerebellum.errors import EngineError, InputError
from cerebellum.fleet import local as fleet
from cerebellum.fleet.local import LocalFleet, auto_workers, device_sets, fleet_settings, free_bytes
from cerebellum.llamacpp.pinning import pinnable, visible
from cerebellum.llamacpp.protocol import Settings
from cerebellum.testing import Effect, FakeBackend, FakeEngine, write_fake_model
from cerebellum.verbs import session
from cerebellum.verbs.options import SessionOptions

EFFECTS = {TensorType(f"blk.{i}.ffn_gate.weight", "Q2_K"): Effect(kld=0.01 * i) for i in range(4)}
FOUR = ("CUDA0", "CUDA1", "CUDA2", "CUDA3")


class Opening(FakeBackend):
    """Notes the settings that models are opened with."""

    opened: list[Settings]

    def __init__(self, devices: tuple[str, ...]) -> None:
        super().__init__(EFFECTS, devices=devices)
        object.__setattr__(self, "opened", [])

    def open(self, model: Path, settings: Settings, sources: Any = None) -> FakeEngine:
        self.opened.append(settings)
        return super().open(model, settings, sources)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 40)))
    return write_fake_model(tmp_path / "model.gguf", 4)


def sweep(model: Path, out: str, backend: FakeBackend, **more: Any) -> Any:
    given: dict[str, Any] = {"text": model.parent / "text.txt", "ctx": 64, "chunks": 4, **more}
    return api.sweep(model, out=model.parent / out, backend=backend, **given)


def test_each_engine_sees_its_own_gpu_and_the_reference_one_like_them(model: Path) -> None:
    backend = Opening(FOUR)
    result = sweep(model, "out", backend, workers=4, gpu_layers=99)
    assert [s.devices for s in backend.opened[-4:]] == [("CUDA0",), ("CUDA1",), ("CUDA2",), ("CUDA3",)]
    assert {s.devices for s in backend.opened[:-4]} == {("CUDA0",)}  # texts, reference, noise floor
    assert result.facts["build"] == "fake 1, 1 devices"
    alone = sweep(model, "alone", FakeBackend(EFFECTS, devices=FOUR), gpu_layers=99)
    assert alone.facts["build"] == "fake 1"  # it sees all, as before
    assert [row.contrast for row in alone.sweep.rows] == [row.contrast for row in result.sweep.rows]


def test_auto_takes_a_worker_for_each_set_of_gpus(model: Path) -> None:
    backend = Opening(FOUR)
    sweep(model, "out", backend, workers="auto", gpu_layers=-1, gpus_per_worker=2)
    assert [s.devices for s in backend.opened[-2:]] == [("CUDA0", "CUDA1"), ("CUDA2", "CUDA3")]


def test_more_engines_than_gpus_share_them_and_too_few_gpus_are_refused(model: Path) -> None:
    backend = Opening(("CUDA0",))
    sweep(model, "out", backend, workers=2, gpu_layers=99)
    assert [s.devices for s in backend.opened[-2:]] == [("CUDA0",), ("CUDA0",)]
    with pytest.raises(InputError, match=r"to have 3 GPUs \(--gpus-per-worker\), and llama.cpp shows 1 here: CUDA0"):
        sweep(model, "no", backend, gpus_per_worker=3, gpu_layers=99)
    with pytest.raises(InputError, match=r"--gpus-per-worker is of GPUs, and no layer is put on one"):
        sweep(model, "no", backend, gpus_per_worker=1)
    with pytest.raises(InputError, match=r"llama.cpp shows none here"):
        sweep(model, "no", FakeBackend(), gpus_per_worker=1, gpu_layers=99)


@pytest.mark.parametrize("word", ["many", 0, -1, 1.5])
def test_what_is_no_number_of_workers_is_refused(model: Path, word: Any) -> None:
    with pytest.raises(InputError, match=r"workers .*is"):
        sweep(model, "no", FakeBackend(), workers=word)


def test_engines_on_a_processor_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {2, 3, 6, 7}, raising=False)
    first, second = fleet_settings(Settings(), 2)
    assert first.cores is not None and second.cores is not None and not set(first.cores) & set(second.cores)
    assert sorted(first.cores + second.cores) == [2, 3, 6, 7] and first.n_threads == second.n_threads == 2
    assert [s.cores for s in fleet_settings(Settings(), 1)] == [None]
    assert [s.cores for s in fleet_settings(Settings(n_threads=3), 2)] == [
        None,
        None,
    ]  # more than there are: as they come
    assert first.as_key() == Settings().as_key()


def test_shares_of_cores_keep_sockets_and_the_threads_of_a_core_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two sockets of two cores of two threads, numbered as Linux does: threads of a core are 4 apart, sockets alternate."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)), raising=False)
    for core in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{core % 2}\n")
        (folder / "core_id").write_text(f"{core % 4 // 2}\n")
    assert core_shares(2, tmp_path) == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert core_shares(4, tmp_path) == ((0, 4), (2, 6), (1, 5), (3, 7))
    assert core_shares(3, tmp_path) == ((0, 4), (2, 6), (1, 5)) and core_shares(9, tmp_path) == ()


def test_what_a_process_sees_is_said_by_its_environment() -> None:
    assert pinnable(("CUDA0: NVIDIA H100", "BLAS: OpenBLAS", "CUDA1: x", "RPC0: y")) == ("CUDA0", "CUDA1")
    assert visible(("CUDA1",), {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert visible(("CUDA1",), {"CUDA_VISIBLE_DEVICES": "GPU-ab, 5"})["CUDA_VISIBLE_DEVICES"] == "5"
    assert visible(("Vulkan0", "Vulkan2"), {}) == {"GGML_VK_VISIBLE_DEVICES": "0,2"}
    for devices in (("Metal",), ("CUDA0", "Vulkan0"), ()):
        with pytest.raises(EngineError, match="can't be given"):
            visible(devices, {})
    with pytest.raises(EngineError, match="names 1 devices"):
        visible(("CUDA1",), {"CUDA_VISIBLE_DEVICES": "3"})


def test_auto_on_a_processor_goes_by_cores_and_free_memory(tmp_path: Path) -> None:
    assert auto_workers(64, None, 10 << 30, None) == 8
    assert auto_workers(64, None, 10 << 30, 30 << 30) == 2
    assert auto_workers(64, 16, 1, 1 << 40) == 4
    assert auto_workers(2, None, 10 << 30, 1 << 20) == 1
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\nMemAvailable:      1024 kB\n")
    assert free_bytes(tmp_path / "meminfo") == 1 << 20 and free_bytes(tmp_path / "none") is None
    assert device_sets(FOUR, 3) == [("CUDA0", "CUDA1", "CUDA2")]


@pytest.mark.engine
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be set here")
def test_a_child_runs_on_its_cores_alone(tmp_path: Path) -> None:
    """As the system itself says of the process."""
    from cerebellum.llamacpp.process import LlamaBackend
    from tests.llamacpp import tiny

    tiny.gemma4(tmp_path / "model.gguf")
    core = min(os.sched_getaffinity(0))
    engine = LlamaBackend().open(tmp_path / "model.gguf", Settings(n_ctx=64, n_threads=1, cores=(core,)))
    try:
        assert os.sched_getaffinity(engine.pid) == {core}
    finally:
        engine.close()
    assert fleet.CORES_EACH >= 1


def test_an_estimate_counts_the_engines_that_will_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine, or of the nodes that answer: a share of the processor each, or the whole sets of GPUs that a node has."""
    nodes = [
        {"Alive": alive, "NodeID": f"node{i}", "NodeManagerHostname": "host", "Resources": {"CPU": 16.0, "GPU": gpus}}
        for i, (alive, gpus) in enumerate([(True, 5.0), (True, 2.0), (False, 8.0)])
    ]

    @contextlib.contextmanager
    def connected(address: str) -> Iterator[Any]:
        assert address == "ray"
        yield SimpleNamespace(nodes=lambda: nodes)

    monkeypatch.setattr(session, "connected", connected)
    local = cast(LocalFleet, SimpleNamespace(n=3))

    def count(n_gpu_layers: int = 0, **more: Any) -> int:
        settings = Settings(n_ctx=64, n_gpu_layers=n_gpu_layers)
        options = SessionOptions(Path("m.gguf"), Path("out"), Path("text"), settings=settings, **more)
        return session.count_engines(options, local)

    assert count() == 3
    assert count(cluster="ray", workers=3) == 6 and count(cluster="ray", workers=99) == 32
    assert count(99, cluster="ray") == 7 and count(99, cluster="ray", gpus_per_worker=2) == 3
    with pytest.raises(InputError, match="no node of the Ray cluster has 6 GPUs for an engine: it shows 2 nodes"):
        count(99, cluster="ray", gpus_per_worker=6)
