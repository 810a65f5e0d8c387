"""Two files on the same items: flips and their test where an item is right or wrong, a paired interval of the mean where it is a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cerebellum.stats.intervals import Interval, paired_interval, smallest_detectable
from cerebellum.stats.paired import Gate, PairedAnswers, compare, judge_gate, paired_share_interval

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """``new`` against ``old`` (roles). ``difference``: new - old, share of the items. ``could_show``: the smallest difference that so many
    items show four times in five. ``flips`` None: the items are graded, not right or wrong."""

    new: str
    old: str
    difference: Interval
    could_show: float
    flips: PairedAnswers | None
    gate: Gate | None


def is_binary(values: Values) -> bool:
    """Whether every item is right or wrong."""
    return all(value in (0.0, 1.0) for value in values.values())


def pair(new: str, old: str, values: Values, before: Values, margin: float | None) -> Pair:
    """Compare; with a ``margin`` judge. Raises ValueError where the items differ."""
    if is_binary(values) and is_binary(before):
        flips = compare({k: v == 1.0 for k, v in values.items()}, {k: v == 1.0 for k, v in before.items()})
        gate = None if margin is None else judge_gate(flips, margin)
        return Pair(new, old, flips.difference, flips.smallest_detectable, flips, gate)
    difference = difference_of(values, before)
    gate = None if margin is None else judge_mean(difference, margin)
    return Pair(new, old, difference, smallest_detectable(difference.std_error, difference.n_chunks), None, gate)


def difference_of(values: Values, before: Values) -> Interval:
    """The mean difference over items. Where no item differs, what so many right-or-wrong items without a flip would show."""
    if values.keys() != before.keys():
        raise ValueError("the files were asked different items")
    if all(values[item] == before[item] for item in values):
        return paired_share_interval(0, 0, len(values))
    new, old = ({n: (of[item], 1) for n, item in enumerate(values)} for of in (values, before))
    return paired_interval(new, old)


def judge_mean(difference: Interval, margin: float) -> Gate:
    """The gate for graded items: by the interval alone, in the words of `cerebellum.stats.paired.judge_gate`."""
    x, limit = difference, f"the margin of {100 * margin:.3g} points"
    points = f"{100 * x.estimate:+.2f} points"
    if x.n_chunks == 1:
        return Gate("too few items to tell", f"{points} on one item, which has no interval: ask more items.")
    points += f" ({100 * x.low:+.2f} to {100 * x.high:+.2f} points, {100 * x.level:.4g} % interval)"
    if x.low > -margin:
        return Gate("pass", f"{points}: a loss as large as {limit} is excluded.")
    if x.high < 0.0:
        return Gate("fail", f"{points}: a loss, and not shown to be smaller than {limit}.")
    return Gate("too few items to tell", f"{points}: a loss as large as {limit} isn't excluded.")
