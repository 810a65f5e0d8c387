"""Run what the study lacks: trials × chunks − finished, chunk by chunk, each result committed as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebellum.domain import ChunkScore, Corpus, Trial
from cerebellum.errors import EngineError
from cerebellum.llamacpp.protocol import DECODING_VERSION, ChunkScored, Engine, Note, Settings, TrialStarted
from cerebellum.progress import Progress, Silent
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.pool import fan_out
from cerebellum.study.store import Study

Scores = dict[int, ChunkScore]

#: Groups that each of several engines gets of the same trials: enough to share the work evenly, few enough to quantize seldom.
PARTS = 2


@dataclass(frozen=True, slots=True)
class Split:
    """Some chunks of a text, with the name their results go by ('search', 'report')."""

    name: str
    corpus: Corpus
    chunks: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens decoded to measure one trial."""
        spans = map(self.corpus.span, self.chunks)
        return sum(span.stop - span.start for span in spans)


def series_facts(
    subject: Mapping[str, Any], split: Split, settings: Settings, build: str, reference: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All that two numbers must share to be compared, except the types (they are the trial's key) and the chunk.

    The chunk numbers of the split are not in it: more chunks can be added later.
    """
    return {
        "subject": dict(subject),
        "tokens_sha256": split.corpus.tokens_sha256,
        "bos": split.corpus.bos,
        "settings": settings.as_key(),
        "build": build,
        "metric_version": METRIC_VERSION,
        "decoding_version": DECODING_VERSION,
        "reference": dict(reference) if reference else None,
    }


@dataclass
class TrialRunner:
    """Engines opened on one base, a study, one series: measures trials on chunks, each once.

    ``settings``: batch shape and threads to measure under, where they aren't the engines' own; everything is computed whole then.
    """

    engines: Sequence[Engine]
    study: Study
    series: int
    base_types: Mapping[str, str]
    corpus: Corpus
    reference: ReferenceStore | None = None
    progress: Progress = field(default_factory=Silent)
    settings: Settings | None = None

    def measure(self, trials: Sequence[Trial], chunks: Sequence[int], what: str = "measuring") -> dict[str, Scores]:
        """Scores of every trial on ``chunks``, by label; what the study lacks is measured now.

        Raises `EngineError` naming the trial; whatever was measured before stays.
        """
        return self.measure_each([(trial, chunks) for trial in trials], what)

    def measure_each(self, wanted: Sequence[tuple[Trial, Sequence[int]]], what: str = "measuring") -> dict[str, Scores]:
        """Like `measure`, each trial on chunks of its own. Trials of the same types are one, measured once."""
        ids = {trial.label: self._trial_id(trial) for trial, _ in wanted}
        done = {label: self.study.chunks_done(number) for label, number in ids.items()}
        asked = {(chunk, ids[trial.label]): trial for trial, chunks in reversed(wanted) for chunk in chunks}
        lacking = [
            (trial, [c for c in chunks if c not in done[trial.label] and asked[c, ids[trial.label]] is trial])
            for trial, chunks in wanted
        ]
        total, missing = len(asked), sum(len(chunks) for _, chunks in lacking)
        self.progress.begin(what, total, total - missing)
        try:
            for trial, found in fan_out(self.engines, grouped(lacking, len(self.engines)), self._sweep):
                if isinstance(found, Note):
                    self.progress.note(found.text)
                    continue
                self.study.add_score(ids[trial.label], found)
                self.progress.step(trial.label)
        except TrialFailed as failure:
            self.study.add_failure(ids[failure.trial.label], str(failure))
            raise
        finally:
            self.progress.end()
        return {trial.label: self.known(trial, chunks) for trial, chunks in wanted}

    def known(self, trial: Trial, chunks: Sequence[int]) -> Scores:
        """What the study holds of a trial on ``chunks``; nothing is measured."""
        asked = set(chunks)
        return {c: s for c, s in self.study.scores(self._trial_id(trial)).items() if c in asked}

    def _trial_id(self, trial: Trial) -> int:
        return self.study.trial(self.series, trial, self.base_types)

    def _sweep(self, engine: Engine, group: Group) -> Iterator[tuple[Trial, ChunkScore | Note]]:
        started: TrialStarted | None = None
        try:
            chunks = self.corpus.chunks(group.chunks)
            for event in engine.sweep(group.trials, chunks, reference=self.reference, settings=self.settings):
                if isinstance(event, ChunkScored):
                    yield group.trials[event.trial], event.score
                elif isinstance(event, Note):
                    yield group.trials[0], event
                else:
                    started = event
        except EngineError as error:
            started = started or TrialStarted(0, group.chunks[0])
            raise TrialFailed(group.trials[started.trial], started, error) from error


@dataclass(frozen=True, slots=True)
class Group:
    """Work for one engine: every trial on every chunk."""

    chunks: tuple[int, ...]
    trials: tuple[Trial, ...]


def grouped(lacking: Sequence[tuple[Trial, Sequence[int]]], n_engines: int) -> list[Group]:
    """All trials that lack a chunk, together with the other chunks that the same trials lack; for several engines in some parts each."""
    by_chunk: dict[int, list[Trial]] = {}
    for trial, chunks in lacking:
        for chunk in chunks:
            by_chunk.setdefault(chunk, []).append(trial)
    alike: dict[tuple[str, ...], list[int]] = {}
    for chunk, trials in by_chunk.items():
        alike.setdefault(tuple(trial.label for trial in trials), []).append(chunk)
    n_parts = 1 if n_engines == 1 else PARTS * n_engines
    return [
        Group(tuple(part), tuple(by_chunk[chunks[0]])) for chunks in alike.values() for part in parts(chunks, n_parts)
    ]


def parts(items: Sequence[int], n: int) -> list[Sequence[int]]:
    """``items`` cut into at most ``n`` stretches of nearly equal length, none of them empty."""
    step = max(1, -(-len(items) // max(n, 1)))
    return [items[first : first + step] for first in range(0, len(items), step)]


class TrialFailed(EngineError):
    """A trial ended in an engine error at a chunk; carries the trial, so that the failure can be recorded."""

    def __init__(self, trial: Trial, started: TrialStarted, error: EngineError) -> None:
        where, text = started.told(trial.label), str(error)
        super().__init__(text if where in text else f"{where}: {text.removeprefix(f'trial {trial.label!r}: ')}")
        self.trial = trial
