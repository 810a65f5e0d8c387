"""Engines on the nodes of a Ray cluster: one actor for each device or share of a processor, each holding a warm engine.

The machine that runs the command cuts texts, keeps the reference and alone writes the study. Only chunks, types, sums and reference rows
travel; model files never do (`cerebellum.fleet.node` finds them on each node).
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerebellum import __version__
from cerebellum.errors import CerebellumError, EngineDied, EngineError, InputError
from cerebellum.fleet.admission import Canary, admitted
from cerebellum.fleet.local import Engines
from cerebellum.fleet.node import Made, NeededFile, NodeHost, Order, call_of
from cerebellum.fleet.remote import RemoteEngine
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import Backend, Settings, Sources
from cerebellum.progress import Progress

#: Seconds that an actor may take to start.
START_SECONDS = 120.0
#: Seconds after which a cluster knows that a node is gone, about.
SEEN_SECONDS = 10.0
#: Seconds that a cluster's address has to answer in.
ANSWER_SECONDS = 10.0
#: Actors that are started at a time.
STARTED_TOGETHER = 32


class HostActor:
    """A `NodeHost` behind Ray: every answer is ("value", …), ("item", …) or ("error", …). One call at a time, but for `stop`."""

    def __init__(self, backend: Backend, folders: Sequence[str]) -> None:
        self._host, self._lock, self._stopped = NodeHost(backend, folders), threading.Lock(), 0

    def call(self, method: str, args: Sequence[Any]) -> tuple[str, Any]:
        with self._lock:
            try:
                return "value", call_of(self._host, method, args)
            except CerebellumError as error:
                return "error", error

    def stream(self, number: int, method: str, args: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        with self._lock:
            try:
                items = iter(call_of(self._host, method, args))
                for item in items:
                    if self._stopped >= number:
                        items.close()
                        return
                    yield "item", item
            except CerebellumError as error:
                yield "error", error

    def stop(self, number: int) -> None:
        """Nobody reads stream ``number`` any more."""
        self._stopped = max(self._stopped, number)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor lives: a node, and what it takes of it. Worker ``worker`` of ``n_workers`` there."""

    node_id: str
    host: str
    n_cpus: float
    n_gpus: int
    worker: int = 0
    n_workers: int = 1


class RayChannel:
    """See `Channel`."""

    def __init__(self, ray: Any, slot: Place, backend: Backend, folders: Sequence[str]) -> None:
        self._ray, self._place, self._backend, self._folders = ray, slot, backend, tuple(folders)
        self._n_streams = 0
        self._start()

    @property
    def name(self) -> str:
        return self._place.host

    def _start(self) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(self._place.node_id, soft=False)
        options: dict[str, Any] = {"num_cpus": self._place.n_cpus, "num_gpus": self._place.n_gpus, "max_concurrency": 2}
        actor = self._ray.remote(**options)(HostActor).options(scheduling_strategy=strategy)
        try:
            self._actor = actor.remote(self._backend, self._folders)
            answer = self._ray.get(self._actor.call.remote("version", ()), timeout=START_SECONDS)
        except Exception as error:  # whatever Ray can raise
            raise EngineError(f"node {self.name} starts no worker: {reason(error)}") from error
        if answer[1] != __version__:
            raise EngineError(
                f"node {self.name} has Cerebellum {answer[1]}, here it is {__version__}: install the same on all nodes"
            )

    def call(self, label: str, method: str, *args: Any) -> Any:
        try:
            kind, value = self._ray.get(self._actor.call.remote(method, args))
        except self._ray.exceptions.RayError as error:
            raise EngineDied(f"{label}: the worker on node {self.name} is gone: {reason(error)}") from error
        if kind == "error":
            raise value
        return value

    def stream(self, label: str, method: str, *args: Any) -> Iterator[Any]:
        self._n_streams += 1
        number, is_whole = self._n_streams, False
        items = self._actor.stream.options(num_returns="streaming").remote(number, method, args)
        try:
            for each in items:
                kind, value = self._ray.get(each)
                if kind == "error":
                    raise value
                yield value
            is_whole = True
        except self._ray.exceptions.RayError as error:
            is_whole = True
            raise EngineDied(f"{label}: the worker on node {self.name} is gone: {reason(error)}") from error
        finally:
            if not is_whole:
                with contextlib.suppress(Exception):
                    self._actor.stop.remote(number)

    def restart(self) -> None:
        self.close()
        until = time.monotonic() + SEEN_SECONDS
        while time.monotonic() < until:
            if not any(node["Alive"] and node["NodeID"] == self._place.node_id for node in self._ray.nodes()):
                raise EngineError(f"node {self.name} is gone")
            time.sleep(0.5)
        self._start()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)


