"""Many trials on many chunks, each trial computed from the block that it changes on.

The base's pass over a bundle of chunks is captured at the boundaries where trials begin (`replay_cache`). A trial puts that state back and
computes the rest.

* Bundles are taken in parts, as many at a time as fit the allowed memory. Each trial goes over all bundles of a part, so a tensor is
  quantized once a part.
* A bundle whose states alone are too large is captured at fewer boundaries. A trial then computes some blocks that it doesn't change.
* Before the first replay the base and one trial are computed both ways, on all scored rows of a bundle. Where a bit differs, every trial is
  computed whole and the user is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cerebellum.domain import Chunk, Trial
from cerebellum.llamacpp.protocol import ChunkScored, Note, SweepEvent, TrialStarted
from cerebellum.llamacpp.trial.decoding import TRIED, Bundle, Decoder
from cerebellum.llamacpp.trial.replay_cache import ReplayCache
from cerebellum.llamacpp.trial.sums import Reader, keeping
from cerebellum.scoring.reference import ReferenceStore

if TYPE_CHECKING:
    from cerebellum.llamacpp.trial.engine import LlamaEngine

#: The reference's rows that are kept for the trials after the first, at most.
REFERENCE_BYTES = 128 << 20
#: The boundary that each trial of a chunk begins at; −1: it is computed whole.
Starts = list[int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bundles measured together, and where each trial (by its number) begins on each."""

    bundles: tuple[Bundle, ...]
    starts: tuple[Starts, ...]


