"""Run what the study lacks: trials × chunks − finished, chunk by chunk, each result committed as it arrives."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cerebellum.domain import ChunkScore, Corpus, Mask, Tokens, Trial, TrialKind
from cerebellum.errors import CerebellumError, EngineDied, EngineError, TypeChoiceError
from cerebellum.llamacpp.one_stream import closing
from cerebellum.llamacpp.protocol import DECODING_VERSION, ChunkScored, Engine, Note, Settings, TrialStarted
from cerebellum.progress import Progress, Silent
from cerebellum.scoring.metrics import METRIC_VERSION
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.stats.intervals import fault_of
from cerebellum.study import builds
from cerebellum.study.groups import Group, Running, grouped, n_blocks_of, split
from cerebellum.study.others import Others, allotted
from cerebellum.study.pool import Again, Waiting, WorkerLost, fan_out
from cerebellum.study.shards import PartDone, Shard
from cerebellum.study.store import Study

Scores = dict[int, ChunkScore]
#: Trials and chunks of each.
Lacking = Sequence[tuple[Trial, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Split:
    """Some chunks of a text, with the name their results go by ('search', 'report')."""

    name: str
    corpus: Corpus
    chunks: tuple[int, ...]

    @property
    def tokens(self) -> Tokens:
        """The text's own tokens of these chunks, one after the other, int32 [n]: without the BOS that replaces the first of each."""
        return np.concatenate([self.corpus.tokens[span] for span in map(self.corpus.span, self.chunks)])

    @property
    def scored(self) -> Mask | None:
        """Which of `tokens` an assistant says, bool [n]; None: the text is no conversation."""
        turns = self.corpus.turns
        return None if turns is None else np.concatenate([turns.scored[s] for s in map(self.corpus.span, self.chunks)])

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


@dataclass(frozen=True, slots=True)
class FailedTrial:
    """A trial that can't be measured, and why."""

    label: str
    reason: str


#: What a run can't do without: where one of these fails, it ends. Any other trial that fails is left out, and the run goes on.
NEEDED = frozenset({TrialKind.BASE, TrialKind.REFERENCE, TrialKind.FILE})


