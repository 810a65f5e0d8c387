"""What is said of an allocation: five lines for everyone, the controls and the proven file in full."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cerebellum.allocation.recipes import WEIGHT_ERROR
from cerebellum.figures import significant
from cerebellum.quoting import shell_file
from cerebellum.report.allocation_tables import (
    in_percent,
    megabytes,
    nats_word,
    own_mean,
    ratio_word,
    share,
    stock_word,
)
from cerebellum.report.grids import perplexity_cell
from cerebellum.report.refinement import refinement_lines
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cerebellum.results.allocation import Allocation
    from cerebellum.results.stock import Equivalent, Rival, StockRung
    from cerebellum.stats.intervals import Interval

#: The fifth line of a model card, whose reader has the file.
CARD_NEXT = "Next: run it as below; which tasks it was not tested on is below too."


def five_lines(result: Allocation) -> list[str]:
    """Size, KL divergence against the stock file's, the stock file as good, the verdict, the next step."""
    return [
        size_line(result),
        ratio_line(result),
        equivalent_line(result),
        verdict_line(result),
        next_line(result),
    ]


def size_line(result: Allocation) -> str:
    """How large the file is, beside the stock file and the limit."""
    written, base = result.written, result.base
    more = 100.0 * (written.file_bytes / base.model.file_bytes - 1.0)
    beside = "the same size" if abs(more) < 0.05 else f"{more:+.1f} %"
    return (
        f"Size: {megabytes(written.file_bytes)} of at most {megabytes(result.limit)}; the stock {base.ftype} file has "
        f"{megabytes(base.model.file_bytes)} ({beside})."
    )


def ratio_line(result: Allocation) -> str:
    """KL divergence as a share of the stock file's, in percent; as it is where the stock file has none."""
    ratio = result.controls.ratio
    if not math.isfinite(ratio.estimate):
        mean = own_mean(result)
        figure = f"{mean.estimate * MILLI:.3f} thousandths of a nat a token" if mean else "not known"
        return (
            f"KL divergence: {figure} on text that had no part in the choice; the stock {result.base.ftype} file is the reference itself, "
            "so there is no share of its."
        )
    return f"KL divergence: {percent_of(ratio, f'the stock {result.base.ftype} file')} on text that had no part in the choice."


def percent_of(ratio: Interval, what: str) -> str:
    """A share of the KL divergence of ``what``, in percent with its interval."""
    low, high = (in_percent(v) for v in (ratio.low, ratio.high))
    return f"{in_percent(ratio.estimate)} % of {what}'s [{low}, {high}]"


def verdict_line(result: Allocation) -> str:
    """What is shown, in one of the words for differences, with what the controls say."""
    controls = result.controls
    if not math.isfinite(controls.ratio.estimate):
        return f"Verdict: none, since the stock {result.base.ftype} file is the reference itself."
    words = {"improves": "improves on", "damages": "damages, beside", "undecided": "undecided against"}
    word, by_share, in_nats = stock_word(result), ratio_word(controls.ratio), nats_word(result)
    why = (
        f": {by_share} by its share of KL divergence, {in_nats} in nats a token"
        if word == "undecided" and by_share != in_nats
        else ""
    )
    shuffled = controls.shuffled
    beside = f"; {shuffled.n_worse} of {len(shuffled.others)} shuffled recipes are worse" if shuffled.others else ""
    phrase = words.get(word, f"{word} from")
    return f"Verdict: {phrase} the stock {result.base.ftype} file (95 %){why}{beside}."


def next_line(result: Allocation) -> str:
    """What to do now."""
    mean = own_mean(result)
    if mean is not None and mean.estimate <= result.noise.floor:
        return "Next: its KL divergence is under the noise floor, so only tasks can judge it: the same command with --bench TASKS."
    if not math.isfinite(result.controls.ratio.estimate):
        return "Next: the same command with --reference and the unquantized model, if you have it."
    if not result.recipe.tensor_types:
        return (
            "Next: the stock mix itself is the best that was found; more text (--chunks) or another size (--size) may have a better one, "
            "each with another --out."
        )
    if stock_word(result) != "improves":
        return "Next: more text (--chunks) may show a difference; another size (--size) may have one; each with another --out."
    asked = "" if result.bench else "; tasks: the same command with --bench TASKS"
    return f"Next: llama-cli -m {shell_file(result.written.path.name)}{asked}; other sizes: cerebellum plan sensitivity.json --size SIZE."


def verdict_lines(result: Allocation) -> list[str]:
    """The five lines, and what the controls say in full."""
    return [
        *five_lines(result),
        *rival_lines(result.controls.rival),
        weight_error_line(result),
        shuffled_line(result),
        *refinement_lines(result),
        *size_lines(result),
        *failed_lines(result),
    ]


def failed_lines(result: Allocation) -> list[str]:
    """Tensors at types, and controls, that could not be measured; the verdict is made from the others."""
    cells = [f"{name} at {kind}" for name, kind in result.anchors.failed]
    lines = [f"Left out, since they can't be measured: {', '.join(cells)}."] if cells else []
    if failed := result.controls.failed:
        named = "; ".join(f"{failure.label} ({failure.reason})" for failure in failed)
        lines.append(f"Controls that can't be measured, so nothing is said of them: {named}.")
    return lines


def warning_lines(result: Allocation) -> list[str]:
    """What makes the figures less useful than they look, and what the importance matrix leaves open."""
    imatrix = result.facts.get("imatrix") or {}
    return [
        *(f"Warning: {warning}" for warning in result.facts["warnings"]),
        *(f"Importance matrix: {line}." for line in imatrix.get("coverage", ())),
    ]


