"""llama.cpp's own answers, each asked for once: a process a call is slow, and the same call has the same answer."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cerebellum.keys import sha256_file
from cerebellum.llamacpp.process import EngineProcess, LlamaBackend, ResponderProcess
from cerebellum.llamacpp.protocol import Settings, Sources, SpeedUse, Timed, WeightErrors
from cerebellum.results.health import Native

Pairs = Sequence[tuple[str, str]]


class CachedBackend:
    """`LlamaBackend` that remembers types and written files by the source's bytes."""

    def __init__(self) -> None:
        self._real = LlamaBackend()
        self._folder = tempfile.TemporaryDirectory(prefix="cached-")
        atexit.register(self._folder.cleanup)  # before the interpreter's end finds it open and warns
        self._types: dict[object, Mapping[str, str]] = {}
        self._files: dict[object, Path] = {}
        self._id = ""

    @property
    def id(self) -> str:
        self._id = self._id or self._real.id
        return self._id

    @property
    def devices(self) -> tuple[str, ...]:
        return ()

    def build(self, settings: Settings) -> str:
        return self.id

    def open(self, model: Path, settings: Settings, sources: Sources | None = None) -> EngineProcess:
        return self._real.open(model, settings, sources)

    def respond(self, model: Path, settings: Settings, n_ctx: int | None = None) -> ResponderProcess:
        return self._real.respond(model, settings, n_ctx)

    def native(self) -> Native:
        return self._real.native()

    def speed(self, model: Path, settings: Settings, use: SpeedUse) -> Iterator[Timed]:
        return self._real.speed(model, settings, use)

    def weight_errors(
        self,
        source: Path,
        imatrix: Path | None,
        wanted: Sequence[tuple[str, Sequence[str]]],
        sampled: int,
        judge: Path | None = None,
    ) -> Iterator[WeightErrors]:
        return self._real.weight_errors(source, imatrix, wanted, sampled, judge)

    def types(self, source: Path, ftype: str, overrides: Pairs = (), imatrix: Path | None = None) -> Mapping[str, str]:
        key = (sha256_file(source), ftype, tuple(overrides), imatrix)
        if key not in self._types:
            self._types[key] = self._real.types(source, ftype, overrides, imatrix)
        return self._types[key]

    def quantize(self, source: Path, out: Path, ftype: str, overrides: Pairs = (), imatrix: Path | None = None) -> None:
        key = (sha256_file(source), ftype, tuple(overrides), imatrix)
        if key not in self._files:
            path = Path(self._folder.name) / f"{len(self._files)}.gguf"
            self._real.quantize(source, path, ftype, overrides, imatrix)
            self._files[key] = path
        shutil.copy(self._files[key], out)
