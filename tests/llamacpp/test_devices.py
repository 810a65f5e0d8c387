"""What is decided by the devices beside the processor, made up here: when nothing is replayed, what is keyed, where data is stored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import pytest

from cerebellum.errors import EngineError
from cerebellum.llamacpp import native
from cerebellum.llamacpp.binding import LIBRARIES
from cerebellum.llamacpp.process import child_environment
from cerebellum.llamacpp.trial import weights
from cerebellum.llamacpp.trial.engine import LlamaEngine
from tests.llamacpp.test_replay import BASE, SETTINGS, chunks_of, files, opened, singles, swept, whole

__all__ = ["files"]
pytestmark = pytest.mark.engine
Files = Callable[[str], tuple[Path, Path]]


def is_tapped(engine: LlamaEngine) -> bool:
    tapped = engine.decoder._tap is not None
    engine.close()
    return tapped


def test_with_some_layers_on_a_gpu_all_is_computed_whole(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks and the output are four layers; the user is told, and the sums are those of whole trials."""
    monkeypatch.setattr(lc, "llama_supports_gpu_offload", lambda: True)
    engine = opened(files("llama"), replace(SETTINGS, n_gpu_layers=3))
    trials, chunks = [BASE, *singles(files("llama")[1], (1,))], chunks_of(engine, [1])
    assert swept(engine, trials, chunks, "with 3 of 4 layers on the GPU") == whole(engine, trials, chunks)
    assert not is_tapped(engine)
    for n in (4, 99, -1, 0):
        assert is_tapped(opened(files("llama"), replace(SETTINGS, n_gpu_layers=n)))


def test_where_weights_are_copied_all_is_computed_whole(files: Files) -> None:
    """As the recorded graph would show it."""
    engine = opened(files("llama"))
    trials, chunks = [BASE, *singles(files("llama")[1], (1,))], chunks_of(engine, [1])
    assert engine.decoder._tap is not None
    engine.decoder._tap.weights_copied = True
    assert swept(engine, trials, chunks, "copies weights from one device to another") == whole(engine, trials, chunks)
    assert (engine.decoder.lean, engine.decoder.replays, engine.decoder.places) == (False, False, False)
    engine.close()


def test_a_gpu_that_was_not_asked_for_computes_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp would send it large batches."""
    asked = dict[int, bool]()
    layers, make = 0, lc.llama_init_from_model

    def noting(model: Any, params: Any) -> Any:
        asked[layers] = bool(params.op_offload)
        return make(model, params)

    monkeypatch.setattr(lc, "llama_init_from_model", noting)
    for layers in (0, 99):
        opened(files("llama"), replace(SETTINGS, n_gpu_layers=layers)).close()
    assert asked == {0: False, 99: True}


def test_devices_are_part_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another card, or a second one, may round another way."""
    ids = []
    for devices in ((), ("CUDA0: A",), ("CUDA0: B",), ("CUDA0: A", "CUDA1: A")):
        monkeypatch.setattr(native, "devices", lambda devices=devices: devices)
        ids.append(native.build_id.__wrapped__())
    assert len(set(ids)) == 4


def test_the_build_is_that_of_the_library_that_is_loaded(tmp_path: Path) -> None:
    """``LLAMA_CPP_LIB_PATH`` names another llama.cpp: its figures are not those of the package's own."""
    for library in LIBRARIES.iterdir():
        (tmp_path / library.name).write_bytes(library.read_bytes() + b"another build")
    code = "from cerebellum.llamacpp import native; print(native.LIBRARIES); print(native.build_id())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**child_environment(), "LLAMA_CPP_LIB_PATH": str(tmp_path)}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    folder, build = done.stdout.splitlines()
    assert folder == str(tmp_path) and build != native.build_id()


@dataclass
class Like:
    """A struct in a buffer of some type."""

    kind: int


@dataclass
class CapturedReference:
    """What is stored of it."""

    like: Like
    freed: bool = False

    def free(self) -> None:
        self.freed = True


def test_data_is_stored_once_for_each_type_of_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tied embedding is looked up by the processor and multiplied by on a GPU. Where there is no memory for the second, the first is
    freed."""
    made: list[CapturedReference] = []

    def store(like: Like, _type: int, _data: Any) -> CapturedReference:
        if like.kind == 3:
            raise EngineError("no memory")
        made.append(CapturedReference(like))
        return made[-1]

    monkeypatch.setattr(weights, "store_like", store)
    monkeypatch.setattr(weights, "_buffer_type", lambda like: like.kind)
    stored: Any = weights._store_like_all([Like(1), Like(2), Like(1)], 0, None)  # type: ignore[list-item, arg-type]
    assert {kind: kept.like.kind for kind, kept in stored.items()} == {1: 1, 2: 2} and len(made) == 2
    with pytest.raises(EngineError):
        weights._store_like_all([Like(1), Like(3)], 0, None)  # type: ignore[list-item, arg-type]
    assert [kept.freed for kept in made] == [False, False, True]
