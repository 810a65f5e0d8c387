"""Five lines for everyone on what a sweep's choice came to; fewer where no file was written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cerebellum.domain import TrialKind
from cerebellum.quoting import shell_file
from cerebellum.report.allocation_lines import as_good_as, percent_of
from cerebellum.report.allocation_tables import megabytes
from cerebellum.stats.verdicts import MILLI, Verdict

if TYPE_CHECKING:
    from cerebellum.results import RunResult, Written
    from cerebellum.results.stock import BesideStock
    from cerebellum.scoring.summary import Contrast
    from cerebellum.stats.intervals import Interval


def chosen_lines(result: RunResult) -> list[str]:
    """Size, KL divergence as a share of the base's, the stock file as good, the verdict, the next step."""
    if result.written is None or result.beside is None:
        return unwritten_lines(result)
    return [
        chosen_size(result.written),
        chosen_ratio(result, result.beside),
        chosen_equal(result, result.beside),
        chosen_verdict(result),
        chosen_next(result),
    ]


def unwritten_lines(result: RunResult) -> list[str]:
    """That there is no file, why, and what to do."""
    reason = result.facts.get("unwritten") or f"{result.choice.policy} chose nothing ({result.choice.reason})"
    return [
        f"No file was written: {reason}.",
        "Next: the best file of a size, from all tensors and types: cerebellum run MODEL --like TYPE --text FILE --out ANOTHER; or more "
        "here: other roles (--role all), types (--to), a larger --allow or --max-growth.",
    ]


def chosen_size(written: Written) -> str:
    """How large the file is, beside its base."""
    more = 100.0 * (written.file_bytes / written.base_bytes - 1.0)
    beside = "the same size" if abs(more) < 0.05 else f"{more:+.1f} %"
    return f"Size: {megabytes(written.file_bytes)}; the base, {written.ftype}, has {megabytes(written.base_bytes)} ({beside})."


def chosen_ratio(result: RunResult, beside: BesideStock) -> str:
    """KL divergence as a share of the base's; as it is where the base has none."""
    if math.isfinite(beside.ratio.estimate):
        return f"KL divergence: {percent_of(beside.ratio, 'the base')} on text that had no part in the choice."
    divergence = result.written.summary.divergence if result.written else None
    figure = f"{divergence.mean.estimate * MILLI:.3f} thousandths of a nat a token" if divergence else "not known"
    return f"KL divergence: {figure} on text that had no part in the choice; the base is the reference itself."


def chosen_equal(result: RunResult, beside: BesideStock) -> str:
    """The stock file that is as good."""
    assert result.written is not None
    divergence = result.written.summary.divergence
    return as_good_as(
        beside.equivalent, beside.ladder, divergence.mean if divergence else None, result.written.file_bytes
    )


def chosen_verdict(result: RunResult) -> str:
    """The word for the file against its base, and what the random sets say."""
    assert result.written is not None and result.combination is not None
    verdict = result.written.from_base.judgement.verdict
    rows = [row for row in result.combination.report.rows if row.trial.kind is TrialKind.RANDOM and row.from_recipe]
    apart = [_main(row.from_recipe) for row in rows if row.from_recipe is not None]
    worse, surely = sum(x.estimate > 0.0 for x in apart), sum(x.low > 0.0 for x in apart)
    beside = f"; {worse} of {len(rows)} random sets are worse, {surely} of them surely" if rows else ""
    word = {Verdict.IMPROVES: "improves on", Verdict.DAMAGES: "damages, beside"}.get(verdict, f"{verdict}, beside")
    return f"Verdict: {word} the base (95 %){beside}."


def chosen_next(result: RunResult) -> str:
    """What to do now."""
    written = result.written
    assert written is not None
    run = f"llama-cli -m {shell_file(written.path.name)}"
    tasks = "" if result.bench else "; tasks: the same command with --bench TASKS"
    verdict = written.from_base.judgement.verdict
    if verdict is Verdict.UNDECIDED:
        return f"Next: more text (--chunks, another --out) to decide; or {run}{tasks}."
    best = f"cerebellum run {shell_file(result.model)} --size {written.file_bytes} --text FILE --out ANOTHER"
    return f"Next: {run}{tasks}; the best file of these bytes, from all tensors and types: {best}."


def _main(contrast: Contrast) -> Interval:
    return contrast.kld or contrast.ppl
