"""The noise floor: what harmless changes of the computation do to the figures. A smaller effect is none.

Harmless changes are another batch shape, another number of threads and, for the reference, weights stored as F32. Two figures are measured
on the first chunks of the search text, and the larger one is the floor: the KL divergence of the changed reference from itself, and the
change of the base's KL divergence. The first is measured before the reference is closed (`measure_reference`), the second when the
session's engines are open (`verbs.noise_floor.measure_noise`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cerebellum.domain import Model, TensorTypes, Trial, TrialKind, tensor_types_of
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.llamacpp.protocol import Engine, Settings
from cerebellum.progress import Progress
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.scoring.summary import mean_kld
from cerebellum.study.runner import Scores, Split, TrialRunner
from cerebellum.study.store import Study

#: Chunks of the search text that the floor is measured on.
NOISE_CHUNKS = 4
#: Above this much memory for a second copy of the weights, storing them as F32 isn't tried.
F32_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """A harmless change: other settings, or other types for the reference's weights."""

    name: str
    settings: Settings
    tensor_types: TensorTypes = ()


@dataclass(frozen=True, slots=True)
class NoiseContext:
    """What the floor is measured on: the search split, the facts that its series are known by, and the reference's rows of it."""

    study: Study
    split: Split
    facts: Mapping[str, Any]
    store: ReferenceStore
    settings: Settings
    progress: Progress

    @property
    def chunks(self) -> Sequence[int]:
        return self.split.chunks[:NOISE_CHUNKS]

    def batch(self, n_vocab: int) -> int:
        """Tokens of the largest batch in which a chunk of the floor's is decoded."""
        longest = max(len(chunk.tokens) for chunk in self.split.corpus.chunks(self.chunks))
        return min(self.settings.batch_room(n_vocab), longest)

    def scores(self, engines: Sequence[Engine], model: Model, change: Change, what: str) -> Scores:
        """The model that ``engines`` have opened under a change, in a series of its own; what the study holds isn't measured again."""
        series = self.study.series(self.split.name, {**self.facts, "noise": change.name, "of": what})
        trial = Trial(f"{what}, {change.name}", TrialKind.REFERENCE, change.tensor_types)
        runner = TrialRunner(
            engines, self.study, series, model.types, self.split.corpus, self.store, self.progress, change.settings
        )
        return runner.measure([trial], self.chunks, f"noise floor: {trial.label}")[trial.label]


def changes_of(settings: Settings, reference: Model, batch: int) -> Iterator[Change]:
    """The changes that should not matter to a reference opened with ``settings``, decoded in batches of at most ``batch`` tokens."""
    other = max(batch // 16, min(batch - 1, 4)) or 2
    yield Change(f"batches of {other} tokens", replace(settings, n_batch=None, n_ubatch=other))
    threads = 1 if settings.threads > 1 else 2
    yield Change("another number of threads", replace(settings, n_threads=threads))
    wide = [t for t in quantizable_tensors(reference) if t.type in ("F16", "BF16")]
    if wide and 4 * sum(t.n_elements for t in wide) <= F32_BYTES:
        yield Change("weights stored as F32", settings, tensor_types_of((t.name, "F32") for t in wide))


def measure_reference(noise_context: NoiseContext, engine: Engine, reference: Model) -> dict[str, float]:
    """The reference's mean KL divergence to itself under each change, nats a token, by the change's name.

    ``engine`` has it open, with itself as sources. Raises a `CerebellumError`.
    """
    changes = changes_of(noise_context.settings, reference, noise_context.batch(engine.n_vocab))
    return {change.name: mean_kld(noise_context.scores([engine], reference, change, "reference")) for change in changes}
