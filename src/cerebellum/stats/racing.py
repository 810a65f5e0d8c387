"""Racing: which trials get which next chunks, so that tokens go where a decision is still open. Policy only, no engine.

A race runs in rounds. Round r measures every open trial up to look r of the schedule. A trial leaves when it is settled: its verdict is
clear (goal VERDICT), or no cost within its interval lets it be chosen (goal CHOICE).

The state is computed from the measurements, round by round, with each trial cut to the chunks of its round. So it doesn't depend on worker
count, order of arrival or surplus chunks, and resuming is another call of `race_state`.

Intervals and p-values are valid at any stopping time (`cerebellum.stats.sequential`). Sequential p-values never rise, so a trial that
Benjamini-Hochberg has rejected stays rejected while others go on.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cerebellum.stats.fdr import adjusted_p
from cerebellum.stats.intervals import ChunkSums, Floats, Interval, mean_interval, ratio_values
from cerebellum.stats.sequential import (
    Schedule,
    Spending,
    front_spending,
    look_p,
    planned_looks,
    repeated_interval,
    running_interval,
)
from cerebellum.stats.verdicts import Judgement, Verdict, judge

EXIT_SHARE = 0.2
"""Share of alpha at which CHOICE lets a trial go.

Only trials that cost too much leave early (a non-binding stop for futility). So a trial on the full text is judged at the whole alpha.
An interval of either kind misses the truth with probability alpha + `EXIT_SHARE` · alpha / 2 at most.
"""


class Goal(enum.StrEnum):
    """What a race must settle: each trial's verdict, or its place in a choice (see `RaceRules.limits`)."""

    VERDICT = "verdict"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class RaceRules:
    """The plan, fixed before the first measurement.

    ``order``: chunk ids in measuring order (`chunk_order`). ``schedule``: looks over it. ``alpha``: error level of each
    trial's intervals. ``rate``: false-discovery rate over the trials. ``noise_floor`` and ``margin``: nats per token,
    as in `cerebellum.stats.verdicts.judge`.

    For CHOICE, which ends in `cerebellum.allocation.policies.choose_greedy`:

    * ``limits``: trial → the largest difference, nats a token, with which it could be chosen (infinite where absent). A trial whose
      interval lies above its limit is out. A trial that improves is in. All others go on to the full text.
    * ``savings``: trial → bytes that it saves. ``groups``: trial → its tensor; only one trial of a group can be chosen.
    """

    order: tuple[int, ...]
    schedule: Schedule
    alpha: float = 0.05
    rate: float = 0.05
    noise_floor: float = 0.0
    margin: float = 0.0
    goal: Goal = Goal.VERDICT
    limits: Mapping[str, float] = field(default_factory=dict)
    savings: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.order)) != len(self.order) or self.schedule.looks[-1] > len(self.order):
            raise ValueError(
                f"{self.schedule.looks[-1]} different chunks are needed, {len(set(self.order))} were given"
            )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one trial stands. ``interval`` (running, level 1 - alpha) is None before its first look; ``look`` is -1
    then.

    ``settled`` says why it needs no more chunks: "verdict", "in", "out", "full text", or "" while it is open.
    """

    trial: str
    look: int
    n_chunks: int
    interval: Interval | None
    p_value: float
    adjusted_p: float
    judgement: Judgement | None
    settled: str

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict if self.judgement else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Assignment:
    """Chunks (ids, in measuring order) that ``trial`` lacks to reach the round's look."""

    trial: str
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RaceState:
    """All standings by trial name, the round in progress (None when over), and what it still lacks, most uncertain
    first.
    """

    standings: tuple[Standing, ...]
    round: int | None
    lacking: tuple[Assignment, ...]
    n_measured: int

    @property
    def done(self) -> bool:
        return self.round is None


@dataclass(frozen=True, slots=True)
class RaceStep:
    """What to measure next, most uncertain first. Empty when the race is over or, with ``exhausted``, the budget is
    spent.
    """

    assignments: tuple[Assignment, ...]
    exhausted: bool

    @property
    def n_chunks(self) -> int:
        return sum(len(a.chunks) for a in self.assignments)


def chunk_order(chunk_ids: Sequence[int], seed: int) -> tuple[int, ...]:
    """A seeded random order of the chunk ids, the same whatever order they are given in."""
    ids = np.array(sorted(set(chunk_ids)), dtype=np.int64)
    return tuple(int(i) for i in np.random.default_rng(seed).permutation(ids))


def plan_race(
    chunk_ids: Sequence[int], seed: int, *, first: int = 6, growth: float = 1.6, spending: Spending = front_spending
) -> tuple[tuple[int, ...], Schedule]:
    """(order, schedule) for `RaceRules` over all of ``chunk_ids``."""
    order = chunk_order(chunk_ids, seed)
    return order, Schedule(planned_looks(len(order), first, growth), spending)