@dataclass(frozen=True, slots=True)
class TrialSweep:
    """``trials`` on an engine, through its own context or one of other settings."""

    engine: LlamaEngine
    decoder: Decoder
    trials: Sequence[Trial]

    def events(self, chunks: Sequence[Chunk], reference: ReferenceStore | None) -> Iterator[SweepEvent]:
        """See `cerebellum.llamacpp.protocol.Engine.sweep`; there is a trial, and there is a chunk."""
        decoder, trials = self.decoder, self.trials
        yield TrialStarted(0, chunks[0].id, base=True)
        bundles = decoder.bundles(chunks, len(trials))
        if decoder.packs and len(bundles[0]) > 1:
            yield from self._try_types(bundles)
            bundles = decoder.bundles(chunks, len(trials))
        starts = [self.starts_on(bundle) for bundle in bundles]
        if decoder.replays is None and any(start >= 0 for start in starts[0]):
            yield from self._try_replay(bundles[0], starts[0])
        elif decoder.is_lean_worth(bundles[0], len(bundles) * len(trials)):
            yield from self._try_lean(bundles[0])
        if not decoder.replays:
            starts = [[-1] * len(trials)] * len(bundles)
        parts = in_parts(decoder, bundles, starts)
        for stretch in parts:
            read: Reader | None = reference.read if reference else None
            if read and len(trials) > 1:
                read = keeping(read, REFERENCE_BYTES)
            yield from self._measure(stretch, read)

    def starts_on(self, bundle: Bundle) -> Starts:
        """Where each trial begins on a bundle: at the last boundary before what it changes in any batch, if keeping it is worth while and
        within the allowed memory."""
        decoder, trials = self.decoder, self.trials
        graphs = decoder.graphs(bundle)
        if not graphs:
            return [-1] * len(trials)
        addresses = [[a for swap in trial.tensor_types for a in self.engine.addresses(swap.tensor)] for trial in trials]
        starts = [
            min(graph.boundary_before(of_trial) for graph in graphs) if trial.tensor_types else -1
            for trial, of_trial in zip(trials, addresses, strict=True)
        ]
        kept = affordable(captured_of(starts), decoder.settings.replay_bytes, decoder.state_bytes(bundle))
        starts = [max((k for k in kept if k <= start), default=-1) for start in starts]
        graph = graphs[-1]
        saved = sum(graph.share_until(start) for start in starts)
        cost = 0.0 if any(not trial.tensor_types for trial in trials) else graph.share_until(max(starts))
        return starts if saved > cost else [-1] * len(trials)

    def _measure(self, stretch: Stretch, read: Reader | None) -> Iterator[SweepEvent]:
        """All trials on a part's bundles, the base first."""
        engine, decoder, trials = self.engine, self.decoder, self.trials
        order = sorted(range(len(trials)), key=lambda i: bool(trials[i].tensor_types))
        states = [ReplayCache() for _ in stretch.bundles]
        if trials[order[0]].tensor_types:
            yield from self._keep(stretch, states, order[0])
        for rank, number in enumerate(order):
            tensor_types = trials[number].tensor_types
            yield TrialStarted(number, stretch.bundles[0][0].id)  # what it swaps is made now
            following = trials[order[rank + 1]] if rank + 1 < len(order) else None
            with engine.swapped(tensor_types):
                if following:
                    engine.ahead(following.tensor_types)
                for bundle, kept, starts in zip(stretch.bundles, states, stretch.starts, strict=True):
                    ahead = following.label if following and engine.makes_ahead else ""
                    yield from (TrialStarted(number, chunk.id, ahead=ahead) for chunk in reversed(bundle))
                    if not tensor_types and (boundaries := captured_of(starts)):
                        programs = decoder.capturing(bundle, kept, boundaries, whole=True)
                    else:
                        programs = decoder.replaying(bundle, kept, starts[number])
                    yield from (
                        ChunkScored(number, score) for score in engine.score_bundle(decoder, bundle, read, programs)
                    )
                    while decoder.unsaid:
                        yield Note(decoder.unsaid.pop())

    def _try_types(self, bundles: Sequence[Bundle]) -> Iterator[SweepEvent]:
        """Each type has kernels of its own, so one trial of each is decoded side by side and alone too, where there is enough to do."""
        decoder = self.decoder
        first = {swap.type: i for i, trial in reversed(list(enumerate(self.trials))) for swap in trial.tensor_types}
        if len(bundles) * len(self.trials) < TRIED * len(first):
            return
        for rank, number in enumerate(sorted(set(first.values()))):
            bundle = bundles[rank % len(bundles)]
            yield TrialStarted(number, bundle[0].id)
            with self.engine.swapped(self.trials[number].tensor_types):
                if not decoder.same_side_by_side(bundle):
                    decoder.packs = False
                    yield Note(
                        f"warning: with trial {self.trials[number].label!r} chunks side by side give other numbers than alone, so each is "
                        "decoded alone: slower, and exact"
                    )
                    return

    def _keep(self, stretch: Stretch, states: Sequence[ReplayCache], first: int) -> Iterator[SweepEvent]:
        """The base's pass over each bundle, only to be kept, where no trial is the base."""
        for bundle, kept, starts in zip(stretch.bundles, states, stretch.starts, strict=True):
            if boundaries := captured_of(starts):
                yield TrialStarted(first, bundle[0].id, base=True)
                self.decoder.pass_over(bundle, self.decoder.capturing(bundle, kept, boundaries, whole=False))

    def _try_replay(self, bundle: Bundle, starts: Starts) -> Iterator[SweepEvent]:
        """The base, and one trial, both ways."""
        decoder, trials = self.decoder, self.trials
        replayed = sorted((start, i) for i, start in enumerate(starts) if start >= 0)
        start, number = replayed[len(replayed) // 2]
        yield TrialStarted(number, bundle[0].id, base=True)
        states = ReplayCache()
        captured = decoder.capturing(bundle, states, captured_of(starts), whole=True)
        same = decoder.digests(bundle, None) == decoder.digests(bundle, captured)
        yield TrialStarted(number, bundle[0].id)
        with self.engine.swapped(trials[number].tensor_types):
            replayed_rows = decoder.replaying(bundle, states, start)
            same = same and decoder.digests(bundle, None) == decoder.digests(bundle, replayed_rows)
        decoder.replays = decoder.lean = same
        if not same:
            yield Note(
                f"warning: computing trial {trials[number].label!r} from block {start + 1} on gives other numbers than computing it whole, "
                "so every trial is computed whole: slower, and exact"
            )

    def _try_lean(self, bundle: Bundle) -> Iterator[SweepEvent]:
        """Leaving out what is dead, tried on the first trial."""
        yield TrialStarted(0, bundle[0].id)
        with self.engine.swapped(self.trials[0].tensor_types):
            if not self.decoder.try_lean(bundle):
                yield Note(
                    "warning: leaving out what no scored token needs gives other numbers, so every trial is computed whole"
                )


def affordable(boundaries: Sequence[int], n_bytes: int, size: Callable[[Sequence[int]], int]) -> Sequence[int]:
    """Every m-th of ``boundaries``, beginning with the first, for the least m whose states fit ``n_bytes``; none where no m does."""
    for step in range(1, len(boundaries) + 1):
        if size(boundaries[::step]) <= n_bytes:
            return boundaries[::step]
    return ()


def in_parts(decoder: Decoder, bundles: Sequence[Bundle], starts: Sequence[Starts]) -> list[Stretch]:
    """As few parts as the allowed memory and the number of kept graphs permit, of nearly equal length."""
    most = max(decoder.state_bytes(b)(captured_of(s)) for b, s in zip(bundles, starts, strict=True))
    room = max(1, decoder.settings.replay_bytes // most) if most else len(bundles)
    room = min(room, decoder.most_at_once(bundles))
    n = -(-len(bundles) // room)
    edges = [len(bundles) * i // n for i in range(n + 1)]
    return [Stretch(tuple(bundles[a:b]), tuple(starts[a:b])) for a, b in itertools.pairwise(edges)]


def captured_of(starts: Starts) -> list[int]:
    """The boundaries that a bundle's trials begin at."""
    return sorted({start for start in starts if start >= 0})