@dataclass
class TrialRunner:
    """Engines opened on one base, a study, one series: measures trials on chunks, each once.

    A trial that fails (a sum that is no number, a native abort, no entry in the importance matrix) becomes a row of the study with its
    reason, and the others go on, on an engine that is opened anew where it died. A trial that an engine died of is tried once more, on
    another engine where there is one. An engine that can't be opened any more is left out, and the others do its work. The scores of a
    trial that failed are never returned, nor is it measured again, until `Study.retry_failures` is called. Where a trial of a kind in
    `NEEDED` fails, `TrialFailed` is raised.

    ``settings``: batch shape and threads to measure under, where they aren't the engines' own; everything is computed whole then.
    ``shard``: only this part of the trials is measured, and `PartDone` raised where the other parts' are lacking then.
    ``reads_pairs``: scores of single trials are read by `paired`, so those of other builds count. ``others``: engines of such builds; they
    measure single trials on chunks of their own.
    """

    engines: Sequence[Engine]
    study: Study
    series: int
    base_types: Mapping[str, str]
    corpus: Corpus
    reference: ReferenceStore | None = None
    progress: Progress = field(default_factory=Silent)
    settings: Settings | None = None
    shard: Shard | None = None
    reads_pairs: bool = False
    others: Sequence[Others] = ()

    def measure(self, trials: Sequence[Trial], chunks: Sequence[int], what: str = "measuring") -> dict[str, Scores]:
        """Scores of every trial on ``chunks``, by label; what the study lacks is measured now.

        A trial that failed, now or before, is absent; `failed` says why. Raises `TrialFailed` for a trial of a kind in `NEEDED`;
        whatever was measured before stays. Raises `PartDone`: see ``shard``.
        """
        return self.measure_each([(trial, chunks) for trial in trials], what)

    def measure_each(self, wanted: Sequence[tuple[Trial, Sequence[int]]], what: str = "measuring") -> dict[str, Scores]:
        """Like `measure`, each trial on chunks of its own. Trials of the same types are one, measured once."""
        lost = {failure.label for failure in self.failed([trial for trial, _ in wanted])}
        of_shard = self._own(wanted)
        wanted = [(trial, chunks) for trial, chunks in wanted if trial.label not in lost]
        ids = {trial.label: self._trial_id(trial) for trial, _ in wanted}
        done = {label: self.study.chunks_done(number) for label, number in ids.items()}
        for trial, chunks in wanted if self.pooled else ():
            if trial.kind is TrialKind.SINGLE:
                done[trial.label] |= self.paired(trial, chunks)[0].keys()
        asked = {(chunk, ids[trial.label]): trial for trial, chunks in reversed(wanted) for chunk in chunks}
        lacking = [
            (trial, [c for c in chunks if c not in done[trial.label] and asked[c, ids[trial.label]] is trial])
            for trial, chunks in wanted
        ]
        n_others = sum(len(chunks) for trial, chunks in lacking if trial.label not in of_shard)
        lacking = [(trial, chunks) for trial, chunks in lacking if trial.label in of_shard]
        total = sum(trial.label in of_shard for trial in asked.values())
        missing = sum(len(chunks) for _, chunks in lacking)
        self.progress.begin(what, total, total - missing)
        failures: dict[str, str] = {}
        shares = self._shares_of_others(wanted, lacking)
        theirs = {(trial.label, chunk) for share in shares for trial, chunks in share.lacking for chunk in chunks}
        lacking = [(trial, [c for c in chunks if (trial.label, c) not in theirs]) for trial, chunks in lacking]
        sources = [self._measured(lacking, ids), *(share.measured() for share in shares)]
        try:
            for own_ids, trial, outcome in fan_out(range(len(sources)), sources, lambda _, source: source):
                if isinstance(outcome, Note):
                    self.progress.note(outcome.text)
                elif isinstance(outcome, ChunkScore):
                    self.study.add_score(own_ids[trial.label], outcome)
                    if own_ids is ids or trial.kind is TrialKind.SINGLE:  # another build's base was not asked for
                        self.progress.step(trial.label)
                elif trial.label not in failures:
                    self.study.check_files()  # a file that was cut short under llama.cpp is no fault of the trial
                    failures[trial.label] = outcome.reason
                    self.study.add_failure(ids[trial.label], outcome.reason)
                    self.progress.note(f"warning: {outcome.reason}. The others go on without it")
        except TrialFailed as failure:
            self.study.check_files()
            self.study.add_failure(ids[failure.trial.label], str(failure))
            raise
        finally:
            self.progress.end()
        gone = {ids[label] for label in failures}
        if n_others:
            n_failed = len(of_shard & (lost | failures.keys()))
            raise PartDone(what, len(of_shard), total, missing, n_others, n_failed)
        if not all(share.is_whole() for share in shares):  # an engine of another build is lost, or a trial failed there
            return replace(self, others=()).measure_each(wanted, what)
        return {trial.label: self.known(trial, chunks) for trial, chunks in wanted if ids[trial.label] not in gone}

    def _measured(self, lacking: Lacking, ids: Mapping[str, int]) -> Iterator[tuple[Mapping[str, int], Trial, Found]]:
        """What the engines find of the cells that are lacking, with the numbers of the trials by label."""
        sweeper, n = Sweeper(self), len(self.engines)
        for trial, outcome in fan_out(self.engines, Waiting(grouped(lacking, n), n, sweeper.split), sweeper.sweep):
            yield ids, trial, outcome

    def _shares_of_others(self, wanted: Lacking, lacking: Lacking) -> list[_Share]:
        """What engines of other builds measure of the cells that are lacking: single trials on chunks that are theirs in full, and their
        base there."""
        chunks = sorted({chunk for trial, each in wanted if trial.kind is TrialKind.SINGLE for chunk in each})
        base = next((trial for trial, _ in wanted if not trial.tensor_types), Trial("base", TrialKind.BASE))
        shares = []
        n_others = [len(other.engines) for other in self.others]
        for other, theirs in zip(self.others, allotted(chunks, len(self.engines), n_others), strict=True):
            cells = [(t, [c for c in each if c in theirs]) for t, each in lacking if t.kind is TrialKind.SINGLE]
            if any(each for _, each in cells):
                sub = replace(self, engines=other.engines, series=other.series, others=())
                shares.append(_Share(sub, base, [(trial, each) for trial, each in cells if each]))
        return shares

    @functools.cached_property
    def pooled(self) -> tuple[int, ...]:
        """Series of other builds whose single trials count as measured, each beside its own base: see `paired`."""
        return builds.siblings(self.study, self.series) if self.reads_pairs else ()

    def paired(self, trial: Trial, chunks: Sequence[int]) -> tuple[Scores, Scores]:
        """What the study holds of a trial and of the base on ``chunks``: of each chunk both by one build, this one's where it has both."""
        base = Trial("base", TrialKind.BASE).key(self.base_types)
        return builds.paired(self.study, (self.series, *self.pooled), trial.key(self.base_types), base, chunks)

    def _own(self, wanted: Sequence[tuple[Trial, Sequence[int]]]) -> frozenset[str]:
        """Labels of the trials that are this part's, and of those in `NEEDED`. Trials of the same types are one."""
        if self.shard is None:
            return frozenset(trial.label for trial, _ in wanted)
        keys = {trial.label: trial.key(self.base_types) for trial, _ in wanted}
        needed = {keys[trial.label] for trial, _ in wanted if trial.kind in NEEDED}
        n_chunks: dict[str, int] = {}
        for trial, chunks in wanted:
            n_chunks[keys[trial.label]] = max(len(chunks), n_chunks.get(keys[trial.label], 0))
        of_shard = needed | self.shard.own({key: n for key, n in n_chunks.items() if key not in needed})
        return frozenset(label for label, key in keys.items() if key in of_shard)

    def failed(self, trials: Sequence[Trial]) -> tuple[FailedTrial, ...]:
        """Those of ``trials`` that failed and were not retried since, with the reason. The kinds in `NEEDED` are always tried again."""
        reasons = self.study.failed_trials(self.series)
        reasoned = ((trial.label, reasons.get(self._trial_id(trial))) for trial in trials if trial.kind not in NEEDED)
        return tuple(FailedTrial(label, reason) for label, reason in reasoned if reason is not None)

    def known(self, trial: Trial, chunks: Sequence[int]) -> Scores:
        """What the study holds of a trial on ``chunks``; nothing is measured."""
        asked = set(chunks)
        return {c: s for c, s in self.study.scores(self._trial_id(trial)).items() if c in asked}

    def _trial_id(self, trial: Trial) -> int:
        return self.study.trial(self.series, trial, self.base_types)


