"""`measure` as a table and as flat data: a row per figure, a column per file; what `compare` says of pairs and of the front too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cerebellum.figures import significant
from cerebellum.report.grids import (
    Grid,
    batches_of,
    chunks_of,
    draw_note,
    perplexity_cell,
    rows_of,
    unknown_note,
    with_limits,
)
from cerebellum.scoring.summary import as_json
from cerebellum.stats.intervals import Interval, exp_limits, exp_nll, percent_change, smallest_detectable
from cerebellum.stats.pareto import pair_level
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cerebellum.results import Measured, Measurement
    from cerebellum.stats.pareto import ParetoRank

_NAMES = {"median": "median", "p90": "90 %", "p95": "95 %", "p99": "99 %", "p999": "99.9 %"}


def measurement_grid(measurement: Measurement) -> Grid:
    """Every metric with its interval."""
    cells = [_cells(measured) for measured in measurement.files]
    if len(cells) > 1:
        cells = [column | words for column, words in zip(cells, standing_words(measurement), strict=True)]
    rows = tuple((name, *(column[name] for column in cells)) for name in cells[0])
    facts = measurement.facts
    text, reference = facts["text"], facts["reference"]
    reference_nll = measurement.reference_nll
    notes = [
        f"Text {chunks_of(text)}{batches_of(measurement.facts)}.",
        f"Reference {reference['file']} ({rows_of(reference)}); its own perplexity there is {exp_nll(reference_nll.estimate):.4f}.",
        "Brackets: 95 % intervals over chunks. ±: one standard error over tokens (llama-perplexity's). "
        "KLD in thousandths of a nat a token.",
    ]
    notes += [f"Warning: {warning}" for warning in facts.get("warnings", ())]
    for measured in measurement.files:
        if measured.from_first is not None:
            notes.append(f"{measured.name} against {measurement.files[0].name}: {measured.from_first.judgement.verdict}. "
                         f"{measured.from_first.judgement.reason}")  # fmt: skip
    main = [x.from_first.kld for x in measurement.files if x.from_first and x.from_first.kld]
    if main and math.isfinite(main[0].std_error):
        least = min(smallest_detectable(x.std_error, x.n_chunks) for x in main)
        notes.append(
            f"Smallest difference that this much text shows four times in five: {significant(least * MILLI)} thousandths of a nat."
        )
    notes += draw_note(measured.summary for measured in measurement.files)
    notes += ranking_notes(measurement)
    notes += unknown_note(rows)
    return Grid("Distance to the reference", ("", *(m.name for m in measurement.files)), rows, tuple(notes))


def _cells(measured: Measured) -> dict[str, str]:
    summary = measured.summary
    cells = {
        "size": f"{measured.file_bytes / 1e6:,.2f} MB, {measured.bits_per_weight:.2f} bits a weight",
        "PPL": perplexity_cell(summary),
        "PPL from the reference's, %": with_limits(percent_change(measured.log_ratio)),
        "PPL at its best temperature": "outside 0.83 … 2.5"
        if summary.calibrated is None
        else f"{summary.calibrated:.4f} at {summary.temperature:.3f}",
    }
    d = summary.divergence
    if d is None:
        return cells
    cells["KLD mean"] = with_limits(d.mean, MILLI, 3, sign=False)
    cells |= {f"KLD {_NAMES[name]}": with_limits(x, MILLI, 3, sign=False) for name, x in d.percentiles.items()}
    cells["KLD largest"] = f"{d.maximum * MILLI:.3f}"
    cells["same top token, %"] = with_limits(d.same_top, 100.0, 3, sign=False)
    cells["true token's probability, mean change, %"] = with_limits(d.mean_dp, 100.0, 3)
    cells["true token's probability, RMS change, %"] = with_limits(d.rms_dp, 100.0, 3, sign=False)
    return cells


# -- which to take -----------------------------------------------------------------------------------------------------


def standing_words(measurement: Measurement, names: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rank and place of each file in words; ``names`` are used for files where they are given."""
    names = names or [file.name for file in measurement.files]
    return [{"rank": str(s.rank), "worth having": _worth(s, names)} for s in measurement.standings]


def _worth(standing: ParetoRank, names: Sequence[str]) -> str:
    if standing.dominated_by:
        return "no: " + ", ".join(names[j] for j in standing.dominated_by)
    if standing.unproven_against:
        return "not shown: " + ", ".join(names[j] for j in standing.unproven_against)
    return "yes"


