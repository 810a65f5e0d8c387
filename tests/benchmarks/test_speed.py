"""The arithmetic, the readers and the clocks of the speed benchmarks, against known answers."""

from __future__ import annotations

import argparse
import json
import math
import sys
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import clocks, growth, trial_cost
from benchmarks.beside_bare import Beside, BesideTimes, Pair, beside
from benchmarks.clocks import Clocked, Clocks
from benchmarks.decisions import Decisions, compare
from benchmarks.growth import Cost
from benchmarks.measuring import grown, measured, parse_fields
from benchmarks.ratios import Sure, median_interval, ratios, slope, slopes, spread
from benchmarks.running import CommandFailedError
from benchmarks.step_times import BASE, SWEEP, HereBackend, StepTimes, sweep_options, timed_sweep
from benchmarks.stock_loop import override_of
from benchmarks.sweep_report import phase_seconds
from cerebellum.gguf.patterns import compiled_pattern
from tests.llamacpp import tiny


@pytest.mark.parametrize("n", [6, 20, 101, 400])
def test_the_interval_of_a_median_covers_it(n: int) -> None:
    """Skewed figures with a known median: in 95 % of the draws, and not in all."""
    rng = np.random.default_rng(n)
    draws = [median_interval(rng.exponential(size=n).tolist()) for _ in range(400)]
    assert all(each.low <= each.estimate <= each.high for each in draws)
    covered = np.mean([each.low <= math.log(2) <= each.high for each in draws])
    assert 0.92 < covered < 0.995


def test_of_few_figures_no_interval_is_known() -> None:
    """Five can all be on one side of the median in one draw of sixteen."""
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0]) == Sure(3.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="no figures"):
        median_interval([])


def test_ratios_pair_neighbouring_runs() -> None:
    """A machine that was slow in one round was slow for both: the ratio of that round is unmoved."""
    found = ratios([10.0, 40.0, 11.0], [5.0, 20.0, 5.0])
    assert (found.median, found.low, found.high, found.n) == (2.0, 2.0, 2.2, 3)
    with pytest.raises(ValueError, match="no figures"):
        spread([])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 1.37])
def test_a_power_law_gives_its_exponent(exponent: float) -> None:
    """Whatever the factor before it."""
    sizes = [2, 4, 8, 32]
    assert slope(sizes, [0.3 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)


def test_exponents_of_rounds_have_a_range() -> None:
    """Costs that double, quadruple and stay: 1, 2 and 0."""
    found = slopes([1, 2], [[1.0, 2.0], [1.0, 4.0], [1.0, 1.0]])
    assert (found.low, found.median, found.high) == pytest.approx((0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="two sizes"):
        slope([3, 3], [1.0, 2.0])


def test_growth_tells_all_three_costs_apart() -> None:
    """Trials with the square of the size, one trial with the size, the whole not at all."""
    rounds = [[Cost(n**2, float(n), 7.0) for n in (3, 6, 12)]] * 2
    found = growth.exponents((3, 6, 12), rounds)
    assert [found[name].median for name in ("trials", "trial", "whole")] == pytest.approx([2.0, 1.0, 0.0])


def test_the_kernel_s_fields_are_read() -> None:
    """With units and without; words that are no numbers are left out."""
    text = "Name:\tcat\nVmRSS:\t    1234 kB\nwrite_bytes: 4096\nState:\n"
    assert parse_fields(text) == {"VmRSS": 1234, "write_bytes": 4096}


def test_files_that_grew_or_came_are_told() -> None:
    """An empty file that is new counts; one of the same size doesn't."""
    assert grown({"a": 1, "b": 2}, {"a": 1, "b": 5, "c": 0}) == {"b": 3, "c": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_command_s_memory_and_children_are_seen(tmp_path: Path) -> None:
    """100 MB held by a child are in the peak of the whole; what it writes comes back as output, its time is counted."""
    hold = "import time; data = bytearray(100 << 20); time.sleep(0.3); print('done')"
    command = [
        sys.executable,
        "-c",
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}], check=True)",
    ]
    found = measured(command)
    assert found.output == "done\n"
    assert found.anonymous > 100 << 20
    assert found.seconds > 0.3
    assert found.cpu_seconds > 0
    with pytest.raises(CommandFailedError, match="ended with 3"):
        measured([sys.executable, "-c", "raise SystemExit(3)"])


def test_an_override_hits_one_tensor_alone() -> None:
    """Names that contain it, and names that a bare dot would match, are spared; our reader of overrides agrees."""
    pattern, _, kind = override_of("output.weight", "Q2_K").partition("=")
    names = ["output.weight", "attn_output.weight", "output_weight", "output.weight2"]
    assert [name for name in names if compiled_pattern(pattern).search(name)] == ["output.weight"]
    assert kind == "q2_k"


def test_seconds_are_read_from_the_progress() -> None:
    """The phases of a race are summed up; others are left out."""
    said = "base: 4 of 4 in 1.5 s\nrace, look 1 of 9, 3 trials open: 12 of 12 in 2.0 s\nrace, look 2 of 9, 1 trials open: 4 of 4 in 0.5 s\n"
    assert phase_seconds(said, "sweep", "race") == 2.5
    with pytest.raises(ValueError, match="no sweep"):
        phase_seconds(said, "sweep")


def test_steps_belong_to_their_phase() -> None:
    """Each step's time is from the step before; the last phase of a name is the one found."""
    times = StepTimes()
    for what, labels in (("base", ["base"]), (SWEEP, ["a", "b", "a"])):
        times.begin(what, len(labels))
        for label in labels:
            times.step(label)
        times.end()
    phase = times.phase(SWEEP)
    assert [label for label, _ in phase.steps] == ["a", "b", "a"]
    assert sum(seconds for _, seconds in phase.steps) <= phase.seconds
    with pytest.raises(KeyError, match="'race'"):
        times.phase("race")