@dataclass(frozen=True)
class _Share:
    """Cells that ``runner``, of another build, is to measure, with its ``base`` on the same chunks."""

    runner: TrialRunner
    base: Trial
    lacking: Lacking

    def measured(self) -> Iterator[tuple[Mapping[str, int], Trial, Found]]:
        """As `TrialRunner._measured`. What fails here is told and left to the engines of the study's own build."""
        wanted = self._wanted()
        ids = {trial.label: self.runner._trial_id(trial) for trial, _ in wanted}
        lacking = [(t, [c for c in chunks if c not in self.runner.known(t, chunks)]) for t, chunks in wanted]
        return self._guarded(lacking, ids)

    def _guarded(self, lacking: Lacking, ids: Mapping[str, int]) -> Iterator[tuple[Mapping[str, int], Trial, Found]]:
        try:
            for own_ids, trial, outcome in self.runner._measured(lacking, ids):
                if isinstance(outcome, FailedTrial):
                    yield own_ids, trial, Note(f"warning: on another build {outcome.reason}. It is measured here")
                else:
                    yield own_ids, trial, outcome
        except EngineError as error:
            told = f"warning: the engines of another build are lost, the others do their work: {error}"
            yield ids, self.base, Note(told)

    def is_whole(self) -> bool:
        """Whether all of it is measured."""
        return all(len(self.runner.known(trial, chunks)) == len(chunks) for trial, chunks in self._wanted())

    def _wanted(self) -> Lacking:
        chunks = sorted({chunk for _, each in self.lacking for chunk in each})
        return [(self.base, chunks), *self.lacking]


Found = ChunkScore | Note | FailedTrial

#: A trial that its engine's process died of is tried so often, where there are several engines on another one.
TRIES = 2
#: An engine of several whose process dies so often, of one trial after the other, does no more.
DEATHS = 2


