"""Large tables for programs and spreadsheets: CSV beside the JSON, one row a trial or a tensor."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cerebellum.quoting import name
from cerebellum.report.tensors import tensors_json

if TYPE_CHECKING:
    from cerebellum.results import Sweep
    from cerebellum.results.allocation import Allocation
    from cerebellum.stats.intervals import Interval

#: A cell that begins so is a formula to a spreadsheet.
FORMULA = ("=", "+", "-", "@")
SWEEP_COLUMNS = (
    "tensor", "block", "role", "from_type", "to_type", "delta_bytes", "chunks", "perplexity", "ppl_change_percent", "ppl_low",
    "ppl_high", "kld", "kld_change", "kld_low", "kld_high", "verdict", "class", "p_adjusted",
)  # fmt: skip


def sweep_csv(sweep: Sweep) -> str:
    """A row a trial. KL divergence in nats a token; empty where it isn't known."""
    rows = []
    for row in sweep.rows:
        effect, contrast, divergence = row.effect, row.contrast, row.summary.divergence
        ppl, kld = limits(contrast.percent), limits(contrast.kld)
        kld_mean = divergence.mean.estimate if divergence else None
        sizes = (effect.delta_bytes, row.summary.n_chunks, row.summary.perplexity)
        words = (str(contrast.judgement.verdict), str(row.word.word), row.p_adjusted)
        rows.append(
            (
                effect.tensor,
                effect.block,
                effect.role,
                effect.from_type,
                effect.to_type,
                *sizes,
                *ppl,
                kld_mean,
                *kld,
                *words,
            )
        )
    return csv_text(SWEEP_COLUMNS, rows)


def limits(x: Interval | None) -> tuple[float | None, float | None, float | None]:
    """Estimate and limits."""
    return (None, None, None) if x is None else (x.estimate, x.low, x.high)


def tensors_csv(result: Allocation) -> str:
    """A row a tensor that could change: both types, bytes in both files, slope, expected damage at both, nats a token."""
    rows = []
    for row in tensors_json(result):
        slope = row.pop("slope")
        rows.append({**row, **{f"slope_{key}": value for key, value in slope.items()}})
    return csv_text(tuple(rows[0]) if rows else (), [tuple(row.values()) for row in rows])


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The whole file. Numbers that are not finite are empty, names of others are text, never formulas."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])
    return written.getvalue()


def cell(value: Any) -> Any:
    """A value as a cell."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else ""
    if isinstance(value, str):
        text = name(value)
        return f"'{text}" if text.startswith(FORMULA) else text
    return "" if value is None else value
