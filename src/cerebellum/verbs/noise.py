"""The noise floor: what harmless changes of the computation do to the figures. A smaller effect is none.

Harmless are the batch shape, the number of threads and, for the reference, its weights stored as F32. Two things are measured on
the first chunks of the search text, and the larger is the floor: how far the reference gets from itself, and how much the base's KL
divergence (from which every difference is taken) moves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cerebellum import gguf_file
from cerebellum.backend import Settings, Sources
from cerebellum.domain import Swaps, Trial, TrialKind, swaps_of
from cerebellum.llama_rules import quantizable_tensors
from cerebellum.measurer import Measurer, Scores
from cerebellum.summary import mean_kld
from cerebellum.verbs.job import Job

#: Chunks of the search text that the floor is measured on.
NOISE_CHUNKS = 4
#: Above this much memory for a second copy of the weights, storing them as F32 isn't tried.
F32_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Harmless:
    """One change that should not matter. ``reference``: the reference's mean KL divergence to itself; ``base``: the absolute change of
    the base's; nats a token, None where not measured."""

    change: str
    reference: float | None
    base: float | None


@dataclass(frozen=True, slots=True)
class Noise:
    """What was tried on how many chunks; ``floor`` is the largest of it, nats a token."""

    changes: tuple[Harmless, ...]
    n_chunks: int

    @property
    def floor(self) -> float:
        values = (v for change in self.changes for v in (change.reference, change.base))
        return max((v for v in values if v is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class _Change:
    name: str
    settings: Settings
    swaps: Swaps = ()


def measure_noise(job: Job) -> Noise:
    """Measure the floor of a job's figures; what the study holds is not measured again. Raises a `CerebellumError`."""
    from cerebellum.verbs.sweep import BASE_TRIAL

    chunks = job.search.chunks[:NOISE_CHUNKS]
    base = mean_kld(job.measurer(job.search).measure([BASE_TRIAL], chunks, "base")[BASE_TRIAL.label])
    found = []
    for change in _changes(job):
        own = mean_kld(_scores(job, change, job.reference_path, "reference"))
        moved = None
        if not change.swaps:
            moved = abs(mean_kld(_scores(job, change, job.base.model.path, "base")) - base)
        found.append(Harmless(change.name, own, moved))
    return Noise(tuple(found), len(chunks))


def _changes(job: Job) -> Iterator[_Change]:
    settings = job.options.settings
    smaller = max(8, min(settings.n_ubatch, settings.n_ctx) // 4)
    yield _Change(f"batches of {smaller} tokens", replace(settings, n_ubatch=smaller))
    threads = 1 if (settings.n_threads or os.cpu_count() or 1) > 1 else 2
    yield _Change("another number of threads", replace(settings, n_threads=threads))
    reference = gguf_file.read_model(job.reference_path)
    wide = [t for t in quantizable_tensors(reference) if t.type in ("F16", "BF16")]
    if wide and 4 * sum(t.n_elements for t in wide) <= F32_BYTES:
        yield _Change("weights stored as F32", settings, swaps_of((t.name, "F32") for t in wide))


def _scores(job: Job, change: _Change, path: Path, what: str) -> Scores:
    """The file at ``path`` under a change, on the first search chunks, in a series of its own."""
    model = gguf_file.read_model(path)
    series = job.series(job.search, {"noise": change.name, "of": what})
    trial = Trial(f"{what}, {change.name}", TrialKind.REFERENCE, change.swaps)
    chunks = job.search.chunks[:NOISE_CHUNKS]
    lacking = Measurer([], job.study, series, model.types, job.search.corpus)
    known = lacking.known(trial, chunks)
    if len(known) == len(chunks):
        return known
    engine = job.backend.open(model.path, change.settings, Sources(model.path))
    try:
        store = job.reference_store(job.search)
        measurer = Measurer([engine], job.study, series, model.types, job.search.corpus, store, job.progress)
        return measurer.measure([trial], chunks, f"noise floor: {trial.label}")[trial.label]
    finally:
        engine.close()