@pytest.mark.parametrize("whole", [True, False])
def test_a_trial_beside_a_bare_pass(whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks of the base and of two trials. Of each step llama.cpp takes 3 seconds and everything else 1, with 8 more in a trial's
    first; two seconds are of no step. Bare passes take 2, 3 and 5 seconds, and the clock of the steps doesn't see them."""
    now = [0.0]
    monkeypatch.setattr("benchmarks.beside_bare.time.perf_counter", lambda: now[0])
    times = BesideTimes()
    times._clocks.now = lambda: now[0]
    times.pairs.append(("of another phase", Pair(99.0, 99.0, 99.0)))

    def passes(seconds: float) -> None:
        now[0] += seconds

    times.begin(SWEEP, 9)
    for label in (BASE, "a", "b"):
        for chunk, bare in enumerate((2.0, 3.0, 5.0)):
            with times.standing() as found:
                times._clocks.call("bare", passes, 7.0)
                found.append(bare)
            times._clocks.call("trial", passes, 3.0)
            passes(1.0 if label == BASE or chunk else 9.0)
            times.step(label)
    passes(2.0)
    times.end()
    beside = times.summed_up(whole)
    assert beside.pairs == {label: [Pair(12.0, 3.0, 2.0), Pair(4.0, 3.0, 3.0), Pair(4.0, 3.0, 5.0)] for label in "ab"}
    assert beside.once == (2.0 if whole else 14.0)
    assert (beside.sums("trial"), beside.sums("bare")) == ([20.0, 20.0], [10.0, 10.0])
    assert (beside.to_bare, beside.later_to_bare) == ((40 + beside.once) / 20, 1.0)
    assert Beside.parsed(json.loads(json.dumps(asdict(beside)))) == beside


def test_figures_of_whole_and_replayed_trials() -> None:
    """Two rounds of two trials each; without replayed sweeps the figures of the others are the same."""
    whole = Beside({"a": [Pair(12.0, 11.0, 10.0)] * 2, "b": [Pair(12.0, 11.0, 10.0)] * 2}, 0.0)
    replay = Beside({"a": [Pair(9.0, 8.0, 10.0)] * 2, "b": [Pair(3.0, 2.0, 10.0)] * 2}, 6.0)
    alone = trial_cost.figures([trial_cost.Round(whole, None, 21.0)] * 2)
    assert [asdict(x)["estimate"] for name, x in alone.items() if "÷" in name] == pytest.approx(
        [1.2, 1.1, 12 / 11, 1.1, 1.2]
    )
    both = trial_cost.figures([trial_cost.Round(whole, replay, 21.0)] * 2)
    assert {name: both[name] for name in alone} == alone
    more = [asdict(x)["median"] for name, x in both.items() if name not in alone]
    assert more == pytest.approx([12.0, 6.0, 30 / 48, 0.5])


@pytest.mark.parametrize("whole", [True, False])
def test_bare_passes_are_made_beside_those_of_a_sweep(whole: bool, tmp_path: Path) -> None:
    """Really: one beside each pass of a trial, before and after in turn, told apart by the clock; what was measured is that of a sweep
    without them. A study that has it all is refused."""
    (text := tmp_path / "text.txt").write_text(tiny.text(400))
    options = argparse.Namespace(
        model=tiny.llama(tmp_path / "model.gguf"), base="Q3_K_M", role="ffn_gate", to="Q2_K", blocks=[0, 2] if whole else None,
        text=text, ctx=64, chunks=3, threads=2, gpu_layers=0, whole=whole,
    )  # fmt: skip
    found = beside(options, tmp_path / "beside")
    assert [len(own) for own in found.pairs.values()] == [3] * (2 if whole else tiny.BLOCKS)
    assert all(0 < pair.decoding < pair.trial and pair.bare > 0 for own in found.pairs.values() for pair in own)
    plain, again = (
        timed_sweep(
            options.model, tmp_path / name, backend=HereBackend(whole), ubatch_size=64, **sweep_options(options)
        ).result.sweep
        for name in ("plain", "beside")
    )
    assert plain == again
    with pytest.raises(ValueError, match="has these trials already"):
        beside(options, tmp_path / "beside")


def test_a_race_s_decisions_are_compared() -> None:
    """Undecided trials aren't counted; opposite words are."""
    whole = Decisions({"a": "damages", "b": "improves", "c": "undecided"}, frozenset({"b", "c"}), 1.0)
    raced = Decisions({"a": "damages", "b": "damages", "c": "damages"}, frozenset({"b", "a"}), 0.2)
    kept = compare(whole, raced)
    assert (kept.clear, kept.same, kept.opposite) == (2, 1, 1)
    assert (kept.chosen, kept.chosen_too, kept.others) == (2, 1, 1)


def test_a_clock_stands_still_while_another_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exclusive times: the outer function's own seconds, and the inner one's; all is as before afterwards."""
    time = [0.0]
    module = types.ModuleType("timed_module")
    monkeypatch.setitem(sys.modules, "timed_module", module)

    def inner() -> None:
        time[0] += 2.0

    def outer() -> None:
        time[0] += 1.0
        module.inner()
        time[0] += 1.0

    module.__dict__.update(inner=inner, outer=outer)
    found = Clocks(lambda: time[0])
    wanted = [Clocked("timed_module", name, name) for name in ("inner", "outer", "missing")]
    with found.on(wanted) as hung:
        module.outer()
    assert [clocked.name for clocked in hung] == ["inner", "outer"]
    assert clocks.by_label(found.seconds, True) == {"inner": 2.0, "outer": 2.0}
    assert module.inner is inner
