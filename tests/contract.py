"""What every engine promises (`cerebellum.llamacpp.protocol`), as tests that the fake and the real one both run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cerebellum.domain import Chunk, ChunkScore, Corpus, TensorTypes, Trial, TrialKind, tensor_types_of
from cerebellum.errors import CerebellumError, EngineDied, EngineError, TensorChoiceError
from cerebellum.llamacpp.protocol import ChunkScored, Engine, TrialStarted
from cerebellum.scoring.reference import ReferenceStore

ONE = tensor_types_of({"blk.1.ffn_gate.weight": "Q2_K"})
TWO = tensor_types_of({"blk.2.ffn_down.weight": "Q2_K"})
TRIALS = (Trial("base", TrialKind.BASE), Trial("one", TrialKind.SINGLE, ONE), Trial("two", TrialKind.SINGLE, TWO))


@dataclass
class Opened:
    """An open engine and a text for it."""

    engine: Engine
    text: str
    n_ctx: int

    def corpus(self) -> Corpus:
        return self.engine.corpus("text", self.text, self.n_ctx)

    def chunks(self, n: int) -> list[Chunk]:
        return self.corpus().chunks(range(n))


class EngineContract:
    """Subclasses give the fixture ``opened`` and `kill`."""

    def kill(self, opened: Opened) -> None:
        """End the process that the engine lives in, from outside."""
        raise NotImplementedError

    def scores(self, opened: Opened, tensor_types: TensorTypes, chunks: list[Chunk]) -> list[ChunkScore]:
        return list(opened.engine.score(tensor_types, chunks))

    # -- scores --------------------------------------------------------------------------------------------------------

    def test_no_call_remembers_the_one_before(self, opened: Opened) -> None:
        chunks = opened.chunks(2)
        first = self.scores(opened, (), chunks)
        assert self.scores(opened, ONE, chunks) != first
        assert self.scores(opened, (), chunks) == first

    def test_a_sweep_gives_the_sums_of_single_scores(self, opened: Opened, tmp_path: Path) -> None:
        """Each `ChunkScored` after its `TrialStarted`, and the sums of `score` with the same reference."""
        chunks, store = opened.chunks(3), ReferenceStore(tmp_path / "reference", None)
        assert sorted(opened.engine.capture(chunks, store)) == [0, 1, 2]
        started: list[tuple[int, int]] = []
        found: dict[int, dict[int, ChunkScore]] = {n: {} for n in range(len(TRIALS))}
        for event in opened.engine.sweep(TRIALS, chunks, reference=store):
            if isinstance(event, TrialStarted):
                started.append((event.trial, event.chunk))
            elif isinstance(event, ChunkScored):
                assert (event.trial, event.score.chunk) in started
                found[event.trial][event.score.chunk] = event.score
        for number, trial in enumerate(TRIALS):
            alone = opened.engine.score(trial.tensor_types, chunks, reference=store)
            assert found[number] == {score.chunk: score for score in alone}

    def test_the_reference_is_no_distance_from_itself(self, opened: Opened, tmp_path: Path) -> None:
        chunks, store = opened.chunks(2), ReferenceStore(tmp_path / "reference", None)
        list(opened.engine.capture(chunks, store))
        for score in opened.engine.score((), chunks, reference=store):
            assert score.kld == pytest.approx(0.0, abs=1e-6) and score.same_top == score.n_tokens

    def test_equal_chunks_are_equal(self, opened: Opened) -> None:
        assert opened.chunks(2) == opened.chunks(2) and opened.chunks(2)[0] != opened.chunks(2)[1]

    def test_a_tensor_that_is_not_there_is_named(self, opened: Opened) -> None:
        with pytest.raises(TensorChoiceError, match=r"no tensor blk\.99"):
            self.scores(opened, tensor_types_of({"blk.99.ffn_gate.weight": "Q2_K"}), opened.chunks(1))
        assert self.scores(opened, (), opened.chunks(1))

    # -- streams -------------------------------------------------------------------------------------------------------

    def test_two_streams_of_one_engine_never_mix(self, opened: Opened) -> None:
        """Taken in turn, the second is refused, and the first goes on with scores of its own."""
        engine, chunks = opened.engine, opened.chunks(3)
        mine, other = self.scores(opened, (), chunks), self.scores(opened, ONE, chunks)
        first, second = engine.score((), chunks, label="first"), engine.score(ONE, chunks, label="second")
        assert next(first) == mine[0]
        with pytest.raises(EngineError, match=r"second: .*still answering 'first'"):
            next(second)
        assert list(first) == mine[1:]
        assert self.scores(opened, ONE, chunks) == other

    def test_no_call_while_a_stream_is_open(self, opened: Opened, tmp_path: Path) -> None:
        """None of them, and each works when the stream has been read."""
        engine, chunks = opened.engine, opened.chunks(3)
        calls: tuple[Callable[[], object], ...] = (
            lambda: engine.corpus("text", opened.text, opened.n_ctx),
            lambda: list(engine.score((), chunks)),
            lambda: list(engine.sweep(TRIALS, chunks)),
            lambda: list(engine.capture(chunks, ReferenceStore(tmp_path / "reference", None))),
        )
        stream = engine.sweep(TRIALS, chunks)
        next(stream)
        for call in calls:
            with pytest.raises(EngineError, match="still answering"):
                call()
        assert sum(isinstance(event, ChunkScored) for event in stream) == 9
        assert all(call() for call in calls)

    @pytest.mark.parametrize("how", ["closed", "dropped"])
    @pytest.mark.parametrize("kind", ["score", "sweep"])
    def test_a_stream_ended_early_leaves_the_engine_as_it_was(self, opened: Opened, how: str, kind: str) -> None:
        """The weights are the base's again, and nothing of the old stream is taken for the new one's."""
        engine, chunks = opened.engine, opened.chunks(3)
        mine = self.scores(opened, (), chunks)
        for n_read in (0, 1, 2):
            stream: Any = engine.score(ONE, chunks) if kind == "score" else engine.sweep(TRIALS[1:], chunks)
            for _ in range(n_read):
                next(stream)
            if how == "closed":
                stream.close()
            del stream
            assert self.scores(opened, (), chunks) == mine

    # -- ends ----------------------------------------------------------------------------------------------------------

    def test_a_closed_engine_says_so(self, opened: Opened, tmp_path: Path) -> None:
        """To every call, and closing it again is nothing."""
        engine, chunks = opened.engine, opened.chunks(2)
        engine.close()
        engine.close()
        calls: dict[str, Callable[[], object]] = {
            "corpus": lambda: engine.corpus("text", opened.text, opened.n_ctx),
            "score": lambda: list(engine.score((), chunks, label="late")),
            "sweep": lambda: list(engine.sweep(TRIALS, chunks)),
            "capture": lambda: list(engine.capture(chunks, ReferenceStore(tmp_path / "reference", None))),
            "unused": lambda: engine.unused,
            "reopen": engine.reopen,
        }
        for name, call in calls.items():
            with pytest.raises(EngineError, match="the engine is closed"):
                call()
                pytest.fail(name)

    def test_a_dead_engine_says_so_until_it_is_reopened(self, opened: Opened) -> None:
        chunks = opened.chunks(2)
        mine = self.scores(opened, ONE, chunks)
        self.kill(opened)
        for _ in range(2):
            with pytest.raises(EngineDied, match=r"^late: "):
                list(opened.engine.score(ONE, chunks, label="late"))
        opened.engine.reopen()
        assert self.scores(opened, ONE, chunks) == mine
        opened.engine.reopen()  # it lives: nothing happens
        assert self.scores(opened, ONE, chunks) == mine

    def test_every_failure_is_ours(self, opened: Opened) -> None:
        with pytest.raises(CerebellumError):
            opened.engine.corpus("short", "two words", opened.n_ctx)
        assert opened.chunks(1)
