"""Measuring on the fake backend: planted truth comes out, nothing is measured twice, nothing measured is lost."""

from __future__ import annotations

import math
import pickle
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cerebellum.domain import Corpus, TensorType, Trial, TrialKind, tensor_types_of
from cerebellum.errors import EngineDied, EngineError, StudyError, TensorChoiceError, TypeChoiceError
from cerebellum.gguf.model_file import read_model
from cerebellum.llamacpp.protocol import Backend, Settings, Sources, SweepEvent, TrialStarted
from cerebellum.scoring.reference import ReferenceStore
from cerebellum.study.groups import Group, Running, grouped, split
from cerebellum.study.runner import FailedTrial, Split, TrialFailed, TrialRunner, series_facts
from cerebellum.study.store import Study
from cerebellum.testing import Effect, FakeBackend, FakeEngine, Fault, write_fake_model

N_CTX = 32
SETTINGS = Settings(n_ctx=N_CTX)
GOOD, BAD = TensorType("blk.1.ffn_gate.weight", "Q2_K"), TensorType("blk.2.ffn_down.weight", "Q2_K")
EFFECTS = {GOOD: Effect(nll=-0.02, kld=0.01), BAD: Effect(nll=0.05, kld=0.04)}
BASE, ONE, TWO = (
    Trial("base", TrialKind.BASE),
    Trial("one", TrialKind.SINGLE, (GOOD,)),
    Trial("two", TrialKind.RECIPE, (GOOD, BAD)),
)
TEXT = " ".join(f"word{i * i % 9973}" for i in range(40 * N_CTX))


class Room:
    """A source, a study and a text; engines are opened as a test wants them."""

    def __init__(self, folder: Path) -> None:
        self.source = write_fake_model(folder / "source.gguf")
        self.types = read_model(self.source).types
        self.study = Study.open(folder / "study.sqlite")
        self.corpus: Corpus = self.engine().corpus("text", TEXT, N_CTX)
        self.store = ReferenceStore(folder / "reference", None)
        list(self.engine().capture(self.corpus.chunks(range(12)), self.store))
        self.series = self.study.series("search", {"text": self.corpus.tokens_sha256})

    def engine(self, *faults: Fault) -> FakeEngine:
        return FakeBackend(EFFECTS, faults).open(self.source, SETTINGS, Sources(self.source))

    def runner(self, *engines: FakeEngine) -> TrialRunner:
        return TrialRunner(engines, self.study, self.series, self.types, self.corpus, self.store)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    room = Room(tmp_path)
    yield room
    room.study.close()


def test_planted_effects_come_out_and_add_up(room: Room) -> None:
    """Over many chunks the mean differences are the planted ones; two swaps together are their sum, chunk by chunk."""
    scores = room.runner(room.engine()).measure([BASE, ONE, TWO], range(12))
    nll = {label: [s.nll / s.n_tokens for s in by_chunk.values()] for label, by_chunk in scores.items()}
    kld = {label: [(s.kld or 0.0) / s.n_tokens for s in by_chunk.values()] for label, by_chunk in scores.items()}
    change = [a - b for a, b in zip(nll["one"], nll["base"], strict=True)]
    assert sum(change) / 12 == pytest.approx(-0.02, rel=0.25) and len(set(change)) == 12
    assert kld["base"] == [0.0] * 12 and sum(kld["one"]) / 12 == pytest.approx(0.01, rel=0.25)
    assert sum(kld["two"]) / 12 == pytest.approx(0.05, rel=0.25)


def test_a_second_run_measures_nothing(room: Room) -> None:
    """Resume is set difference: only new trials and new chunks reach the engine, and the answer is the same."""
    first, second = room.engine(), room.engine()
    scores = room.runner(first).measure([BASE, ONE], range(4))
    assert first.n_scored == 8
    assert room.runner(second).measure([BASE, ONE], range(4)) == scores
    assert second.n_scored == 0
    wider = room.runner(second).measure([BASE, ONE, TWO], range(5))
    assert second.n_scored == 2 + 5
    assert {label: {c: wider[label][c] for c in range(4)} for label in scores} == scores


def test_only_the_chunks_asked_for_are_returned(room: Room) -> None:
    """What else the study holds of a trial stays out of the answer."""
    runner = room.runner(room.engine())
    runner.measure([BASE], range(6))
    assert set(runner.measure([BASE], [1, 3])["base"]) == {1, 3}


