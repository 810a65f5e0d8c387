"""Tables as data: a title, what it was measured on, columns, cells. Markdown and the terminal draw the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from cerebellum.allocation.effects import Prediction
from cerebellum.domain import TrialKind
from cerebellum.figures import counted, fixed, significant
from cerebellum.llamacpp.protocol import Settings
from cerebellum.report.noise import noise_line
from cerebellum.scoring.summary import Contrast, Summary
from cerebellum.stats.intervals import Interval, smallest_detectable
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results import Combination, Comparison, Noise, Row, RunResult, Sweep, SweepRow
    from cerebellum.study.runner import FailedTrial


#: Failed trials that a table's notes name; the JSON has all.
FAILED_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Grid:
    """``rows`` of cells under ``columns``; ``notes`` say on what and how sure."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def signed(x: float, digits: int = 2) -> str:
    """A difference with its sign; nothing where it isn't known."""
    return fixed(x, digits, sign=True)


def with_limits(x: Interval, scale: float = 1.0, digits: int = 2, *, sign: bool = True) -> str:
    """``estimate [low, high]``; a question mark stands for a limit that isn't known."""
    estimate, low, high = (fixed(v * scale, digits, sign=sign) for v in (x.estimate, x.low, x.high))
    return f"{estimate} [{low}, {high}]" if x.n_chunks > 1 else f"{estimate} [?]"


def kilobytes(n: int) -> str:
    """A difference of sizes."""
    return f"{n / 1e3:+,.1f} kB" if abs(n) < 10_000_000 else f"{n / 1e6:+,.1f} MB"


def perplexity_cell(summary: Summary) -> str:
    """Perplexity ± llama-perplexity's standard error."""
    return f"{summary.perplexity:.4f} ± {summary.std_error:.4f}"


def measured_on(facts: dict[str, Any], split: str) -> str:
    """On what a split's figures were measured, in one line."""
    where = f"{facts['model']['file']} at {facts['base']['ftype']}; {split} text {chunks_of(facts['splits'][split])}"
    return where + batches_of(facts)


def batches_of(facts: dict[str, Any]) -> str:
    """In what batches, where they aren't the usual ones."""
    size = facts["settings"]["n_ubatch"]
    return "" if size == Settings().n_ubatch else f", decoded {size} tokens at a time"