def for_choice(rules: RaceRules, saved: Mapping[str, int], tensors: Mapping[str, str], allowed: float) -> RaceRules:
    """``rules`` for a race that ends in a greedy choice: trial → bytes saved (negative: it grows) and tensor; nats a token allowed.

    A smaller type may cost all that is allowed, a larger one nothing.
    """
    limits = {trial: allowed if n > 0 else 0.0 for trial, n in saved.items()}
    savings = {trial: float(n) for trial, n in saved.items() if n > 0}
    return replace(rules, goal=Goal.CHOICE, limits=limits, savings=savings, groups=tensors)


def next_step(state: RaceState, budget_chunks: int | None = None) -> RaceStep:
    """The next assignments, cut where the next one would take all that was ever measured past ``budget_chunks``.

    A budget in tokens is divided by the tokens a chunk decodes; one in minutes by a measured rate that is then kept,
    since a clock read along the way would make the choice depend on the machine's load.
    """
    if budget_chunks is None:
        return RaceStep(state.lacking, exhausted=False)
    left = budget_chunks - state.n_measured
    chosen: list[Assignment] = []
    for assignment in state.lacking:
        left -= len(assignment.chunks)
        if left < 0:
            return RaceStep(tuple(chosen), exhausted=not chosen)
        chosen.append(assignment)
    return RaceStep(tuple(chosen), exhausted=False)


def race_state(rules: RaceRules, trials: Sequence[str], measured: Mapping[str, ChunkSums]) -> RaceState:
    """Replay the race over ``measured``: trial → chunk id → (sum of nats trial - base, scored tokens).

    ``trials`` names all of the sweep, measured or not (they count for false-discovery control). Raises ValueError when
    a name is given twice or a measured trial isn't named.
    """
    if len(set(trials)) != len(trials) or not set(measured) <= set(trials):
        raise ValueError("the trials of a race must be named once each, and include all that were measured")
    replay = _Replay(rules, sorted(trials), measured)
    for number in range(len(rules.schedule.looks)):
        lacking = replay.lacking(number)
        waiting = {a.trial for a in lacking}
        for trial in replay.open:
            if trial not in waiting:
                replay.take_look(trial, number)
        if lacking:
            return replay.state(number, lacking)
        replay.settle(number)
        if not replay.open:
            break
    return replay.state(None, ())


