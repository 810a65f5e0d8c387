"""A part of a job and a merge, in sentences and as JSON."""

from __future__ import annotations

from typing import Any

from cerebellum.quoting import shell_file
from cerebellum.results.part import Merged, Part
from cerebellum.study.merge import MergedPart


def part_lines(part: Part) -> list[str]:
    """What was measured, what is lacking, how to go on."""
    if not part.n_lacking:
        return [
            f"part {part.number} of {part.of}: everything that can be cut into parts is measured in {part.out}",
            "go on with the same command without --shard",
        ]
    failed = f", {part.n_failed} of them failed" if part.n_failed else ""
    old = part.n_chunks - part.n_new
    lines = [
        f"part {part.number} of {part.of}, {part.what}: {part.n_trials} trials on {part.n_chunks:,} chunks together"
        f"{f' ({old:,} were measured before)' if old else ''}{failed}; {part.n_lacking:,} chunks are other parts'",
        f"when all parts are measured: cerebellum merge STUDY {shell_file(str(part.out))} OTHER-PARTS…",
    ]
    if part.what == "sweep":
        return [*lines, "then the same command with --out STUDY, without --shard"]
    return [
        *lines,
        "then the same command with --out STUDY: without --shard it measures the rest alone; with --shard, on a copy of STUDY for each "
        "part, the next look is cut into parts as well",
    ]


def part_json(part: Part) -> dict[str, Any]:
    """Plain data."""
    return {
        "out": str(part.out), "part": part.number, "parts": part.of, "what": part.what, "trials": part.n_trials, "chunks": part.n_chunks,
        "new": part.n_new, "failed": part.n_failed, "lacking": part.n_lacking,
    }  # fmt: skip


def merged_lines(merged: Merged) -> list[str]:
    """A line a part, and how to go on."""
    lines = [_taken(part) for part in merged.parts]
    return [*lines, f"go on with the same command with --out {shell_file(str(merged.out))}, without --shard"]


def _taken(part: MergedPart) -> str:
    failed = f", {part.n_failed} failures" if part.n_failed else ""
    if not part.n_new and not part.n_failed:
        return f"{part.name}: nothing new, all its {part.n_known:,} chunks were there already"
    known = f"; {part.n_known:,} were there already" if part.n_known else ""
    return f"{part.name}: {part.n_new:,} chunks of {part.n_trials} trials taken{failed}{known}"


def merged_json(merged: Merged) -> dict[str, Any]:
    """Plain data."""
    return {
        "study": str(merged.out),
        "parts": [
            {"part": p.name, "new": p.n_new, "known": p.n_known, "trials": p.n_trials, "failures": p.n_failed, "notes": list(p.notes)}
            for p in merged.parts
        ],
    }  # fmt: skip