def ranking_notes(measurement: Measurement) -> list[str]:
    """What rank and place mean, where there are several files."""
    if len(measurement.files) < 2:
        return []
    return [
        "rank (#): 1 and the number of files that are better beyond the interval of the pair. worth having: yes where every file that is "
        "smaller is worse; no: the files named are not larger and are better; not shown: those named are smaller, and this text does not "
        "show that this file is better than they are. Better: less KL divergence. The intervals of all pairs hold together at 95 %."
    ]


def pairs_grid(measurement: Measurement, names: Sequence[str] = ()) -> Grid:
    """Each two files: the second less the first."""
    names = names or [file.name for file in measurement.files]
    rows = []
    for pair in measurement.pairs:
        first, second = measurement.files[pair.first], measurement.files[pair.second]
        kld = pair.contrast.kld
        rows.append(
            (
                names[pair.second],
                names[pair.first],
                f"{(second.file_bytes - first.file_bytes) / 1e6:+,.2f}",
                "" if kld is None else with_limits(kld, MILLI, 3),
                with_limits(pair.contrast.percent),
            )
        )
    level = 100.0 * pair_level(len(measurement.files))
    notes = (
        f"Brackets: {level:.4g} % intervals, paired by chunk: those of all {len(rows)} pairs hold together at 95 %. KLD in thousandths of "
        "a nat a token.",
        *unknown_note(rows),
    )
    return Grid(
        "Each two files: the first less the second", ("file", "less", "MB", "KLD", "PPL, %"), tuple(rows), notes
    )


# -- data --------------------------------------------------------------------------------------------------------------


def flat(measured: Measured, measurement: Measurement) -> dict[str, Any]:
    """One file's figures as flat data: nats, shares (not percent); ``…_low`` and ``…_high`` are 95 % limits over chunks."""
    summary, reference_nll = measured.summary, measurement.reference_nll
    perplexity = exp_limits(summary.nll)
    figures: dict[str, Any] = {
        "model": measured.name,
        "sha256": measured.sha256,
        "file_bytes": measured.file_bytes,
        "bits_per_weight": measured.bits_per_weight,
        "chunks": summary.n_chunks,
        "tokens": summary.n_tokens,
        "perplexity": summary.perplexity,
        "std_error": summary.std_error,
        "perplexity_low": perplexity.low,
        "perplexity_high": perplexity.high,
        "reference_perplexity": exp_nll(reference_nll.estimate),
        **limits("log_ratio", measured.log_ratio),
        "calibrated_perplexity": summary.calibrated,
        "temperature": summary.temperature,
    }
    if (d := summary.divergence) is not None:
        figures |= limits("kld", d.mean) | {"kld_draw_error": d.draw_error, "kld_max": d.maximum}
        for name, x in d.percentiles.items():
            figures |= limits(f"kld_{name}", x)
        figures |= limits("same_top", d.same_top) | limits("mean_dp", d.mean_dp) | limits("rms_dp", d.rms_dp)
    return figures


def limits(name: str, x: Interval) -> dict[str, float]:
    """The estimate under ``name`` and its limits."""
    return {name: x.estimate, f"{name}_low": x.low, f"{name}_high": x.high}


def measurement_json(measurement: Measurement) -> dict[str, Any]:
    """Every file's figures and, of several, where each stands and what each two differ by."""
    names = [file.name for file in measurement.files]
    files = [as_json({**flat(f, measurement), "from_first": f.from_first}) for f in measurement.files]
    if len(files) == 1:
        return {**files[0], "facts": measurement.facts}
    for file, standing in zip(files, measurement.standings, strict=True):
        file["rank"] = standing.rank
        file["dominated_by"] = [names[j] for j in standing.dominated_by]
        file["unproven_against"] = [names[j] for j in standing.unproven_against]
    return {"files": files, "pairs": pairs_json(measurement), "facts": measurement.facts}


def pairs_json(measurement: Measurement) -> list[dict[str, Any]]:
    """Each two files, ``file`` less ``less``."""
    names = [file.name for file in measurement.files]
    return [
        {
            "file": names[p.second],
            "less": names[p.first],
            "kld": as_json(p.contrast.kld),
            "log_ratio": as_json(p.contrast.ppl),
        }
        for p in measurement.pairs
    ]