class _Replay:
    """The race so far, mutable while it is replayed."""

    def __init__(self, rules: RaceRules, trials: list[str], measured: Mapping[str, ChunkSums]) -> None:
        self.rules, self.trials, self.measured = rules, trials, measured
        self.open = list(trials)
        self.settled = dict.fromkeys(trials, "")
        self.look = dict.fromkeys(trials, -1)
        self.intervals: dict[str, list[Interval]] = {t: [] for t in trials}
        self.exits: dict[str, list[Interval]] = {t: [] for t in trials}
        self.p = dict.fromkeys(trials, 1.0)
        self.urgency: dict[str, float] = dict.fromkeys(trials, 0.0)

    def values(self, trial: str, look: int) -> Floats:
        """Per-chunk differences [looks[look]] of a trial, nats per token."""
        rows = [self.measured[trial][c] for c in self.rules.order[: self.rules.schedule.looks[look]]]
        sums, counts = np.array(rows, dtype=np.float64).T
        return ratio_values(sums, counts)

    def lacking(self, look: int) -> tuple[Assignment, ...]:
        wanted = self.rules.order[: self.rules.schedule.looks[look]]
        by_urgency = sorted(self.open, key=lambda t: (self.urgency[t], t))
        missing = [(t, tuple(c for c in wanted if c not in self.measured.get(t, {}))) for t in by_urgency]
        return tuple(Assignment(t, chunks) for t, chunks in missing if chunks)

    def take_look(self, trial: str, look: int) -> None:
        x, schedule = self.values(trial, look), self.rules.schedule
        self.look[trial] = look
        if self.rules.goal is Goal.CHOICE:
            self.exits[trial].append(repeated_interval(x, look, schedule, EXIT_SHARE * self.rules.alpha))
            if look == len(schedule.looks) - 1:
                self.intervals[trial] = [mean_interval(x, 1.0 - self.rules.alpha)]
                self.p[trial] = look_p(x, 0, Schedule((len(x),)))
                return
        self.intervals[trial].append(repeated_interval(x, look, schedule, self.rules.alpha))
        self.p[trial] = min(self.p[trial], look_p(x, look, schedule))

    def judge_all(self) -> dict[str, tuple[float, Judgement | None]]:
        adjusted = adjusted_p([self.p[t] for t in self.trials])
        out: dict[str, tuple[float, Judgement | None]] = {}
        for trial, p in zip(self.trials, adjusted, strict=True):
            word = None
            if self.intervals[trial]:
                floor, margin = self.rules.noise_floor, self.rules.margin
                running = running_interval(self.intervals[trial])
                word = judge(running, noise_floor=floor, margin=margin, significant=bool(p <= self.rules.rate))
            out[trial] = (float(p), word)
        return out

    def settle(self, look: int) -> None:
        """Close what this round decided, then rank the rest: fewest standard errors from its decision line first."""
        if self.rules.goal is Goal.VERDICT:
            for trial, (_, word) in self.judge_all().items():
                if trial in self.open and word is not None and word.verdict is not Verdict.UNDECIDED:
                    self.settled[trial] = "verdict"
            self.urgency = {t: _distance(self.intervals[t][-1], 0.0) for t in self.open}
        else:
            limits = {t: self.rules.limits.get(t, math.inf) for t in self.open}
            judged = self.judge_all()
            for trial in self._too_costly(limits):
                self.settled[trial] = "out"
            for trial in self.open:
                word = judged[trial][1]
                if not self.settled[trial] and word and word.verdict is Verdict.IMPROVES:
                    self.settled[trial] = "in"
            self.urgency = {t: _distance(self.intervals[t][-1], limits[t]) for t in self.open}
        last = look == len(self.rules.schedule.looks) - 1
        for trial in self.open:
            if last and not self.settled[trial]:
                self.settled[trial] = "full text"
        self.open = [t for t in self.open if not self.settled[t]]

    def _too_costly(self, limits: Mapping[str, float]) -> list[str]:
        """Open trials that `allocate.policies.choose_greedy` can't choose, whatever the costs in their intervals are.

        Let trial i cost c_i in [low_i, high_i] and save b_i bytes; G(i) is its group (its tensor), limit_i its largest cost. Let

            before(j, i)  =  high_j ≤ low_i  and  high_j · b_g < low_g · b_j for all g in G(i)
            least(H)      =  max(0, min over t in H of low_t)
            B(i)          =  {H ≠ G(i) : before(j, i) for some j in H}

        Trial i is out if low_i + Σ over H in B(i) of least(H) > limit_i.

        Proof. Greedy takes, of the moves that fit, the one that saves most per unit of cost. Let before(j, i) with j in H. When greedy
        first gives G(i) a type, H has a type already, or j doesn't fit. In the second case c_i ≥ c_j, so i doesn't fit now or later. In
        the first case H has cost at least least(H), and costs that are spent never shrink.
        """
        seen = {t: running_interval(taken) for t, taken in self.exits.items() if taken and self.settled[t] != "out"}
        saved, group = self.rules.savings, self.rules.groups
        members: dict[str, list[str]] = {}
        for trial in seen:
            members.setdefault(group.get(trial, trial), []).append(trial)
        least = {key: max(min(seen[t].low for t in trials), 0.0) for key, trials in members.items()}
        out = []
        for trial in self.open:
            mine = group.get(trial, trial)
            rivals = [t for t in members[mine] if t in saved]
            before = {
                key
                for key, trials in members.items()
                if key != mine and trial in saved and any(self._is_before(seen, t, trial, rivals) for t in trials)
            }
            if seen[trial].low + math.fsum(least[key] for key in before) > limits[trial]:
                out.append(trial)
        return out

    def _is_before(self, seen: Mapping[str, Interval], other: str, trial: str, rivals: Sequence[str]) -> bool:
        """before(other, trial) of `_too_costly`; ``rivals`` are the trials of the trial's group."""
        saved, x = self.rules.savings, seen[other]
        if other not in saved or x.high > seen[trial].low:
            return False
        return all(x.high * saved[rival] < seen[rival].low * saved[other] for rival in rivals)

    def state(self, number: int | None, lacking: tuple[Assignment, ...]) -> RaceState:
        judged = self.judge_all()
        standings = tuple(self._standing(t, *judged[t]) for t in self.trials)
        return RaceState(standings, number, lacking, sum(self._taken(t, number) for t in self.trials))

    def _taken(self, trial: str, number: int | None) -> int:
        """Chunks measured for the race itself: those of the look reached or under way, whatever else is known of the trial."""
        reached = self.look[trial]
        look = reached if number is None or trial not in self.open else max(reached, number)
        wanted = self.rules.order[: self.rules.schedule.looks[look]] if look >= 0 else ()
        return sum(chunk in self.measured.get(trial, {}) for chunk in wanted)

    def _standing(self, trial: str, adjusted: float, word: Judgement | None) -> Standing:
        taken = self.intervals[trial]
        running = running_interval(taken) if taken else None
        n = taken[-1].n_chunks if taken else 0
        return Standing(trial, self.look[trial], n, running, self.p[trial], adjusted, word, self.settled[trial])


def _distance(interval: Interval, line: float) -> float:
    return abs(interval.estimate - line) / (interval.std_error + 1e-300)
