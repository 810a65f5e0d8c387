"""Who computes: how many engines side by side, and which GPUs, cores and memory are each one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from cerebellum.cores import core_shares, n_cores
from cerebellum.errors import InputError
from cerebellum.llamacpp.protocol import Backend, Engine, Settings, Sources

#: Cores of an engine where `--workers auto` decides: from there on further threads help little.
CORES_EACH = 8
#: Share of the memory that is free that engines may take together where `--workers auto` decides.
MEMORY_SHARE = 0.7


class Engines(tuple[Engine, ...]):
    """Engines that give the same bits. ``others``: build → engines of it that give other bits; see `TrialRunner.others`."""

    others: Mapping[str, Sequence[Engine]] = MappingProxyType({})


class Fleet(Protocol):
    """Opens engines side by side."""

    @property
    def n(self) -> int:
        """How many."""
        ...

    def open(self, path: Path, sources: Sources) -> contextlib.AbstractContextManager[Engines]:
        """All of them on one model, closed at the end of the block. Raises a `CerebellumError`."""
        ...


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """Engines of this machine, one for each of ``settings``."""

    backend: Backend
    settings: tuple[Settings, ...]

    @property
    def n(self) -> int:
        return len(self.settings)

    @contextlib.contextmanager
    def open(self, path: Path, sources: Sources) -> Iterator[Engines]:
        with contextlib.ExitStack() as stack:
            engines: list[Engine] = []
            for settings in self.settings:
                engines.append(self.backend.open(path, settings, sources))
                stack.callback(engines[-1].close)
            yield Engines(engines)


def shared_out(settings: Settings, workers: int) -> Settings:
    """The settings of one of ``workers`` engines: memory for replays is divided among them, and the cores unless threads were asked for."""
    cores = n_cores()
    n_threads = settings.n_threads or max(1, cores // workers)
    return replace(
        settings,
        n_threads=n_threads,
        has_idle_cores=2 * workers * n_threads <= cores,
        replay_bytes=settings.replay_bytes // workers,
    )


def fleet_settings(
    settings: Settings, workers: int, devices: Sequence[str] = (), gpus_per_worker: int | None = None
) -> tuple[Settings, ...]:
    """The settings of each of ``workers`` engines.

    Where layers go to GPUs and there are several engines, or GPUs are counted out, each engine sees ``gpus_per_worker`` (1) of ``devices``
    alone; more engines than that gives share them in turn. Else several engines get shares of the cores. Raises `InputError`.
    """
    shared = shared_out(settings, workers)
    if settings.n_gpu_layers == 0 and gpus_per_worker is not None:
        raise InputError("--gpus-per-worker is of GPUs, and no layer is put on one: give --gpu-layers 99 with it")
    if settings.n_gpu_layers != 0 and (gpus_per_worker is not None or (workers > 1 and devices)):
        sets = device_sets(devices, gpus_per_worker or 1)
        return tuple(replace(shared, devices=sets[i % len(sets)]) for i in range(workers))
    shares = core_shares(workers) if workers > 1 and workers * shared.threads <= n_cores() else ()
    if not shares or len(shares[0]) < shared.threads:
        return (shared,) * workers
    return tuple(replace(shared, cores=share) for share in shares)


def device_sets(devices: Sequence[str], each: int) -> list[tuple[str, ...]]:
    """``devices`` in sets of ``each``. Raises `InputError` where there is none."""
    sets = [tuple(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each)]
    if not sets:
        raise InputError(
            f"an engine is to have {each} GPUs (--gpus-per-worker), and llama.cpp shows {len(devices) or 'none'} here"
            f"{': ' + ', '.join(devices) if devices else ''}"
        )
    return sets


def fleet_of(
    backend: Backend, settings: Settings, workers: int | None, gpus_per_worker: int | None, model_bytes: int
) -> LocalFleet:
    """The engines of this machine; ``workers`` None: as many as it has GPUs (in sets) or room for. Raises a `CerebellumError`."""
    asks = settings.n_gpu_layers != 0 and (workers != 1 or gpus_per_worker is not None)
    devices = backend.devices if asks else ()
    if workers is None:
        if settings.n_gpu_layers != 0 and devices:
            workers = len(device_sets(devices, gpus_per_worker or 1))
        else:
            workers = auto_workers(n_cores(), settings.n_threads, model_bytes + settings.replay_bytes, free_bytes())
    return LocalFleet(backend, fleet_settings(settings, workers, devices, gpus_per_worker))


def auto_workers(cores: int, n_threads: int | None, each_bytes: int, free: int | None) -> int:
    """Engines on a processor: one for each `CORES_EACH` cores, as many as ``free`` memory has room for; at least 1."""
    by_cores = cores // (n_threads or CORES_EACH)
    by_memory = by_cores if free is None else int(MEMORY_SHARE * free) // max(each_bytes, 1)
    return max(1, min(by_cores, by_memory))


def free_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that can be taken without swapping; None where the system doesn't say."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)
