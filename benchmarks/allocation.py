"""Allocations of several models at several sizes: how near each file is to the reference beside the stock file and its controls.

    python -m benchmarks.allocation --out FOLDER [--case MODEL TEXT CTX CHUNKS]… [--like Q2_K,Q3_K_M,Q4_K_M] [--imatrix none,auto]

Without ``--case`` the bundled model is taken, with its own texts. One row per model, size and importance matrix, from the report text. The
sizes of a model are a ladder: they share their anchors. A folder that holds the rows isn't measured again, and one that was stopped goes
on. ``--json`` keeps every figure, with the pairs of what the damage model predicts for an unseen anchor and what was measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.running import show
from cerebellum import api, bundled
from cerebellum.allocation.damage import predict_left_out
from cerebellum.cli.console import ConsoleProgress
from cerebellum.results.allocation import Allocation
from cerebellum.scoring.summary import as_json
from cerebellum.stats.verdicts import MILLI

COLUMNS = (
    "model", "like", "imatrix", "KLD ÷ stock", "÷ weight error alone", "as good as", "÷ best stock file within the bytes",
    "÷ before refinement",
    "predicted", "measured", "left out", "trials a tensor", "chunks", "full sweep", "shuffled worse",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model on a text: ``chunks`` of ``ctx`` tokens choose, as many report."""

    model: Path
    text: Path
    ctx: int
    chunks: int
    report_text: Path | None = None

    @property
    def name(self) -> str:
        return self.model.stem


BUNDLED = Case(bundled.MODEL, bundled.SEARCH_TEXT, 512, 16, bundled.REPORT_TEXT)


def measured(
    case: Case, likes: Sequence[str], imatrix: str, out: Path, more: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A row for each size, from ``out`` where it holds all of them: a ladder, since sizes have their anchors in common."""
    kept = {like: out / f"row-{like}.json" for like in likes}
    if not all(path.exists() for path in kept.values()):
        report_text: dict[str, Any] = {"report_text": case.report_text} if case.report_text else {}
        ladder = api.ladder(
            case.model, likes, out=out, text=case.text, ctx=case.ctx, chunks=case.chunks, imatrix=imatrix,
            progress=ConsoleProgress(quiet=False), **report_text, **more,
        )  # fmt: skip
        for like, result in zip(ladder.labels, ladder.results, strict=True):
            kept[like].write_text(json.dumps({"model": case.name, "like": like, "imatrix": imatrix, **figures(result)}))
    yield from (json.loads(path.read_text()) for path in kept.values() if path.exists())


def figures(result: Allocation) -> dict[str, Any]:
    """What an allocation is worth, what it cost, how well the damage model predicts."""
    anchors, refined, controls = result.anchors, result.refined, result.controls
    pairs = predict_left_out(result.table.roles, anchors.anchors, anchors.model)
    return {
        "limit_bytes": result.limit,
        "file_bytes": result.written.file_bytes,
        "ratio": as_json(controls.ratio),
        "from_weight_error": as_json(controls.from_weight_error),
        "equivalent_bytes": controls.equivalent.n_bytes,
        "rival": as_json(controls.rival),
        "refined": as_json(refined and refined.ratio),
        "rounds": as_json(refined.rounds if refined else ()),
        "kept": result.kept.candidate.name,
        "predicted": result.kept.predicted,
        "measured": result.kept.measured,
        "left_out": [[predicted, anchor.effect] for anchor, predicted in pairs],
        "trials": anchors.n_trials,
        "anchor_chunks": anchors.n_chunks,
        "refinement_chunks": sum(r.n_chunks for r in refined.rounds) if refined else 0,
        "tensors": len(result.table.names),
        "cells": sum(map(len, result.table.types.values())),
        "search_chunks": max(tried.n_chunks for tried in result.tried),
        "shuffled": [controls.shuffled.n_worse, len(controls.shuffled.others)],
    }


def row(size: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a row, in the order of `COLUMNS`."""
    more = size["equivalent_bytes"]
    return (
        size["model"],
        size["like"],
        size["imatrix"],
        ratio(size["ratio"]),
        ratio(size["from_weight_error"]),
        "beyond" if more is None else f"{100.0 * (more / size['file_bytes'] - 1.0):+.0f} % bytes",
        f"{size['rival']['ftype']}: {ratio(size['rival']['ratio'])}" if size["rival"] else "none better",
        ratio(size["refined"]) if size["refined"] else "nothing taken",
        f"{size['predicted'] * MILLI:.3f}",
        f"{size['measured'] * MILLI:.3f}",
        f"{rank_correlation(size['left_out']):.2f}",
        f"{size['trials'] / size['tensors']:.2f}",
        f"{size['anchor_chunks']} + {size['refinement_chunks']}",
        f"{size['cells'] * size['search_chunks']}",
        "{} of {}".format(*size["shuffled"]),
    )


def ratio(x: dict[str, Any]) -> str:
    """A ratio with its interval."""
    low, high = (f"{x[k]:.3f}" if x[k] is not None else "?" for k in ("low", "high"))
    return f"{x['estimate']:.3f} [{low}, {high}]" if x["estimate"] is not None else "?"


def rank_correlation(pairs: Sequence[Sequence[float]]) -> float:
    """Spearman's, of predictions and measurements."""
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else float("nan")


def rows(cases: Sequence[Case], likes: Sequence[str], matrices: Sequence[str], out: Path, more: Any) -> Iterator[Any]:
    """Row after row; each is printed as it comes, for the whole may take hours."""
    for case in cases:
        for imatrix in matrices:
            for figures_of_size in measured(case, likes, imatrix, out / f"{case.name}-{Path(imatrix).stem}", more):
                print(" | ".join(row(figures_of_size)), flush=True)
                yield figures_of_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=4, action="append", metavar=("MODEL", "TEXT", "CTX", "CHUNKS"))
    parser.add_argument("--like", default="Q2_K,Q3_K_M,Q4_K_M", help="stock files whose bytes are taken")
    parser.add_argument("--imatrix", default="none,auto", help="none, auto, or files")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cases = [Case(Path(m), Path(t), int(ctx), int(n)) for m, t, ctx, n in given.case or ()] or [BUNDLED]
    more = {"threads": given.threads} if given.threads else {}
    measurements = list(rows(cases, given.like.split(","), given.imatrix.split(","), given.out, more))
    show("Allocations at equal bytes; KLD in thousandths of a nat a token", COLUMNS, [row(one) for one in measurements])
    if given.json:
        given.json.write_text(json.dumps(measurements, indent=1))


if __name__ == "__main__":
    main()