def test_equal_types_are_measured_once(room: Room) -> None:
    """Two labels that store the same types are one trial; a swap to the type that is there already is the base."""
    engine = room.engine()
    same = Trial("as it was", TrialKind.SINGLE, tensor_types_of({"blk.0.attn_q.weight": "F16"}))
    scores = room.runner(engine).measure([BASE, same], range(3))
    assert scores["base"] == scores["as it was"]


def straight(room: Room, chunks: range, *trials: Trial) -> dict[str, Any]:
    """What an engine without faults gives."""
    return {
        trial.label: {
            s.chunk: s
            for s in room.engine().score(trial.tensor_types, room.corpus.chunks(chunks), reference=room.store)
        }
        for trial in trials
    }


@pytest.mark.parametrize("dies", [False, True])
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(room: Room, dies: bool) -> None:
    """Not in the answer, a row with its reason, not tried again; all others whole, on the same engine or one opened anew."""
    last = Trial("last", TrialKind.SINGLE, (TensorType("blk.3.ffn_up.weight", "Q2_K"),))
    broken = room.engine(Fault(BAD, chunk=2, dies=dies))
    runner = room.runner(broken)
    scores = runner.measure([BASE, ONE, TWO, last], range(5))
    assert scores == straight(room, range(5), BASE, ONE, last)
    assert broken.n_scored == 15 + 2  # nothing twice; 'two' on chunks 0 and 1
    ((label, _, reason),) = room.study.failures()
    assert label == "two" and "trial 'two', chunk 2" in reason and "as planted" in reason
    assert runner.failed([BASE, ONE, TWO, last]) == (FailedTrial("two", reason),)
    whole = room.engine()
    assert room.runner(whole).measure([BASE, ONE, TWO, last], range(5)) == scores
    assert whole.n_scored == 0


def test_a_failed_trial_is_tried_again_when_asked(room: Room) -> None:
    """Then it is whole, and what it had before its failure isn't measured twice."""
    room.runner(room.engine(Fault(BAD, chunk=2))).measure([BASE, TWO], range(5))
    assert room.study.retry_failures() == 1 and room.study.retry_failures() == 0
    again = room.engine()
    assert room.runner(again).measure([BASE, TWO], range(5)) == straight(room, range(5), BASE, TWO)
    assert again.n_scored == 3 and room.runner(again).failed([TWO]) == ()
    assert len(room.study.failures()) == 1  # what happened stays told


@pytest.mark.parametrize("kind", [TrialKind.BASE, TrialKind.REFERENCE, TrialKind.FILE])
@pytest.mark.parametrize("dies", [False, True])
def test_what_a_run_needs_ends_it_when_it_fails(room: Room, kind: TrialKind, dies: bool) -> None:
    """Named, with the reason, each time it is tried; what came before is kept."""
    needed = Trial("needed", kind)
    for _ in range(2):
        with pytest.raises(TrialFailed, match=r"trial 'needed', chunk 2.*as planted") as caught:
            room.runner(room.engine(Fault(chunk=2, dies=dies))).measure([needed], range(5))
        assert caught.value.trial is needed and isinstance(caught.value.__cause__, EngineDied if dies else EngineError)
    assert room.study.chunks_done(room.study.trial(room.series, needed, room.types)) == {0, 1}
    assert room.runner(room.engine()).measure([needed], range(5))["needed"] == straight(room, range(5), BASE)["base"]


@pytest.mark.parametrize("nats", [math.nan, math.inf, -math.inf, 5000.0])
@pytest.mark.parametrize("n_engines", [1, 3])
def test_sums_that_are_no_measurement_are_a_failure(room: Room, nats: float, n_engines: int) -> None:
    """NaN, infinite, or past any perplexity: none of it is stored; of the base it ends the run with trial and chunk named."""
    backend = FakeBackend({GOOD: Effect(kld=0.01), BAD: Effect(nll=nats)})
    engines = [backend.open(room.source, SETTINGS, Sources(room.source)) for _ in range(n_engines)]
    scores = room.runner(*engines).measure([BASE, ONE, TWO], range(6))
    assert set(scores) == {"base", "one"} and all(len(of) == 6 for of in scores.values())
    ((label, _, reason),) = room.study.failures()
    assert label == "two" and re.search(
        r"trial 'two', chunk \d: the (sum|mean NLL) .*no (finite number|perplexity)", reason
    )
    base = FakeBackend({TensorType("blk.0.attn_q.weight", "F16"): Effect(nll=nats)})
    with pytest.raises(TrialFailed, match=r"trial 'base', chunk 7: the (sum|mean)"):
        room.runner(base.open(room.source, SETTINGS, Sources(room.source))).measure([BASE], [7])


