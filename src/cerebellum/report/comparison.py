"""`compare` for people and programs: one table, short and whole, the page, the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebellum import __version__
from cerebellum.files import write_text
from cerebellum.quoting import markdown, shell_line, strict_json
from cerebellum.report.comparison_picture import comparison_picture
from cerebellum.report.divergence import measurement_json, pairs_grid, ranking_notes, standing_words
from cerebellum.report.grids import Grid, batches_of, chunks_of, draw_note, rows_of, unknown_note, with_limits
from cerebellum.report.markdown import comparison_facts, grid_markdown
from cerebellum.report.page import write_page
from cerebellum.report.short_names import short_names
from cerebellum.scoring.summary import as_json
from cerebellum.stats.intervals import Interval, exp_limits, exp_nll, percent_change
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results import Measured
    from cerebellum.results.files import ComparedFile, FileComparison, Speed, SpeedTest

#: The version of ``report.json``: it changes where a reader of the older one would misunderstand.
FORMAT = 1


def write_comparison(result: FileComparison, out: Path, command: Sequence[str] = ()) -> dict[str, Any]:
    """``report.html``, ``report.md``, ``report.json`` and ``compare.svg`` into ``out``. Returns what ``report.json`` holds. Raises
    `OutputError`."""
    summary = comparison_json(result, command)
    write_text(out / "compare.svg", comparison_picture(result.measurement))
    write_text(out / "report.md", comparison_report(result))
    write_text(out / "report.json", strict_json(summary) + "\n")
    write_page(summary, out)
    return summary


def nearest_first(result: FileComparison) -> list[int]:
    """The numbers of the files, the one nearest to the reference first."""
    return sorted(range(len(result.files)), key=lambda i: _distance(result.files[i].measured))


def _distance(measured: Measured) -> tuple[float, int]:
    divergence = measured.summary.divergence
    return (divergence.mean.estimate if divergence else measured.log_ratio.estimate, measured.file_bytes)


def _names(result: FileComparison) -> list[str]:
    return [file.measured.name for file in result.files]


# -- tables ------------------------------------------------------------------------------------------------------------


def short_grid(result: FileComparison) -> Grid:
    """What fits 80 columns: rank, size, mean divergence, agreement, perplexity, whether it is worth having."""
    names = short_names(_names(result))
    words = standing_words(result.measurement, names)
    rows = []
    for i in nearest_first(result):
        measured = result.files[i].measured
        d = measured.summary.divergence
        rows.append(
            (
                names[i],
                words[i]["rank"],
                f"{measured.file_bytes / 1e6:,.2f}",
                f"{measured.bits_per_weight:.2f}",
                "" if d is None else _narrow(d.mean, MILLI),
                "" if d is None else f"{100.0 * d.same_top.estimate:.1f}",
                f"{measured.summary.perplexity:.3f}",
                words[i]["worth having"],
            )
        )
    columns = ("file", "#", "MB", "bits", "KLD", "top %", "PPL", "worth having")
    notes = [*_called(names, _names(result)), *_ground(result), *ranking_notes(result.measurement)]
    return Grid("Distance to the reference", columns, tuple(rows), (*notes, *unknown_note(rows)))


def whole_grid(result: FileComparison) -> Grid:
    """Every figure with its interval, a row a file."""
    words = standing_words(result.measurement)
    columns = [
        "file", "rank", "bytes", "bits a weight", "KLD mean", "KLD median", "KLD 99 %", "KLD 99.9 %", "KLD largest",
        "same top token, %", "PPL", "PPL from the reference's, %", "worth having",
    ]  # fmt: skip
    rows = [_whole_row(result.files[i].measured, words[i]) for i in nearest_first(result)]
    notes = [*_ground(result), *ranking_notes(result.measurement), *unknown_note(rows)]
    return Grid("Distance to the reference", tuple(columns), tuple(rows), tuple(notes))


def _whole_row(measured: Measured, words: dict[str, str]) -> tuple[str, ...]:
    summary, d = measured.summary, measured.summary.divergence
    tail = [""] * 6
    if d is not None:
        tail = [with_limits(d.mean, MILLI, 3, sign=False)]
        tail += [with_limits(d.percentiles[name], MILLI, 3, sign=False) for name in ("median", "p99", "p999")]
        tail += [f"{d.maximum * MILLI:.3f}", with_limits(d.same_top, 100.0, 2, sign=False)]
    return (
        measured.name,
        words["rank"],
        f"{measured.file_bytes:,}",
        f"{measured.bits_per_weight:.3f}",
        *tail,
        with_limits(exp_limits(summary.nll), 1.0, 4, sign=False),
        with_limits(percent_change(measured.log_ratio)),
        words["worth having"],
    )


def tail_grid(result: FileComparison) -> Grid:
    """How bad the worst tokens are, narrow."""
    names = short_names(_names(result))
    rows = []
    for i in nearest_first(result):
        if (d := result.files[i].measured.summary.divergence) is not None:
            figures = [_narrow(d.percentiles[name], MILLI) for name in ("median", "p99", "p999")]
            rows.append((names[i], *figures, _figure(d.maximum * MILLI)))
    return Grid(
        "KLD of single tokens", ("file", "median", "99 %", "99.9 %", "largest"), tuple(rows), tuple(unknown_note(rows))
    )


def types_grid(result: FileComparison, *, short: bool = False) -> Grid:
    """The types of each role, a row a role."""
    order = nearest_first(result)
    names = short_names(_names(result)) if short else _names(result)
    roles = list(dict.fromkeys(role for file in result.files for role in file.types))
    rows = tuple((role, *(_types(result.files[i], role) for i in order)) for role in roles)
    notes = ("Tensors of one dimension are left out.",)
    return Grid("Types by role", ("role", *(names[i] for i in order)), rows, notes)


def _types(file: ComparedFile, role: str) -> str:
    types = file.types.get(role, {})
    return ", ".join(f"{kind} ×{n}" if n > 1 else kind for kind, n in types.items())


def speed_grid(result: FileComparison, *, short: bool = False) -> Grid:
    """Tokens a second, the fastest writer first."""
    names = short_names(_names(result)) if short else _names(result)
    timed = [(file.speed, name) for file, name in zip(result.files, names, strict=True) if file.speed is not None]
    timed.sort(key=lambda each: -each[0].generation.rate)
    rows = tuple((name, *_speeds(speed)) for speed, name in timed)
    facts = result.facts
    heads = (f"prompt of {facts['n_prompt']}", f"generation of {facts['n_generate']}")
    layers = f"{facts['gpu_layers']} layers on the GPU" if facts["gpu_layers"] else "the processor alone"
    notes = (
        f"Mean ± standard deviation over {_times(timed[0][0])} times, as llama-bench takes them: random tokens, an empty memory, after one "
        f"pass that doesn't count. {facts['threads']} threads, {layers}, {facts['hardware']}.",
        *_unpacked(facts),
        "Other work on the machine slows what is timed while it runs: differences of a few percent say nothing.",
    )
    return Grid("Tokens a second", ("file", *heads), rows, notes)


def _unpacked(facts: dict[str, Any]) -> list[str]:
    if facts["repack"]:
        return []
    return [
        "Weights were not repacked: llama.cpp's kernels for that end the process on this machine. Its own programs take them too."
    ]


def _times(speed: Speed) -> str:
    return f"{len(speed.prompt.seconds)} and {len(speed.generation.seconds)}"


def _speeds(speed: Speed) -> tuple[str, str]:
    return _rate(speed.prompt), _rate(speed.generation)


def _rate(test: SpeedTest) -> str:
    return f"{test.rate:,.1f}" + ("" if test.spread is None else f" ± {test.spread:.1f}")


def _narrow(x: Interval, scale: float) -> str:
    """``estimate [low, high]`` in three figures."""
    if x.n_chunks < 2:
        return f"{_figure(x.estimate * scale)} [?]"
    return f"{_figure(x.estimate * scale)} [{_figure(x.low * scale)}, {_figure(x.high * scale)}]"


def _figure(x: float) -> str:
    """Three figures, never with an exponent."""
    if x in (float("inf"), float("-inf")):
        return "?"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 1 else f"{x:.3f}"


def _called(names: tuple[str, ...], whole: list[str]) -> list[str]:
    changed = [f"{short} is {name}" for short, name in zip(names, whole, strict=True) if short != name]
    return [f"Files: {'; '.join(changed)}."] if changed else []


def _ground(result: FileComparison) -> list[str]:
    """On what."""
    measurement = result.measurement
    facts, reference = measurement.facts, measurement.facts["reference"]
    reference_ppl = exp_nll(measurement.reference_nll.estimate)
    notes = [
        f"Text {chunks_of(facts['text'])}{batches_of(facts)}.",
        f"Reference {reference['file']} ({rows_of(reference)}); its own perplexity there is {reference_ppl:.4f}.",
        "Brackets: 95 % intervals over chunks. KLD in thousandths of a nat a token.",
    ]
    notes += [f"Warning: {warning}" for warning in facts.get("warnings", ())]
    return notes + draw_note(file.measured.summary for file in result.files)


# -- page and data -----------------------------------------------------------------------------------------------------


def comparison_report(result: FileComparison) -> str:
    """The page."""
    parts = [f"# {len(result.files)} files against {markdown(result.measurement.facts['reference']['file'])}", ""]
    parts += [*(f"* {markdown(line)}" for line in front_lines(result)), ""]
    parts += ["![KL divergence against size](compare.svg)", "", grid_markdown(whole_grid(result))]
    parts += [grid_markdown(speed_grid(result))] if result.facts else []
    parts += [grid_markdown(pairs_grid(result.measurement))] if result.measurement.pairs else []
    parts += [grid_markdown(types_grid(result)), "## Files", ""]
    parts += [f"* {markdown(file.measured.name)}: sha256 {file.measured.sha256}" for file in result.files]
    parts += ["", "## On what", ""]
    parts += [f"* {markdown(line)}" for line in comparison_facts(result.measurement.facts)]
    return "\n".join(parts) + "\n"


def front_lines(result: FileComparison) -> list[str]:
    """Which files are worth having, smallest first, in one sentence each."""
    words = standing_words(result.measurement)
    lines = []
    for i in sorted(range(len(result.files)), key=lambda i: result.files[i].measured.file_bytes):
        measured = result.files[i].measured
        d = measured.summary.divergence
        kld = "" if d is None else f", KLD {with_limits(d.mean, MILLI, 3, sign=False)}"
        lines.append(
            f"{measured.name}, {measured.file_bytes / 1e6:,.2f} MB{kld}: {_sentence(words[i]['worth having'])}"
        )
    return lines


def _sentence(worth: str) -> str:
    answer, _, others = worth.partition(": ")
    return {
        "yes": "worth having, no smaller file is as good",
        "no": f"not worth having, no larger and better: {others}",
        "not shown": f"not shown to be better than what is smaller: {others}",
    }[answer]


def comparison_json(result: FileComparison, command: Sequence[str] = ()) -> dict[str, Any]:
    """All of it; ``command``: what made it."""
    measured = measurement_json(result.measurement)
    measured = measured if "files" in measured else {"files": [measured], "pairs": [], "facts": measured.pop("facts")}
    for entry, file in zip(measured["files"], result.files, strict=True):
        entry["types"] = as_json(file.types)
        entry["speed"] = None if file.speed is None else _speed_json(file.speed)
    about = {"version": __version__, "verdict": front_lines(result)}
    commands = {"cerebellum": shell_line(command) if command else None}
    return {
        "format": FORMAT, "kind": "comparison", **about, "commands": commands, **measured, "speed": result.facts or None,
    }  # fmt: skip


def _speed_json(speed: Speed) -> dict[str, Any]:
    tests = {"prompt": speed.prompt, "generation": speed.generation}
    return {
        name: {"tokens": t.n_tokens, "seconds": list(t.seconds), "rate": t.rate, "spread": t.spread}
        for name, t in tests.items()
    }
