"""How well the scheduler keeps many workers busy: a sweep, and the looks of an allocation's anchors, on 1 to 64 simulated workers.

The real scheduling code runs (`study.runner.grouped` and `Sweeper`, `study.pool.Waiting`); engines and clock are simulated. The cost model
is planted: a trial of a tensor in block b costs quantizing once a group, and on each chunk the blocks from b on; a group costs, on each
chunk, the base's pass up to its last block. Workers differ in speed, have slow spells, die and take minutes to open the model again, and
some never come back.

    python -m benchmarks.scale                     27B on 1 … 64 cards: hours, efficiency
    python -m benchmarks.scale --model 70B --json scale.json

Efficiency: the work of one worker that never dies ÷ the time that all workers were there, each weighted by its speed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from cerebellum.domain import ChunkScore, TensorType, Trial, TrialKind
from cerebellum.errors import EngineDied, EngineError
from cerebellum.llamacpp.protocol import ChunkScored, SweepEvent, TrialStarted
from cerebellum.study.groups import Group, grouped
from cerebellum.study.pool import Again, Waiting, WorkerLost
from cerebellum.study.runner import FailedTrial, Sweeper, TrialRunner

WORKERS = (1, 2, 4, 8, 16, 32, 64)
#: Job → chunks of its looks, and the share of the trials that get each. All workers wait for each other between looks.
JOBS: dict[str, tuple[tuple[int, float], ...]] = {
    "sweep": ((16, 1.0),),
    "anchors": ((2, 1.0), (4, 0.25), (8, 0.25), (16, 0.25)),
}


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds. ``whole``: a pass over a chunk; ``quantize``: of a tensor, while the trial before is computed; ``open``: the model anew;
    ``between``: the driver's fit between looks. ``speed_spread``: standard deviation of a worker's log speed; ``slow_share`` of trials take
    ``slow_times`` as long. ``hours_to_death``: of a worker, on average; ``lost_share`` of the deaths are for good."""

    n_blocks: int
    n_tensors: int
    whole: float
    quantize: float
    open: float
    between: float = 0.6
    speed_spread: float = 0.05
    slow_share: float = 0.02
    slow_times: float = 4.0
    hours_to_death: float = 24.0
    lost_share: float = 0.1

    @property
    def is_perfect(self) -> bool:
        return self.speed_spread == 0.0

    def perfect(self) -> Costs:
        """Workers that are alike and never slow or dead."""
        return replace(self, speed_spread=0.0, slow_share=0.0, hours_to_death=math.inf)


#: Planted, of the order of what one card does with chunks of 2,048 tokens; docs/how-to/many-machines.md has the arithmetic.
MODELS = {
    "27B": Costs(n_blocks=64, n_tensors=450, whole=1.4, quantize=1.0, open=60.0),
    "70B": Costs(n_blocks=80, n_tensors=560, whole=3.6, quantize=2.5, open=150.0),
}


class SimulatedEngine:
    """The part of an `Engine` that a sweep needs, on a clock of its own; ``now`` in seconds."""

    def __init__(self, costs: Costs, number: int, seed: int) -> None:
        self._costs, self._random = costs, np.random.default_rng([seed, number])
        self.speed = math.exp(self._random.normal(0.0, costs.speed_spread)) if costs.speed_spread else 1.0
        self.now = 0.0
        self._dies_at = self._life()
        self._is_dead = self.is_lost = False

    def _life(self) -> float:
        mean = 3600.0 * self._costs.hours_to_death
        return self.now + (float(self._random.exponential(mean)) if math.isfinite(mean) else math.inf)

    def _spend(self, seconds: float) -> None:
        if self._costs.slow_share and self._random.random() < self._costs.slow_share:
            seconds *= self._costs.slow_times
        self.now += seconds / self.speed
        if self.now >= self._dies_at:
            self._is_dead = True
            raise EngineDied("the simulated worker died")

    def sweep(self, trials: Sequence[Trial], chunks: Sequence[int], **_: Any) -> Iterator[SweepEvent]:
        yield TrialStarted(0, chunks[0], base=True)
        until = max(block_of(trial) for trial in trials) / self._costs.n_blocks
        for _chunk in chunks:
            self._spend(until * self._costs.whole)
        computed = 0.0
        for number, trial in enumerate(trials):
            share = 1.0 - block_of(trial) / self._costs.n_blocks
            yield TrialStarted(number, chunks[0])
            self._spend(max(0.0, self._costs.quantize - computed))
            for chunk in chunks:
                try:
                    yield TrialStarted(number, chunk)
                except GeneratorExit:  # another has it, and this one had begun
                    self.now += share * self._costs.whole / self.speed
                    raise
                self._spend(share * self._costs.whole)
                yield ChunkScored(number, ChunkScore(chunk, 1, 1.0, 1.0))
            computed = share * self._costs.whole * len(chunks)

    def reopen(self) -> None:
        if self._is_dead:
            if self._random.random() < self._costs.lost_share:
                self.is_lost = True
                raise EngineError("the simulated worker is gone")
            self.now += self._costs.open
            self._is_dead, self._dies_at = False, self._life()


def block_of(trial: Trial) -> int:
    """The block that a simulated trial changes."""
    return int(trial.label.split(".")[1]) if "." in trial.label else 0


def trials_of(costs: Costs) -> list[Trial]:
    """A trial a tensor, spread over the blocks."""
    names = [f"blk.{i * costs.n_blocks // costs.n_tensors}.t{i}" for i in range(costs.n_tensors)]
    return [Trial(name, TrialKind.SINGLE, (TensorType(name, "Q2_K"),)) for name in names]


