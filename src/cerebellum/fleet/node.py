"""What a node of a cluster does: it finds the model's files, holds one warm engine, and keeps reference rows. Knows nothing of Ray."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum import __version__
from cerebellum.domain import Chunk, ChunkScore, TensorTypes, Trial
from cerebellum.errors import EngineError, InputError
from cerebellum.files import FileState, make_folder
from cerebellum.fleet.local import fleet_settings
from cerebellum.gguf.model_file import model_files
from cerebellum.keys import content_key, partial_of, sha256_file
from cerebellum.llamacpp.protocol import Backend, Engine, Settings, Sources, SweepEvent
from cerebellum.scoring.reference import ReferenceStore

#: Environment variable of a node: folders, as in PATH, where it has the models' files. The paths of the machine that runs the command are
#: not looked at then.
FILES = "CEREBELLUM_FILES"
#: Environment variable of a node: the folder where it keeps files that it makes, rows and hashes.
CACHE = "CEREBELLUM_CACHE"


@dataclass(frozen=True, slots=True)
class Made:
    """How a file is made of the source: llama.cpp's quantizer with these lines."""

    ftype: str
    overrides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NeededFile:
    """A file by its content, and where it lies on the machine that runs the command. ``made``: a node that lacks it can make it.

    ``others``: the other files of a model in several, which llama.cpp finds by their names beside this one.
    """

    path: Path
    sha256: str
    n_bytes: int
    made: Made | None = None
    others: tuple[NeededFile, ...] = ()

    @classmethod
    def of(cls, path: Path, hash_file: Callable[[Path], str], made: Made | None = None) -> NeededFile:
        """The file at ``path``, the first of a set or all there is. ``hash_file``: sha256 of one file. Raises a `CerebellumError`."""
        first, *others = (
            cls(file.absolute(), hash_file(file), file.stat().st_size, made) for file in model_files(path)
        )
        return replace(first, others=tuple(others))

    @property
    def files(self) -> tuple[NeededFile, ...]:
        """Itself, and the others of its set."""
        return (self, *self.others)


@dataclass(frozen=True, slots=True)
class Order:
    """What an engine is to open. ``worker`` of ``n_workers`` on its node, which share its cores."""

    model: NeededFile
    weights: NeededFile
    imatrix: NeededFile | None
    settings: Settings
    worker: int = 0
    n_workers: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """A store of the reference's rows, by the hash that its folder is named by."""

    folder: Path
    k: int | None
    bits: int

    @classmethod
    def of(cls, store: ReferenceStore) -> Rows:
        return cls(store.folder, store.k, store.bits)