class NoEntry(FakeEngine):
    """Has no importance for a tensor, as an engine finds out when it quantizes it."""

    def sweep(self, trials: Any, chunks: Any, *, reference: Any = None, settings: Any = None) -> Iterator[SweepEvent]:
        for event in super().sweep(trials, chunks, reference=reference, settings=settings):
            yield event
            if isinstance(event, TrialStarted) and BAD in trials[event.trial].tensor_types:
                raise TypeChoiceError(f"{BAD.tensor} can't be IQ1_S without an importance matrix")


def test_a_type_that_the_importance_matrix_lacks_an_entry_for_is_a_failure(room: Room) -> None:
    engine = room.engine()
    engine.__class__ = NoEntry
    scores = room.runner(engine).measure([BASE, TWO, ONE], range(3))
    assert scores == straight(room, range(3), BASE, ONE)
    ((label, _, reason),) = room.study.failures()
    assert label == "two" and "without an importance matrix" in reason


class DiesOfTheNext(FakeEngine):
    """Dies of a trial's tensors while they are quantized beside the trial before."""

    def sweep(self, trials: Any, chunks: Any, *, reference: Any = None, settings: Any = None) -> Iterator[SweepEvent]:
        for event in super().sweep(trials, chunks, reference=reference, settings=settings):
            if isinstance(event, TrialStarted):
                following = trials[event.trial + 1] if event.trial + 1 < len(trials) else None
                own = BAD in trials[event.trial].tensor_types
                yield replace(event, ahead=following.label if following and BAD in following.tensor_types else "")
                if own or (following and BAD in following.tensor_types):
                    self.die()
                    raise EngineDied("died of quantizing")
            else:
                yield event


def test_who_dies_beside_another_trials_quantizing_is_not_blamed_for_it(room: Room) -> None:
    """Measured alone it is whole, and the other is the one that failed."""
    engine = room.engine()
    engine.__class__ = DiesOfTheNext
    scores = room.runner(engine).measure([BASE, ONE, TWO], range(3))
    assert scores == straight(room, range(3), BASE, ONE)
    assert [label for label, _, _ in room.study.failures()] == ["two"]


@pytest.mark.parametrize("n_engines", [2, 3])
def test_more_engines_give_the_same(room: Room, tmp_path: Path, n_engines: int) -> None:
    """One engine or several: the same scores, each measured once."""
    alone = room.runner(room.engine()).measure([BASE, ONE, TWO], range(8))
    engines = [room.engine() for _ in range(n_engines)]
    with Study.open(tmp_path / "other" / "study.sqlite") as study:
        runner = TrialRunner(engines, study, study.series("s", {}), room.types, room.corpus, room.store)
        assert runner.measure([BASE, ONE, TWO], range(8)) == alone
    assert sum(engine.n_scored for engine in engines) == 24


def test_a_failure_among_several_engines_is_one_failure(room: Room) -> None:
    """With more engines too: the base whole, the trial absent and recorded once."""
    engines = [room.engine(Fault(TWO.tensor_types[1], dies=True)) for _ in range(3)]
    scores = room.runner(*engines).measure([BASE, TWO], range(12))
    assert scores == straight(room, range(12), BASE)
    assert [label for label, _, _ in room.study.failures()] == ["two"]


def test_the_base_failing_among_several_engines_keeps_what_the_others_measured(room: Room) -> None:
    engines = [room.engine(Fault(chunk=5, dies=True)) for _ in range(3)]
    with pytest.raises(TrialFailed, match=r"trial '(base|one)', chunk 5"):
        room.runner(*engines).measure([BASE], range(12))
    done = room.study.chunks_done(room.study.trial(room.series, BASE, room.types))
    assert 5 not in done and len(room.study.failures()) == 1