def equivalent_line(result: Allocation) -> str:
    """The stock file that is as good."""
    controls = result.controls
    return as_good_as(controls.equivalent, controls.ladder, own_mean(result), result.written.file_bytes)


def rival_lines(rival: Rival | None) -> list[str]:
    """The best stock file within the bytes, where that isn't the one that is compared with anyway."""
    if rival is None or not math.isfinite(rival.ratio.estimate):
        return []
    return [
        f"Best stock file measured that is no larger than asked: {rival.ftype} ({megabytes(rival.file_bytes)}). The recipe's KL divergence "
        f"is {percent_of(rival.ratio, 'that file')}."
    ]


def as_good_as(equivalent: Equivalent, rungs: Sequence[StockRung], mean: Interval | None, file_bytes: int) -> str:
    """The stock file that is as good as one of ``file_bytes`` and this mean KL divergence."""
    if equivalent.n_bytes is None:
        return beyond_line(rungs, mean)
    low, high = (f"{x / 1e6:,.2f}" if x is not None else "?" for x in (equivalent.low, equivalent.high))
    more = round(100.0 * (equivalent.n_bytes / file_bytes - 1.0))
    beside = f"{abs(more)} % {'larger' if more > 0 else 'smaller'}" if more else "as large as this one"
    return (
        f"As good as: a stock file of {megabytes(equivalent.n_bytes)} [{low}, {high}], which is {beside} "
        "(interpolated between stock files)."
    )


def beyond_line(rungs: Sequence[StockRung], mean: Interval | None) -> str:
    """What is known where the recipe is nearer to the reference than all stock files tried, or farther, or where one that is better than
    larger ones is nearer than the recipe."""
    if not rungs:
        return "As good as: can't be said, since no stock file can be measured."
    best, worst = (f(rungs, key=lambda rung: rung.kld) for f in (min, max))
    nearer = [rung for rung in rungs if mean is not None and rung.kld < mean.estimate]
    if nearer and len(nearer) < len(rungs):
        rung = min(nearer, key=lambda rung: (rung.file_bytes, rung.kld))
        least = f"a stock file of less than {megabytes(rung.file_bytes)}"
        return f"As good as: {least}; {rung.ftype}, which has that, is nearer to the reference."
    rung, word = (worst, "far from") if nearer else (best, "near to")
    return (
        f"As good as: no stock file of those tried is as {word} the reference; {rung.ftype}, the last of them, has "
        f"{megabytes(rung.file_bytes)}."
    )


def weight_error_line(result: Allocation) -> str:
    """What measuring added to weight error alone."""
    ratio = result.controls.from_weight_error
    if any(failure.label == WEIGHT_ERROR for failure in result.controls.failed):
        return "What measuring added to weight error alone can't be said: that choice can't be measured on the report text."
    if not math.isfinite(ratio.estimate):
        return "Weight error alone chooses a file without any KL divergence, so there is no share of its."
    if ratio.std_error == 0.0:
        return "Weight error alone chooses the same: measuring added nothing here."
    return f"KL divergence is {share(ratio)} of what the choice by weight error alone has at these bytes: {ratio_word(ratio)}."


def shuffled_line(result: Allocation) -> str:
    """What the shuffled compositions say."""
    shuffled = result.controls.shuffled
    if not shuffled.others:
        lost = any(failure.label.startswith("shuffled") for failure in result.controls.failed)
        why = (
            "none of them can be measured"
            if lost
            else "none was asked for, or no role has two tensors of different types"
        )
        return f"No shuffled controls: {why}."
    low, high = min(shuffled.others), max(shuffled.others)
    p = (1 + len(shuffled.others) - shuffled.n_worse) / (1 + len(shuffled.others))
    return (
        f"The same types shuffled within their roles: {shuffled.n_worse} of {len(shuffled.others)} are worse than the recipe "
        f"(p = {p:.2g}), at "
        + (
            f"{few(low)} to {few(high)} of the stock file's KL divergence where the recipe has {few(shuffled.recipe)} "
            f"({shuffled.n_chunks} chunks)."
            if shuffled.of_stock
            else f"{low:.2f} to {high:.2f} of the recipe's KL divergence ({shuffled.n_chunks} chunks)."
        )
    )


def few(ratio: float) -> str:
    """A share with two decimals, or with two digits that count where it is small."""
    return f"{ratio:.2f}" if ratio >= 0.095 or ratio <= 0.0 else significant(ratio, 2)


def size_lines(result: Allocation) -> list[str]:
    """Why a file is clearly smaller than it might be."""
    left = result.limit - result.written.file_bytes
    if left <= 0.01 * result.limit:
        return []
    return [
        f"{left:,} of {result.limit:,} bytes are left: no larger type that the tensors can take has less damage, or the next one is "
        "too large."
    ]


def file_lines(result: Allocation) -> list[str]:
    """The proven file."""
    written, tasks = result.written, result.facts.get("unfinished")
    return [
        f"{written.path.name}: {written.file_bytes:,} bytes, sha256 {written.sha256}",
        f"proof: opened again, {written.equal_chunks} of {written.equal_chunks} chunks of the report text give the very sums "
        "that were measured in memory; every tensor has the planned type",
        f"perplexity {perplexity_cell(written.summary)} on the report text, {written.from_base.judgement.reason}",
        f"overrides: {written.overrides_path.name} (lines: {len(written.overrides)}, each hits one tensor)",
        f"reproduce: {written.reproduce}",
        "that gives the same tensors; this file's header has keys more, which say where it comes from (cerebellum verify)",
        *([f"benchmarks not finished: {', '.join(tasks)}; the same command goes on with them"] if tasks else []),
    ]