class Look:
    """One call of `TrialRunner.measure_each` in simulated time: the worker whose clock is furthest back is next."""

    def __init__(self, engines: Sequence[SimulatedEngine], groups: Sequence[Group]) -> None:
        corpus = SimpleNamespace(chunks=lambda numbers: numbers)
        runner = SimpleNamespace(engines=engines, corpus=corpus, reference=None, settings=None)
        self._engines, self._sweeper = engines, Sweeper(cast(TrialRunner, runner))
        self._waiting: Waiting[Group] = Waiting(groups, len(engines), self._sweeper.split)
        self._running: dict[int, Iterator[Any]] = {}
        self._idle = list(range(len(engines)))
        self.scored: list[tuple[str, int]] = []
        self.failed: set[str] = set()

    def run(self) -> float:
        """When the last result is there. Raises `EngineError` where no worker is left."""
        end = max(engine.now for engine in self._engines)
        self._give_out(0.0)
        queue = [(self._engines[n].now, n) for n in self._running]
        heapq.heapify(queue)
        while queue:
            _, number = heapq.heappop(queue)
            self._step(number)
            for other in self._give_out(self._engines[number].now):
                heapq.heappush(queue, (self._engines[other].now, other))
            if number in self._running and all(n != number for _, n in queue):
                heapq.heappush(queue, (self._engines[number].now, number))
            end = max(end, self._engines[number].now)
        return end

    def _give_out(self, now: float) -> list[int]:
        """Let the idle take what waits; who began."""
        begun = []
        for number in list(self._idle):
            if (group := self._waiting.try_take(number)) is not None:
                engine = self._engines[number]
                engine.now = max(engine.now, now)
                self._running[number] = self._sweeper.sweep(cast(Any, engine), group)
                self._idle.remove(number)
                begun.append(number)
        return begun

    def _step(self, number: int) -> None:
        try:
            item = next(self._running[number])
        except (StopIteration, WorkerLost) as ended:
            del self._running[number]
            if isinstance(ended, StopIteration):
                self._idle.append(number)
            elif not self._waiting.lost(ended.left):
                raise ended.error from ended
            self._waiting.done()
            return
        if isinstance(item, Again):
            self._waiting.again(item.group, number)
        elif isinstance(item[1], ChunkScore):
            self.scored.append((item[0].label, item[1].chunk))
        elif isinstance(item[1], FailedTrial):
            self.failed.add(item[0].label)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one simulated job: hours; efficiency; workers lost for good; trials that failed though nothing was wrong with them."""

    n_workers: int
    hours: float
    efficiency: float
    n_lost: int
    n_failed: int


def simulate(costs: Costs, job: str, n_workers: int, seed: int = 0) -> tuple[float, float, int, int]:
    """(seconds, sum of speed × seconds that workers were there, workers lost, trials failed) of all looks."""
    engines = [SimulatedEngine(costs, number, seed) for number in range(n_workers)]
    trials, done, end, there, n_failed = trials_of(costs), 0, 0.0, 0.0, 0
    order = np.random.default_rng(seed).permutation(len(trials))
    for n_chunks, share in JOBS[job]:
        chosen = [trials[i] for i in sorted(order[: round(share * len(trials))])]
        alive = [engine for engine in engines if not engine.is_lost]
        for engine in alive:
            engine.now = end
        look = Look(alive, grouped([(trial, range(done, n_chunks)) for trial in chosen], len(alive)))
        begun, end = end, look.run() + costs.between
        missing = {(t.label, c) for t in chosen if t.label not in look.failed for c in range(done, n_chunks)} - set(
            look.scored
        )
        assert not missing and len(look.scored) == len(set(look.scored)), "a cell was lost or measured twice"
        there += sum(engine.speed * ((engine.now if engine.is_lost else end) - begun) for engine in alive)
        done, n_failed = n_chunks, n_failed + len(look.failed)
    return end, there, sum(engine.is_lost for engine in engines), n_failed


def outcomes(costs: Costs, job: str, workers: Sequence[int], n_seeds: int) -> list[Outcome]:
    """The mean job for each number of workers; efficiency against one worker that never dies."""
    alone = replace(costs, speed_spread=0.0, hours_to_death=math.inf)
    work = float(np.mean([simulate(alone, job, 1, seed)[0] for seed in range(n_seeds)]))
    found = []
    for n in workers:
        runs = [simulate(costs, job, n, seed) for seed in range(n_seeds)]
        hours = float(np.mean([seconds for seconds, *_ in runs])) / 3600.0
        efficiency = float(np.mean([work / there for _, there, *_ in runs]))
        found.append(Outcome(n, hours, efficiency, sum(r[2] for r in runs), sum(r[3] for r in runs)))
    return found


def show(real: Sequence[Outcome], ideal: Sequence[Outcome]) -> None:
    """The table of a job."""
    print("workers   hours  efficiency  alike and never dead  lost for good  failed")
    for ours, perfect in zip(real, ideal, strict=True):
        figures = f"{ours.n_workers:7}  {ours.hours:6.2f}  {ours.efficiency:10.3f}  {perfect.efficiency:20.3f}"
        print(f"{figures}  {ours.n_lost:13}  {ours.n_failed:6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="27B")
    parser.add_argument("--seeds", type=int, default=10, help="simulated jobs for each number of workers")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    costs = MODELS[options.model]
    kept: dict[str, Any] = {"costs": asdict(costs)}
    for job, looks in JOBS.items():
        real = outcomes(costs, job, WORKERS, options.seeds)
        ideal = outcomes(costs.perfect(), job, WORKERS, 1)
        kept[job] = {"real": [asdict(o) for o in real], "ideal": [asdict(o) for o in ideal]}
        chunks = ", ".join(str(n) for n, _ in looks)
        print(f"{options.model}, {job}: {costs.n_tensors} tensors, {chunks} chunks; {options.seeds} jobs each")
        show(real, ideal)
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
