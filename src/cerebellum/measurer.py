"""Run what the study lacks: trials × chunks − finished, chunk by chunk, each result committed as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cerebellum.backend import Engine, Settings
from cerebellum.domain import Chunk, ChunkScore, Corpus, Trial
from cerebellum.errors import EngineError
from cerebellum.fanout import fan_out
from cerebellum.metrics import METRIC_VERSION
from cerebellum.progress import Progress, Silent
from cerebellum.reference import ReferenceStore
from cerebellum.store import Study

Scores = dict[int, ChunkScore]


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
        "reference": dict(reference) if reference else None,
    }


@dataclass
class Measurer:
    """Engines opened on one base, a study, one series: measures trials on chunks, each once."""

    engines: Sequence[Engine]
    study: Study
    series: int
    base_types: Mapping[str, str]
    corpus: Corpus
    reference: ReferenceStore | None = None
    progress: Progress = field(default_factory=Silent)

    def measure(self, trials: Sequence[Trial], chunks: Sequence[int], what: str = "measuring") -> dict[str, Scores]:
        """Scores of every trial on ``chunks``, by label; what the study lacks is measured now.

        Raises `EngineError` naming the trial; whatever was measured before stays.
        """
        return self.measure_each([(trial, chunks) for trial in trials], what)

    def measure_each(self, wanted: Sequence[tuple[Trial, Sequence[int]]], what: str = "measuring") -> dict[str, Scores]:
        """Like `measure`, each trial on chunks of its own. A chunk is taken up once for all trials that lack it, and trials of the
        same types are one."""
        ids = {trial.label: self._trial_id(trial) for trial, _ in wanted}
        done = {label: self.study.chunks_done(number) for label, number in ids.items()}
        asked = {(chunk, ids[trial.label]): trial for trial, chunks in reversed(wanted) for chunk in chunks}
        groups: dict[int, list[Trial]] = {}
        for trial, chunks in wanted:
            for chunk in chunks:
                if chunk not in done[trial.label] and asked[chunk, ids[trial.label]] is trial:
                    groups.setdefault(chunk, []).append(trial)
        total, missing = len(asked), sum(map(len, groups.values()))
        self.progress.begin(what, total, total - missing)
        try:
            for trial, score in fan_out(self.engines, list(groups.items()), self._score):
                self.study.add_score(ids[trial.label], score)
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

    def _score(self, engine: Engine, group: tuple[int, list[Trial]]) -> Iterator[tuple[Trial, ChunkScore]]:
        chunk: Chunk = self.corpus.chunk(group[0])
        for trial in group[1]:
            label = f"trial {trial.label!r}, chunk {chunk.id}"
            try:
                for score in engine.score(trial.swaps, [chunk], reference=self.reference, label=label):
                    yield trial, score
            except EngineError as error:
                raise TrialFailed(trial, error) from error


class TrialFailed(EngineError):
    """A trial ended in an engine error; carries the trial, so that the failure can be recorded."""

    def __init__(self, trial: Trial, error: EngineError) -> None:
        super().__init__(str(error))
        self.trial = trial