class NodeHost:
    """One engine on a node. Methods are called by name over a channel; what they take and give is picklable."""

    def __init__(self, backend: Backend, folders: Sequence[str] = ()) -> None:
        """``folders``: where else the files may lie, on every node; ``~`` is the node's own."""
        self._backend, self._folders = backend, tuple(folders)
        self._engine: Engine | None = None
        self._order: Order | None = None

    @property
    def name(self) -> str:
        return socket.gethostname()

    def version(self) -> str:
        """Of this package, which must be the same everywhere."""
        return __version__

    def open(self, order: Order) -> tuple[int, str]:
        """(number of tokens, the build as this engine has it). Raises `InputError` where a file is missing, or a `CerebellumError`."""
        self.close()
        settings = fleet_settings(replace(order.settings, devices=None, n_gpu_layers=0), order.n_workers)[order.worker]
        settings = replace(settings, n_gpu_layers=order.settings.n_gpu_layers)
        if settings.n_gpu_layers:
            settings = replace(settings, cores=None)
        weights = self.find(order.weights)
        imatrix = self.find(order.imatrix) if order.imatrix else None
        model = weights if order.model == order.weights else self.find(order.model, weights, imatrix)
        self._engine = self._backend.open(model, settings, Sources(weights, imatrix))
        self._order = order
        return self._engine.n_vocab, self._backend.id

    def reopen(self) -> None:
        self.engine.reopen()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise EngineError(f"the engine on {self.name} is not open")
        return self._engine

    def unused(self) -> frozenset[str]:
        return self.engine.unused

    def warnings(self) -> tuple[str, ...]:
        return self.engine.warnings

    def quantized_sha256(self, tensor_types: TensorTypes) -> Mapping[str, str]:
        return self.engine.quantized_sha256(tensor_types)

    def score(
        self, tensor_types: TensorTypes, chunks: Sequence[Chunk], rows: Rows | None, label: str
    ) -> Iterator[ChunkScore]:
        return self.engine.score(tensor_types, chunks, reference=self._store(rows), label=label)

    def sweep(
        self, trials: Sequence[Trial], chunks: Sequence[Chunk], rows: Rows | None, settings: Settings | None
    ) -> Iterator[SweepEvent]:
        return self.engine.sweep(trials, chunks, reference=self._store(rows), settings=settings)

    # -- reference rows ----------------------------------------------------------------------------------------------------

    def _store(self, rows: Rows | None) -> ReferenceStore | None:
        return None if rows is None else ReferenceStore(_cache() / "reference" / rows.folder.name, rows.k, rows.bits)

    def lacking(self, rows: Rows, chunks: Sequence[int]) -> tuple[int, ...]:
        """The chunks whose rows this node hasn't got."""
        store = self._store(rows)
        assert store is not None
        return tuple(chunk for chunk in chunks if not store.has(chunk))

    def keep(self, rows: Rows, chunk: int, data: bytes) -> None:
        """Keep a chunk's rows, as they lie in the other's file."""
        store = self._store(rows)
        assert store is not None
        make_folder(store.folder)
        _write(store.path(chunk), data)

    # -- files -------------------------------------------------------------------------------------------------------------

    def find(self, needed: NeededFile, weights: Path | None = None, imatrix: Path | None = None) -> Path:
        """Where this node has a file, beside all others of its set; one that can be made of the source is made. Raises `InputError`,
        naming node and file."""
        folders = self._folders_of(needed)
        faults = [_fault_in(folder, needed) for folder in folders]
        if None in faults:
            return folders[faults.index(None)] / needed.path.name
        if needed.made is not None and weights is not None:
            return self._make(needed, needed.made, weights, imatrix)
        lacking, other = next(((file, f"; {why}") for file, why in filter(None, faults) if why), (needed, ""))
        if not other:  # of a set whose first file is there, the first that is not
            lacking = max((file for file, _ in filter(None, faults)), key=needed.files.index)
        of_set = f", one of {len(needed.files)} files of the model that lie in one folder" if needed.others else ""
        raise InputError(
            f"node {self.name} lacks {lacking.path.name} (sha256 {lacking.sha256[:12]}…, {lacking.n_bytes:,} bytes{of_set}); looked in "
            f"{', '.join(dict.fromkeys(map(str, folders)))}{other}. "
            f"Copy it there, or say where the nodes have it: --cluster-files FOLDER, or {FILES} on that node"
        )

    def _folders_of(self, needed: NeededFile) -> list[Path]:
        """Where a file may lie, in the order in which it is looked for."""
        given = [folder for folder in os.environ.get(FILES, "").split(os.pathsep) if folder]
        there = [*(Path(folder).expanduser() for folder in (*self._folders, *given)), self._made_path(needed).parent]
        return there if given else [needed.path.parent, *there]

    @staticmethod
    def _made_path(needed: NeededFile) -> Path:
        return _cache() / "files" / needed.sha256[:16] / needed.path.name

    def _make(self, needed: NeededFile, made: Made, weights: Path, imatrix: Path | None) -> Path:
        path = self._made_path(needed)
        make_folder(path.parent)
        partial = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            self._backend.quantize(weights, partial, made.ftype, made.overrides, imatrix)
            if (sha256 := sha256_file(partial)) != needed.sha256:
                raise InputError(
                    f"node {self.name} makes another {needed.path.name} of the same source (sha256 {sha256[:12]}…, not "
                    f"{needed.sha256[:12]}…): its build of llama.cpp quantizes otherwise. Copy the file there, or leave that node out"
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


def _fault_in(folder: Path, needed: NeededFile) -> tuple[NeededFile, str] | None:
    """The first file of a set that a folder lacks, and that it is another file, if it is; None: all are there."""
    for file in needed.files:
        path = folder / file.path.name
        if not path.is_file():
            return file, ""
        if path.stat().st_size != file.n_bytes or _sha256(path) != file.sha256:
            return file, f"{path} is another file"
    return None


def _cache() -> Path:
    """Where a node keeps what it can make again."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "cerebellum"


def _sha256(path: Path) -> str:
    """The file's hash, remembered for its state: several engines of a node ask for it, and each run."""
    state = FileState.of(path)
    key = content_key(
        "file", [str(path.resolve()), state.device, state.inode, state.n_bytes, state.modified_ns, state.changed_ns]
    )
    known = _cache() / "sha256" / key.partition(":")[2]
    if known.is_file() and len(text := known.read_text(encoding="ascii", errors="replace").strip()) == 64:
        return text
    sha256 = sha256_file(path)
    state.check()
    make_folder(known.parent)
    _write(known, sha256.encode())
    return sha256


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; several processes of a node may write the same."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{partial_of(path).name}")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def call_of(host: NodeHost, method: str, args: Sequence[Any]) -> Any:
    """A method or property of a host, by its name."""
    attribute = getattr(host, method)
    return attribute(*args) if callable(attribute) else attribute