def unknown_note(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """What a question mark means, where there is one."""
    return ["?: more chunks are needed to tell."] if any("?" in cell for row in rows for cell in row) else []


def rows_of(reference: dict[str, Any]) -> str:
    """How the reference's rows are kept."""
    if (k := reference["k"]) is None:
        return (
            f"all words at {bits} bits"
            if (bits := reference.get("bits", 32)) < 32
            else "complete rows, so KL divergence is exact"
        )
    return f"its {k - k // 2} most likely words a row, and {k // 2} drawn from the others"


def draw_note(summaries: Iterable[Summary]) -> list[str]:
    """What drawing the reference's words adds to the error of KL divergence, where they are drawn."""
    largest = max((s.divergence.draw_error for s in summaries if s.divergence), default=0.0)
    if not largest:
        return []
    return [
        "KLD counts all words, without bias: the less likely ones by a draw, the same for every file. The draw adds a standard error of "
        f"at most {significant(largest * MILLI, 2)} thousandths of a nat to a mean; the brackets hold it."
    ]


def chunks_of(split: dict[str, Any]) -> str:
    """A split's text, its chunks and what of them is scored."""
    first, last = split["chunks"]
    if turns := split["conversations"]:
        lost = (
            f"; of the text's {turns['cut']} are cut there, {turns['dropped']} left out" if any(turns.values()) else ""
        )
        return (
            f"{split['text']}, assistant turns of conversations {first} to {last} "
            f"({split['n_chunks']} of at most {split['ctx']} tokens{lost})"
        )
    return (
        f"{split['text']}, chunks {first} to {last} "
        f"({split['n_chunks']} of {split['ctx']} tokens, the second half of each scored)"
    )


def interval_note(
    contrasts: Sequence[Contrast], summaries: Sequence[Summary], facts: dict[str, Any]
) -> tuple[str, ...]:
    """How sure: the level, the pairing, what drawing the reference's words adds, the smallest effect this much text could have shown."""
    known = [c.kld or c.ppl for c in contrasts]
    known = [x for x in known if math.isfinite(x.std_error) and x.n_chunks > 1]
    notes = [
        "Brackets: 95 % intervals, paired by chunk; changes are from the base. ±: one standard error over tokens (llama-perplexity's)."
    ]
    if any(c.kld for c in contrasts):
        notes.append(
            f"KLD: mean KL divergence to the reference {facts['reference'].get('file', '')}, thousandths of a nat a token."
        )
    notes += draw_note(summaries)
    if known:
        least = median(smallest_detectable(x.std_error, x.n_chunks) for x in known)
        unit = (
            f"{significant(least * MILLI)} thousandths of a nat"
            if contrasts[0].kld
            else f"{significant(100 * math.expm1(least))} % of perplexity"
        )
        notes.append(
            f"Smallest difference that this much text shows four times in five (median over the rows): {unit}."
        )
    return tuple(notes)


# -- sweep -------------------------------------------------------------------------------------------------------------


def sweep_grid(sweep: Sweep, facts: dict[str, Any], noise: Noise) -> Grid:
    """A row per trial, the base first."""
    columns = ["tensor", "type", "size", "PPL", "PPL change, %", "at best T, %", "KLD change", "verdict", "class"]
    base = sweep.base
    base_kld = base.divergence
    own_kld = f"({with_limits(base_kld.mean, MILLI, 3, sign=False)})" if base_kld else ""
    first = ("base", facts["base"]["ftype"], "", perplexity_cell(base), "", "", own_kld, "", "")
    rows = [first, *(_sweep_row(row) for row in sweep.rows)]
    if sweep.race is not None:
        columns.insert(3, "chunks")
        counts = (base.n_chunks, *(row.summary.n_chunks for row in sweep.rows))
        rows = [(*row[:3], str(n), *row[3:]) for row, n in zip(rows, counts, strict=True)]
    notes = (
        measured_on(facts, "search"),
        *interval_note([row.contrast for row in sweep.rows], [base, *(row.summary for row in sweep.rows)], facts),
        "at best T: the change with each file at its own best temperature, which takes out what is only flatter or sharper probabilities.",
        "class: the published case's word for the change of perplexity; (undecided) where its interval reaches another class.",
        noise_line(noise),
        *sweep_notes(sweep),
        *unknown_note(rows),
    )
    return Grid("Sweep: each tensor alone at another type", tuple(columns), tuple(rows), notes)


def short_sweep_grid(sweep: Sweep, facts: dict[str, Any], noise: Noise) -> Grid:
    """The columns that decide, for a terminal: tensor, type, size, change of KL divergence (of perplexity where there is none), verdict."""
    whole = sweep_grid(sweep, facts, noise)
    change = "KLD change" if sweep.base.divergence else "PPL change, %"
    names = ("tensor", "type", "size", change, "verdict")
    places = [whole.columns.index(name) for name in names]
    rows = tuple(tuple(row[i] for i in places) for row in whole.rows)
    lines = [note for note in whole.notes if not note.startswith(("at best T:", "class:"))]
    return Grid(whole.title, names, rows, (*lines, "--wide shows all columns."))


GAIN_NOTE = (
    "Sorted by gain a byte, as estimated: by how much less KL divergence a byte more brings, then by how little a byte less costs. What "
    "changes no byte comes after these, and last what takes more bytes and brings nothing."
)


def sorted_by_gain(sweep: Sweep) -> Sweep:
    """The sweep with its rows by fall of KL divergence (of NLL where there is none) a byte of change, the largest first."""

    def gain(row: SweepRow) -> tuple[int, float]:
        n_bytes, fall = row.effect.delta_bytes, -(row.contrast.kld or row.contrast.ppl).estimate
        if n_bytes == 0 or (n_bytes > 0 and fall <= 0.0):
            return (1 if n_bytes == 0 else 0), fall
        return 2, fall / abs(n_bytes)

    return replace(sweep, rows=tuple(sorted(sweep.rows, key=gain, reverse=True)))


def race_note(sweep: Sweep) -> list[str]:
    """What a race took of the full text."""
    if sweep.race is None:
        return []
    race = sweep.race
    spent = f"{race.n_chunks} of {race.n_chunks_full} chunks ({100 * race.n_chunks / race.n_chunks_full:.0f} %)"
    ending = "; the budget ended it, so some are undecided for want of text" if race.exhausted else ""
    looks = "one look" if race.n_rounds == 1 else f"{race.n_rounds} looks"
    return [
        f"A race: trials took {spent} in {looks}{ending}. Intervals hold under repeated looks. A row's PPL is of the chunks that "
        "it got; its changes are from the base on the same chunks."
    ]


def sweep_notes(sweep: Sweep) -> tuple[str, ...]:
    """False discoveries, the race, and what was left out."""
    notes = race_note(sweep)
    notes += ["Verdicts hold after false-discovery control over the whole sweep (Benjamini-Hochberg, 5 %)."]
    notes += sweep.plan.notes
    notes += failed_notes(sweep.failed)
    notes += [f"Not measured: {s.tensor} as {s.type} {s.reason}." for s in sweep.plan.skipped[:5]]
    if len(sweep.plan.skipped) > 5:
        notes.append(f"… and {len(sweep.plan.skipped) - 5} more; the JSON lists them.")
    return tuple(notes)


def failed_notes(failed: Sequence[FailedTrial]) -> list[str]:
    """What could not be measured, and why."""
    notes = [f"Failed, so left out: {failure.label}. {failure.reason}." for failure in failed[:FAILED_SHOWN]]
    if len(failed) > FAILED_SHOWN:
        notes.append(f"… and {len(failed) - FAILED_SHOWN} more failed; the JSON lists them.")
    return notes + (["--retry-failed tries what failed again."] if failed else [])


def _sweep_row(row: SweepRow) -> tuple[str, ...]:
    effect, difference = row.effect, row.contrast
    return (
        effect.tensor.removesuffix(".weight"),
        f"{effect.from_type} → {effect.to_type}",
        kilobytes(effect.delta_bytes),
        perplexity_cell(row.summary),
        with_limits(difference.percent),
        calibrated_change(row.summary, row.base),
        kld_change(difference),
        str(difference.judgement.verdict),
        f"{row.word.word}{'' if row.word.decided else ' (undecided)'}",
    )


def calibrated_change(trial: Summary, base: Summary) -> str:
    """The change of perplexity with each at its own best temperature: what of it is information."""
    if trial.calibrated is None or base.calibrated is None:
        return "?"
    return signed(100.0 * (trial.calibrated / base.calibrated - 1.0))


def kld_change(difference: Contrast) -> str:
    """The change of KL divergence with its interval, in thousandths."""
    return "" if difference.kld is None else with_limits(difference.kld, MILLI, 3)


# -- combination -------------------------------------------------------------------------------------------------------


def comparison_grid(comparison: Comparison, facts: dict[str, Any]) -> Grid:
    """Base, recipe and controls; the last columns are against the recipe."""
    columns = ("set", "size", "PPL", "PPL change, %", "KLD", "KLD change", "verdict", "KLD less the recipe's")
    rows = tuple(_comparison_row(row) for row in comparison.rows)
    contrasts = [row.from_base for row in comparison.rows if row.from_base]
    notes = (
        measured_on(facts, comparison.split),
        *interval_note(contrasts, [row.summary for row in comparison.rows], facts),
        *failed_notes(comparison.failed),
    )
    return Grid(f"Recipe and controls, {comparison.split} text", columns, rows, notes)


def short_comparison_grid(comparison: Comparison, facts: dict[str, Any]) -> Grid:
    """The columns that decide, for a terminal."""
    whole = comparison_grid(comparison, facts)
    names = ("set", "size", "KLD", "KLD change", "verdict")
    if not any(row.summary.divergence for row in comparison.rows):
        names = ("set", "size", "PPL", "PPL change, %", "verdict")
    places = [whole.columns.index(name) for name in names]
    return Grid(whole.title, names, tuple(tuple(row[i] for i in places) for row in whole.rows), whole.notes)


def _comparison_row(row: Row) -> tuple[str, ...]:
    divergence = row.summary.divergence
    tensors = f" ({len(row.trial.tensor_types)})" if row.trial.tensor_types else ""
    return (
        row.trial.label + tensors,
        kilobytes(row.delta_bytes),
        perplexity_cell(row.summary),
        with_limits(row.from_base.percent) if row.from_base else "",
        with_limits(divergence.mean, MILLI, 3, sign=False) if divergence else "",
        kld_change(row.from_base) if row.from_base else "",
        _verdict(row),
        kld_change(row.from_recipe) if row.from_recipe else "",
    )


def _verdict(row: Row) -> str:
    if row.from_base is None:
        return ""
    if row.trial.kind is TrialKind.REQUANTIZED and not row.trial.tensor_types:
        return "identical"
    return str(row.from_base.judgement.verdict)


def prediction_grid(combination: Combination) -> Grid:
    """The chosen set: what adding up predicted, what was measured on the text that chose, and on the text that did not."""
    search, report = (c.row(TrialKind.RECIPE) for c in (combination.search, combination.report))
    assert search and report and search.from_base and report.from_base
    predicted = combination.prediction
    rows = [
        ("single effects added up (search)", _percent(predicted), _kld(predicted)),
        ("measured together (search)", with_limits(search.from_base.percent), kld_change(search.from_base)),
        ("measured together (report)", with_limits(report.from_base.percent), kld_change(report.from_base)),
    ]
    gap = search.from_base.percent.estimate - report.from_base.percent.estimate
    gap_kld = [c.from_base.kld.estimate for c in (search, report) if c.from_base and c.from_base.kld]
    kld = signed((gap_kld[0] - gap_kld[1]) * MILLI, 3) if len(gap_kld) == 2 else ""
    rows.append(("winner's curse: search less report", signed(gap), kld))
    notes = (
        "Change from the base. The interval of a sum is the sum of the intervals: wide enough for any correlation, blind to interaction.",
    )
    return Grid("Prediction and measurement", ("", "perplexity, %", "KLD, thousandths of a nat"), tuple(rows), notes)


def _percent(predicted: Prediction) -> str:
    if predicted.nll_low is None or predicted.nll_high is None:
        return signed(predicted.percent)
    low, high = (100 * math.expm1(x) if x < 700 else math.inf for x in (predicted.nll_low, predicted.nll_high))
    return f"{signed(predicted.percent)} [{signed(low)}, {signed(high)}]"


def _kld(predicted: Prediction) -> str:
    if predicted.kld is None:
        return ""
    if predicted.kld_low is None or predicted.kld_high is None:
        return signed(predicted.kld * MILLI, 3)
    return f"{signed(predicted.kld * MILLI, 3)} [{signed(predicted.kld_low * MILLI, 3)}, {signed(predicted.kld_high * MILLI, 3)}]"


def choice_lines(result: RunResult) -> list[str]:
    """What was chosen, by which policy, and what the others would have chosen."""
    lines = [f"{result.choice.policy}: {result.choice.reason}"]
    tensor_types = ", ".join(f"{s.tensor}={s.type}" for s in result.choice.tensor_types)
    lines.append(f"chosen: {tensor_types or 'nothing; the base is the recipe'}")
    for other in result.alternatives:
        names = ", ".join(f"{s.tensor}={s.type}" for s in other.tensor_types)
        lines.append(f"{other.policy} would choose: {names or 'nothing'} ({other.reason})")
    return lines


def controls_lines(result: RunResult) -> list[str]:
    """What the controls say of the choice, in sentences: on the report text, by KL divergence where there is one."""
    if result.combination is None:
        return []
    rows = result.combination.report.rows
    lines = []
    draws = [row for row in rows if row.trial.kind is TrialKind.RANDOM and row.from_recipe]
    if draws:
        worse = sum(_main(row).low > 0.0 for row in draws)
        better = sum(_main(row).high < 0.0 for row in draws)
        sentence = f"of {len(draws)} random sets of as many tensors {worse} did worse than the recipe beyond the interval, {better} better"
        lines.append(sentence + ("" if worse > len(draws) / 2 else ": that these very tensors matter is not shown"))
    else:
        lines.append("no random sets: no other set of as many tensors is in the sweep")
    for row in (row for row in rows if row.trial.kind is TrialKind.BLANKET and row.from_base):
        lines.append(f"{row.trial.label}, {counted(len(row.trial.tensor_types), 'tensor')}: {_verdict(row)}")
    room, taken = result.facts["choice"]["max_growth_bytes"], rows[1].delta_bytes
    fitting = [r for r in rows if r.delta_bytes <= taken or room is None or r.delta_bytes <= room > 0]
    better_ones = [r for r in fitting if r.trial.tensor_types and r.from_recipe and _main(r).high < 0.0]
    if better_ones:
        named = ", ".join(f"{row.trial.label} ({kilobytes(row.delta_bytes)})" for row in better_ones)
        lines.append(f"better than the recipe beyond the interval, within the size allowed: {named}")
    return lines


def _main(row: Row) -> Interval:
    assert row.from_recipe is not None
    return row.from_recipe.kld or row.from_recipe.ppl


def written_lines(result: RunResult) -> list[str]:
    """The proven file."""
    written, tasks = result.written, result.facts.get("unfinished")
    if written is None:
        left, tasks = result.facts.get("left_from_before"), result.facts.get("not_asked")
        lines = [f"No file was written: {result.facts.get('unwritten', 'nothing was chosen')}."]
        lines += [f"Its overrides: {file}." for file in result.facts.get("unwritten_overrides", ())]
        lines += (
            [f"Benchmarks not asked, as there is no file to compare with its base: {', '.join(tasks)}."]
            if tasks
            else []
        )
        return lines + ([f"Left from an earlier run with other options: {', '.join(left)}."] if left else [])
    return [
        f"{written.path.name}: {written.file_bytes:,} bytes (base {written.base_bytes:,}), sha256 {written.sha256}",
        f"proof: opened again, {written.equal_chunks} of {written.equal_chunks} chunks of the report text give the very sums "
        "that were measured in memory; every tensor has the planned type",
        f"perplexity {perplexity_cell(written.summary)} on the report text, {written.from_base.judgement.reason}",
        f"overrides: {written.overrides_path.name} (lines: {len(written.overrides)}, each hits one tensor)",
        f"reproduce: {written.reproduce}",
        "that gives the same tensors; this file's header may have keys more, which say where it comes from (cerebellum verify)",
        *([f"benchmarks not finished: {', '.join(tasks)}; the same command goes on with them"] if tasks else []),
    ]