def test_progress_counts_what_is_missing(room: Room) -> None:
    """What an earlier run did counts as done; every new score is one step; the end is told even after a failure."""

    class Told:
        def __init__(self) -> None:
            self.calls: list[tuple[object, ...]] = []

        def note(self, text: str) -> None:
            self.calls.append(("note", text))

        def begin(self, what: str, total: int, done: int = 0) -> None:
            self.calls.append(("begin", what, total, done))

        def step(self, what: str = "") -> None:
            self.calls.append(("step", what))

        def end(self) -> None:
            self.calls.append(("end",))

    room.runner(room.engine()).measure([BASE], range(2))
    told, runner = Told(), room.runner(room.engine(Fault(chunk=3)))
    runner.progress = told
    with pytest.raises(TrialFailed):
        runner.measure([BASE], range(4), "looking")
    assert told.calls == [("begin", "looking", 4, 2), ("step", "base"), ("end",)]


def test_what_can_change_a_number_changes_the_series(room: Room) -> None:
    """Text, settings, build, subject and reference each make another series; threads and the choice of chunks don't."""
    split = Split("search", room.corpus, (0, 1))

    def key(**change: object) -> int:
        arguments: dict[str, object] = {
            "subject": {"a": 1}, "split": split, "settings": SETTINGS, "build": "b", "reference": {"r": 1},
        }  # fmt: skip
        return room.study.series("s", series_facts(**(arguments | change)))  # type: ignore[arg-type]

    other_text = room.engine().corpus("text", TEXT + " more words " * 2 * N_CTX, N_CTX)
    changes: list[dict[str, object]] = [
        {},
        {"subject": {"a": 2}},
        {"split": Split("search", other_text, (0, 1))},
        {"settings": Settings(n_ctx=N_CTX, n_ubatch=16)},
        {"build": "c"},
        {"reference": None},
        {"reference": {"r": 2}},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key() == key(split=Split("search", room.corpus, (3,))) == key(settings=Settings(n_ctx=N_CTX, n_threads=7))


# -- the fake keeps the engine's promises ------------------------------------------------------------------------------


def test_a_fake_file_scores_as_its_types_do_in_memory(room: Room, tmp_path: Path) -> None:
    """Written with overrides and opened fresh, a file gives the very sums of its swaps in memory."""
    backend: Backend = pickle.loads(pickle.dumps(FakeBackend(EFFECTS)))
    base, written = tmp_path / "base.gguf", tmp_path / "written.gguf"
    backend.quantize(room.source, base, "Q3_K_M")
    backend.quantize(room.source, written, "Q3_K_M", [(s.tensor, s.type) for s in TWO.tensor_types])
    assert read_model(written).types == {**read_model(base).types, **{s.tensor: s.type for s in TWO.tensor_types}}
    chunks = room.corpus.chunks([0, 3])
    memory = list(
        backend.open(base, SETTINGS, Sources(room.source)).score(TWO.tensor_types, chunks, reference=room.store)
    )
    assert memory == list(backend.open(written, SETTINGS).score((), chunks, reference=room.store))
    assert memory != list(backend.open(base, SETTINGS).score((), chunks, reference=room.store))


def test_a_fake_refuses_as_the_real_one_does(room: Room) -> None:
    """Unknown tensors, types that don't fit, missing weights, missing reference rows, a closed engine."""
    engine, chunks = room.engine(), room.corpus.chunks([0])
    with pytest.raises(TensorChoiceError):
        list(engine.score(tensor_types_of({"blk.9.ffn_up.weight": "Q2_K"}), chunks))
    narrow = write_fake_model(room.source.with_name("narrow.gguf"), width=64)
    with pytest.raises(TypeChoiceError):
        list(FakeBackend().open(narrow, SETTINGS, Sources(narrow)).score((GOOD,), chunks))
    with pytest.raises(EngineError, match="here: no weights"):
        list(FakeBackend().open(room.source, SETTINGS).score((GOOD,), chunks, label="here"))
    with pytest.raises(StudyError):
        list(engine.score((), room.corpus.chunks([20]), reference=room.store))
    engine.close()
    with pytest.raises(EngineError, match="there: the engine is closed"):
        list(engine.score((), chunks, label="there"))


def test_unused_tensors_have_no_effect(room: Room) -> None:
    """What no forward pass reads changes nothing, not even the distance from the reference."""
    engine = FakeBackend(EFFECTS, unused=frozenset({GOOD.tensor})).open(room.source, SETTINGS, Sources(room.source))
    chunks = room.corpus.chunks([0, 1])
    assert engine.unused == {GOOD.tensor}
    assert list(engine.score((GOOD,), chunks, reference=room.store)) == list(
        engine.score((), chunks, reference=room.store)
    )


class DyingBase(FakeEngine):
    """Dies in the base's own pass before the second trial."""

    def sweep(self, trials: Any, chunks: Any, *, reference: Any = None, settings: Any = None) -> Iterator[SweepEvent]:
        yield TrialStarted(1, chunks[2].id, base=True)
        raise EngineDied("died as planted")


def test_who_dies_in_the_bases_pass_is_not_the_trial(room: Room) -> None:
    engine = room.engine()
    engine.__class__ = DyingBase
    with pytest.raises(TrialFailed, match=r"^the base, before trial 'two', chunk 7: died as planted$"):
        room.runner(engine).measure([ONE, TWO], range(5, 9))


# -- engines of which one is slow ---------------------------------------------------------------------------------------


class Slow(FakeEngine):
    """Waits for ``seconds`` before it computes a cell, the base's pass included."""

    seconds = 0.1

    def sweep(self, trials: Any, chunks: Any, *, reference: Any = None, settings: Any = None) -> Iterator[SweepEvent]:
        for event in super().sweep(trials, chunks, reference=reference, settings=settings):
            yield event
            if isinstance(event, TrialStarted):
                time.sleep(self.seconds)


def test_what_a_slow_engine_has_not_begun_the_others_do(room: Room) -> None:
    """Every cell once, the same scores; of two engines the slow one has little of the sixteen trials in the end."""
    slow, quick = room.engine(), room.engine()
    slow.__class__ = Slow
    scores = room.runner(slow, quick).measure([BASE, *MANY], range(3))
    assert scores == straight(room, range(3), BASE, *MANY)
    assert slow.n_scored + quick.n_scored - 51 in range(
        4
    )  # what it had begun when it was taken is computed for nothing
    assert slow.n_scored <= 18  # of the half that it had


def test_what_is_taken_is_the_end_of_the_longest_group_and_leaves_as_much_work() -> None:
    trials = [
        Trial(f"t{b}", TrialKind.SINGLE, tensor_types_of({f"blk.{b}.ffn_up.weight": "Q2_K"})) for b in range(9, -1, -1)
    ]
    long, short = Running(Group((0, 1, 2), tuple(trials)), at=1), Running(Group((0, 1, 2), tuple(trials[:4])), at=0)
    long.gone |= {("t9", chunk) for chunk in range(3)} | {("t8", 0)}
    taken = split([short, long], 10, {"t7"})
    assert taken is not None and taken.chunks == (0, 1, 2)
    names = [trial.label for trial in taken.trials]
    assert names == [f"t{b}" for b in range(len(names) - 1, -1, -1)] and 2 <= len(names) <= 4
    assert [t.label for t in long.behind(set())] == [f"t{b}" for b in range(7, len(names) - 1, -1)]
    assert (
        split([Running(Group((0,), tuple(trials[:2])), at=0)], 10, set()) is None
    )  # one trial is left: it is quicker there
    assert split([], 10, set()) is None


def test_shares_of_late_and_early_blocks_take_equally_long() -> None:
    """In a slow and obvious reckoning, the base's pass included; no cut into as many stretches has a cheaper costliest one."""
    trials = [
        Trial(f"t{i}", TrialKind.SINGLE, tensor_types_of({f"blk.{i // 2}.ffn_up.weight": "Q2_K"})) for i in range(24)
    ]
    groups = grouped([(trial, (0, 1, 2)) for trial in trials], 3)

    def cost(own: Any) -> float:
        blocks = [int(trial.label[1:]) // 2 for trial in own]
        return 3 * max(blocks) / 12 + sum(max(0.7, 3 * (1 - block / 12)) for block in blocks)

    ordered = [trial for group in groups for trial in group.trials]
    cuts = [(ordered[:i], ordered[i:j], ordered[j:]) for j in range(2, 24) for i in range(1, j)]
    assert len(groups) == 3 and max(cost(g.trials) for g in groups) == pytest.approx(
        min(max(map(cost, cut)) for cut in cuts)
    )


# -- engines that die --------------------------------------------------------------------------------------------------


class DiesSometimes(FakeEngine):
    """Dies at the scores of these numbers, counted over its life; ``stays_dead``: can't be opened any more."""

    dies_at: frozenset[int] = frozenset()
    stays_dead = False
    n_events = 0

    def sweep(self, trials: Any, chunks: Any, *, reference: Any = None, settings: Any = None) -> Iterator[SweepEvent]:
        for event in super().sweep(trials, chunks, reference=reference, settings=settings):
            if isinstance(event, TrialStarted):
                self.n_events += 1
                yield event
                if self.n_events in self.dies_at:
                    self.die()
                    raise EngineDied("the engine died by itself")
            else:
                yield event

    def reopen(self) -> None:
        if self.stays_dead:
            raise EngineError("the device is gone")
        super().reopen()


def mortal(room: Room, *dies_at: int, stays_dead: bool = False) -> FakeEngine:
    engine = room.engine()
    engine.__class__ = DiesSometimes
    engine.dies_at, engine.stays_dead = frozenset(dies_at), stays_dead  # type: ignore[attr-defined]
    return engine


MANY = [Trial(f"t{i}", TrialKind.SINGLE, (TensorType(f"blk.{i % 4}.{role}.weight", "Q2_K"),))
        for i, role in enumerate(["attn_q"] * 4 + ["ffn_up"] * 4 + ["ffn_gate"] * 4 + ["ffn_down"] * 4)]  # fmt: skip


@pytest.mark.parametrize("n_engines", [1, 2])
def test_a_trial_that_an_engine_died_of_once_is_measured_after_all(room: Room, n_engines: int) -> None:
    """What else than the trial may have killed it: no failure where a second try succeeds."""
    engines = [mortal(room, 5, 9), *(room.engine() for _ in range(n_engines - 1))]
    scores = room.runner(*engines).measure([BASE, *MANY], range(3))
    assert scores == straight(room, range(3), BASE, *MANY) and room.study.failures() == []


def test_an_engine_that_cant_be_opened_any_more_leaves_its_work_to_the_others(room: Room) -> None:
    engines = [mortal(room, 4, stays_dead=True), room.engine(), room.engine()]
    scores = room.runner(*engines).measure([BASE, *MANY], range(3))
    assert scores == straight(room, range(3), BASE, *MANY) and room.study.failures() == []


def test_an_engine_that_dies_of_everything_takes_no_trial_with_it(room: Room) -> None:
    """A sick device: its trials are whole, measured by the others."""
    engines = [mortal(room, *range(1, 1000)), room.engine()]
    scores = room.runner(*engines).measure([BASE, *MANY], range(3))
    assert scores == straight(room, range(3), BASE, *MANY) and room.study.failures() == []


def test_when_the_last_engine_is_gone_the_run_ends_and_says_why(room: Room) -> None:
    engines = [mortal(room, 4, stays_dead=True), mortal(room, 6, stays_dead=True)]
    with pytest.raises(EngineError, match="the device is gone"):
        room.runner(*engines).measure([BASE, *MANY], range(3))


@pytest.mark.parametrize("n_engines", [1, 2, 3])
def test_a_trial_that_every_engine_dies_of_is_the_only_one_that_fails(room: Room, n_engines: int) -> None:
    fatal = MANY[5].tensor_types[0]
    engines = [room.engine(Fault(fatal, dies=True)) for _ in range(n_engines)]
    scores = room.runner(*engines).measure([BASE, *MANY], range(3))
    assert scores == straight(room, range(3), BASE, *(t for t in MANY if t is not MANY[5]))
    assert [label for label, _, _ in room.study.failures()] == ["t5"]


@pytest.mark.parametrize(
    ("n_trials", "n_chunks", "n_engines"), [(500, 2, 8), (3, 40, 4), (1, 1, 4), (40, 4, 2), (5, 3, 64), (0, 3, 2)]
)
def test_groups_hold_every_cell_once_and_keep_engines_busy(n_trials: int, n_chunks: int, n_engines: int) -> None:
    trials = [Trial(f"t{i}", TrialKind.SINGLE) for i in range(n_trials)]
    groups = grouped([(trial, range(n_chunks)) for trial in trials], n_engines)
    cells = [(trial.label, chunk) for group in groups for trial in group.trials for chunk in group.chunks]
    assert sorted(cells) == sorted((t.label, c) for t in trials for c in range(n_chunks))
    assert len(groups) >= min(n_engines, n_trials * n_chunks)
    if n_trials == 500:
        assert all(len(group.chunks) == n_chunks for group in groups)  # each tensor is quantized once