def places_of(nodes: Sequence[Mapping[str, Any]], each_node: int, gpus_each: int) -> list[Place]:
    """A place for each ``gpus_each`` GPUs of the nodes that are there, or where that is 0 for each of ``each_node`` shares of a node's
    processor. Raises `InputError` where there is none."""
    alive = sorted((node for node in nodes if node["Alive"]), key=lambda node: node["NodeID"])
    slots: list[Place] = []
    for node in alive:
        resources = node["Resources"]
        cpus, gpus = float(resources.get("CPU", 0.0)), int(resources.get("GPU", 0.0))
        name = f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"
        n = gpus // gpus_each if gpus_each else min(each_node, int(cpus))
        slots += [Place(node["NodeID"], name, int(cpus) // n, gpus_each, i, n) for i in range(n)]
    if not slots:
        kind = f"{gpus_each} GPUs" if gpus_each else "a core"
        raise InputError(f"no node of the Ray cluster has {kind} for an engine: it shows {len(alive)} nodes")
    return slots


@dataclass
class RayFleet:
    """See `Fleet`. ``settings`` are those of the command; ``each_node``: engines on a node without GPUs; ``own`` opens one here.

    ``hash_file``: path → sha256 of that file alone. ``note``: told what was decided of another build, and why.
    """

    ray: Any
    backend: Backend
    settings: Settings
    build: str
    progress: Progress
    hash_file: Callable[[Path], str]
    note: Callable[[str, str, str], None]
    each_node: int = 1
    gpus_each: int = 1
    folders: tuple[str, ...] = ()
    same_build_only: bool = False
    canary: Canary | None = None
    made: dict[Path, Made] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.places())

    def places(self) -> list[Place]:
        """See `places_of`."""
        gpus_each = self.gpus_each if self.settings.n_gpu_layers else 0
        return places_of(self.ray.nodes(), self.each_node, gpus_each)

    @contextlib.contextmanager
    def open(self, path: Path, sources: Sources) -> Iterator[Engines]:
        """Engines on every place that has the files; a node that lacks them, or can't start, is told and left out."""
        model, weights = self._needed(path), self._needed(sources.weights)
        imatrix = self._needed(sources.imatrix) if sources.imatrix else None
        engines: list[RemoteEngine] = []
        try:
            faults: list[CerebellumError] = []
            orders = [(p, Order(model, weights, imatrix, self.settings, p.worker, p.n_workers)) for p in self.places()]
            with ThreadPoolExecutor(min(len(orders), STARTED_TOGETHER)) as pool:
                starting = [pool.submit(self._engine, *order) for order in orders]
            for each in starting:
                try:
                    engines.append(each.result())
                except CerebellumError as error:
                    faults.append(error)
                    self.progress.note(f"warning: {error}. It goes on without that worker")
            same, differing = self._admitted(engines, path, sources)
            if not same:
                raise (
                    faults[0]
                    if faults
                    else EngineError("no worker of the cluster can measure for this study: see above")
                )
            nodes = len({engine.node for engine in engines})
            self.progress.note(f"cluster: {_counted(len(engines), 'engine')} on {_counted(nodes, 'node')}")
            opened = Engines(same)
            opened.others = {each.build: [e for e in differing if e.build == each.build] for each in differing}
            yield opened
        finally:
            for engine in engines:
                engine.close()

    def _engine(self, slot: Place, order: Order) -> RemoteEngine:
        channel = RayChannel(self.ray, slot, self.backend, self.folders)
        try:
            return RemoteEngine(channel, order)
        except BaseException:
            channel.close()
            raise

    def _admitted(
        self, engines: Sequence[RemoteEngine], path: Path, sources: Sources
    ) -> tuple[list[RemoteEngine], list[RemoteEngine]]:
        assert self.canary is not None
        return admitted(
            engines, self.build, self.canary, lambda: self.backend.open(path, self.settings, sources),
            same_build_only=self.same_build_only, progress=self.progress, note=self.note,
        )  # fmt: skip

    def _needed(self, path: Path) -> NeededFile:
        made = self.made.get(path)
        return NeededFile.of(path, self.hash_file if made is None else sha256_file, made)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def reason(error: BaseException) -> str:
    """Why, in a line: Ray's messages hold tracebacks and colours."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    telling = [line for line in lines if re.match(r"[A-Za-z_.]*(Error|Exception)\b", line)] or [
        line for line in lines if line
    ]
    return (telling[-1] if telling else type(error).__name__)[:300]


def _hush(ray: Any) -> None:
    """Let Ray not print what its daemons say of themselves: pages for a node that died, on standard output, where results go."""
    with contextlib.suppress(AttributeError):
        if callable(ray._private.worker.print_to_stdstream):
            ray._private.worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at ``address`` (``ray`` or ``ray://HOST:PORT``) until the block ends. Raises `InputError`."""
    match = re.fullmatch(r"ray(?:://([A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5}))?", address)
    if match is None:
        raise InputError(
            f"{address!r} (--cluster) is no cluster: write ray for a Ray that runs here, or ray://HOST:PORT"
        )
    try:
        import ray
    except ImportError as error:
        raise InputError("--cluster needs Ray: pip install 'cerebellum[ray]', here and on every node") from error
    if not (was_there := ray.is_initialized()):
        try:
            if match[1]:  # Ray itself waits for minutes
                host, _, port = match[1].rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
            ray.init(match[1] or "auto", log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
        except Exception as error:  # whatever Ray can raise
            where = match[1] or "this machine"
            raise InputError(
                f"no Ray cluster answers on {where}: {reason(error)}; start one with `ray start --head`, and the command on a node of it"
            ) from error
        _hush(ray)
    try:
        yield ray
    finally:
        if not was_there:
            ray.shutdown()
