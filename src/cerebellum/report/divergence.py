"""`measure` as a table: a row per figure, a column per file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
from cerebellum.stats.intervals import exp_nll, percent_change, smallest_detectable
from cerebellum.stats.verdicts import MILLI

if TYPE_CHECKING:
    from cerebellum.results import Measured, Measurement

_NAMES = {"median": "median", "p90": "90 %", "p95": "95 %", "p99": "99 %", "p999": "99.9 %"}


def measurement_grid(measurement: Measurement) -> Grid:
    """Every metric with its interval."""
    cells = [_cells(measured) for measured in measurement.files]
    rows = tuple((name, *(column[name] for column in cells)) for name in cells[0])
    facts = measurement.facts
    text, reference = facts["text"], facts["reference"]
    own = measurement.reference_nll
    notes = [
        f"Text {chunks_of(text)}{batches_of(measurement.facts)}.",
        f"Reference {reference['file']} ({rows_of(reference)}); its own perplexity there is {exp_nll(own.estimate):.4f}.",
        "Brackets: 95 % intervals over chunks. ±: one standard error over tokens (llama-perplexity's). "
        "KLD in thousandths of a nat a token.",
    ]
    notes += [f"Warning: {said}" for said in facts.get("warnings", ())]
    for measured in measurement.files:
        if measured.from_first is not None:
            notes.append(f"{measured.name} against {measurement.files[0].name}: {measured.from_first.judgement.verdict}. "
                         f"{measured.from_first.judgement.reason}")  # fmt: skip
    main = [x.from_first.kld for x in measurement.files if x.from_first and x.from_first.kld]
    if main and math.isfinite(main[0].std_error):
        least = min(smallest_detectable(x.std_error, x.n_chunks) for x in main)
        notes.append(
            f"Smallest difference that this much text shows four times in five: {least * MILLI:.3g} thousandths of a nat."
        )
    notes += draw_note(measured.summary for measured in measurement.files)
    notes += unknown_note(rows)
    return Grid("Distance to the reference", ("", *(m.name for m in measurement.files)), rows, tuple(notes))


def _cells(measured: Measured) -> dict[str, str]:
    summary = measured.summary
    found = {
        "size": f"{measured.file_bytes / 1e6:,.2f} MB, {measured.bits_per_weight:.2f} bits a weight",
        "PPL": perplexity_cell(summary),
        "PPL from the reference's, %": with_limits(percent_change(measured.log_ratio)),
        "PPL at its best temperature": "outside 0.83 … 2.5"
        if summary.calibrated is None
        else f"{summary.calibrated:.4f} at {summary.temperature:.3f}",
    }
    d = summary.divergence
    if d is None:
        return found
    found["KLD mean"] = with_limits(d.mean, MILLI, 3, sign=False)
    found |= {f"KLD {_NAMES[name]}": with_limits(x, MILLI, 3, sign=False) for name, x in d.percentiles.items()}
    found["KLD largest"] = f"{d.maximum * MILLI:.3f}"
    found["same top token, %"] = with_limits(d.same_top, 100.0, 3, sign=False)
    found["true token's probability, mean change, %"] = with_limits(d.mean_dp, 100.0, 3)
    found["true token's probability, RMS change, %"] = with_limits(d.rms_dp, 100.0, 3, sign=False)
    return found