class Sweeper:
    """Takes groups through engines for a `TrialRunner`, and goes on without the trials that fail. Shared by the threads of `fan_out`.

    What an engine has not begun, another one may take that has nothing to do.
    """

    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner
        self._running: dict[int, Running] = {}  # by engine
        self._n_blocks = 1
        self._lock = threading.Lock()
        self._failed: set[str] = set()
        self._deaths: collections.Counter[str] = collections.Counter()  # of trials
        self._in_a_row: collections.Counter[int] = collections.Counter()  # of engines, since they last gave a score
        self._n_live = len(runner.engines)

    def sweep(self, engine: Engine, group: Group) -> Iterator[tuple[Trial, Found] | Again[Group]]:
        """What comes of a group: scores, what the engine says, and failures. Raises `TrialFailed` for what is in `NEEDED`, and `WorkerLost`
        where the engine can't go on and others may."""
        self._n_blocks = max(self._n_blocks, n_blocks_of(group.trials))
        left = [(trial, list(group.chunks)) for trial in group.trials]
        while waiting := grouped([(t, c) for t, c in left if c and t.label not in self._failed], 1):
            first = waiting[0]
            running = self._running[id(engine)] = Running(first)
            failure: TrialFailed | None = None
            try:
                for trial, outcome in self._through(engine, first, running):
                    if isinstance(outcome, ChunkScore):
                        running.gone.add((trial.label, outcome.chunk))
                        self._in_a_row[id(engine)] = 0
                    yield trial, outcome
            except TrialFailed as caught:
                failure = caught
            finally:
                with self._lock:
                    del self._running[id(engine)]
            left = [(t, [c for c in chunks if (t.label, c) not in running.gone]) for t, chunks in left]
            if failure is None:
                continue
            is_unsure = failure.is_unsure and len(first.trials) > 1
            try:
                self._restart(engine, failure, left, is_blamed=failure.is_death and not is_unsure)
            except WorkerLost as lost:
                if self._n_live:
                    yield first.trials[0], Note(f"warning: an engine is lost, the others do its work: {lost.error}")
                raise
            if is_unsure:  # alone it shows whose fault it was
                chunks = tuple(c for c in first.chunks if (failure.trial.label, c) not in running.gone)
                left = [(t, c) for t, c in left if t is not failure.trial]
                yield from self.sweep(engine, Group(chunks, (failure.trial,)))
            elif failure.is_death and self._deaths[failure.trial.label] < TRIES:
                again = [(t, c) for t, c in left if failure.is_base or t is failure.trial]
                left = [] if failure.is_base else [(t, c) for t, c in left if t is not failure.trial]
                for lacking in grouped([(t, c) for t, c in again if c and t.label not in self._failed], 1):
                    yield Again(lacking)
            else:
                yield from self._give_up(failure)

    def split(self) -> Group | None:
        """What an engine that has nothing to do takes of what another has not begun, if anything."""
        with self._lock:
            return split(self._running.values(), self._n_blocks, self._failed)

    def _begins(self, running: Running, event: TrialStarted) -> bool:
        """Whether a cell that an engine begins is still its own; from now on it is."""
        with self._lock:
            if event.base:
                return True
            running.at = event.trial
            return (running.group.trials[event.trial].label, event.chunk) not in running.gone

    def _restart(
        self, engine: Engine, failure: TrialFailed, left: Sequence[tuple[Trial, Sequence[int]]], *, is_blamed: bool
    ) -> None:
        """Open the engine anew where its process died. Raises `WorkerLost` where it doesn't open, or died too often in a row while others
        live: then its trials aren't to blame."""
        if is_blamed:
            self._in_a_row[id(engine)] += 1
        left_groups = grouped([(t, c) for t, c in left if c and t.label not in self._failed], 1)
        if self._in_a_row[id(engine)] >= DEATHS and self._n_live > 1:
            self._n_live -= 1
            raise WorkerLost(failure, left_groups)
        try:
            engine.reopen()
        except EngineError as error:
            self._n_live -= 1
            raise WorkerLost(error, left_groups) from error
        if is_blamed:
            self._deaths[failure.trial.label] += 1

    def _give_up(self, failure: TrialFailed) -> Iterator[tuple[Trial, Found]]:
        if failure.trial.kind in NEEDED or failure.is_base:
            raise failure
        self._failed.add(failure.trial.label)
        yield failure.trial, FailedTrial(failure.trial.label, str(failure))

    def _through(self, engine: Engine, group: Group, running: Running) -> Iterator[tuple[Trial, ChunkScore | Note]]:
        """One sweep, up to the first cell that another engine has taken. Raises `TrialFailed` where it ends early."""
        runner, started = self._runner, None
        try:
            chunks = runner.corpus.chunks(group.chunks)
            events = engine.sweep(group.trials, chunks, reference=runner.reference, settings=runner.settings)
            with closing(events):
                for event in events:
                    if isinstance(event, TrialStarted):
                        if not self._begins(running, event):
                            return
                        started = event
                    elif isinstance(event, Note):
                        yield group.trials[0], event
                    else:
                        yield group.trials[event.trial], _sound(group.trials[event.trial], event)
        except TrialFailed:
            raise
        except (EngineError, TypeChoiceError) as error:
            if started is None and isinstance(error, TypeChoiceError):
                raise  # nothing had begun: the plan is at fault
            started = started or TrialStarted(0, group.chunks[0], base=True)
            raise TrialFailed(group.trials[started.trial], started, error) from error


def _sound(trial: Trial, scored: ChunkScored) -> ChunkScore:
    """The score, if it is a measurement. Raises `TrialFailed`."""
    if fault := fault_of(scored.score):
        raise TrialFailed(trial, TrialStarted(scored.trial, scored.score.chunk), EngineError(fault))
    return scored.score


class TrialFailed(EngineError):
    """A trial ended in an error at a chunk; carries the trial, so that the failure can be recorded.

    ``is_base``: it was the base's own pass that failed. ``is_death``: the engine's process died. ``is_unsure``: it died while another
    trial's tensors were quantized beside this one, so it may have died of them.
    """

    def __init__(self, trial: Trial, started: TrialStarted, error: CerebellumError) -> None:
        where, text = started.told(trial.label), str(error)
        super().__init__(text if where in text else f"{where}: {text.removeprefix(f'trial {trial.label!r}: ')}")
        self.trial = trial
        self.is_base = started.base
        self.is_death = isinstance(error, EngineDied)
        self.is_unsure = bool(started.ahead) and self.is_death
