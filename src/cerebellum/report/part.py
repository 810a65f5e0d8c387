"""A part of a job and a merge, in sentences and as JSON."""

from __future__ import annotations

from typing import Any

from cerebellum.quoting import shell_file
from cerebellum.results.part import Merged, Part
from cerebellum.study.merge import MergedPart


def part_lines(shard: Part) -> list[str]:
    """What was measured, what is lacking, how to go on."""
    if not shard.n_lacking:
        return [
            f"part {shard.number} of {shard.of}: everything that can be cut into parts is measured in {shard.out}",
            "go on with the same command without --shard",
        ]
    failed = f", {shard.n_failed} of them failed" if shard.n_failed else ""
    old = shard.n_chunks - shard.n_new
    lines = [
        f"part {shard.number} of {shard.of}, {shard.what}: {shard.n_trials} trials on {shard.n_chunks:,} chunks together"
        f"{f' ({old:,} were measured before)' if old else ''}{failed}; {shard.n_lacking:,} chunks are other parts'",
        f"when all parts are measured: cerebellum merge STUDY {shell_file(str(shard.out))} OTHER-PARTS…",
    ]
    if shard.what == "sweep":
        return [*lines, "then the same command with --out STUDY, without --shard"]
    return [
        *lines,
        "then the same command with --out STUDY: without --shard it measures the rest alone; with --shard, on a copy of STUDY for each "
        "part, the next look is cut into parts as well",
    ]


def part_json(shard: Part) -> dict[str, Any]:
    """Plain data."""
    return {
        "out": str(shard.out), "part": shard.number, "parts": shard.of, "what": shard.what, "trials": shard.n_trials,
        "chunks": shard.n_chunks, "new": shard.n_new, "failed": shard.n_failed, "lacking": shard.n_lacking,
    }  # fmt: skip


def merged_lines(merged: Merged) -> list[str]:
    """A line a part, and how to go on."""
    lines = [_taken(each) for each in merged.parts]
    return [*lines, f"go on with the same command with --out {shell_file(str(merged.out))}, without --shard"]


def _taken(merged: MergedPart) -> str:
    failed = f", {merged.n_failed} failures" if merged.n_failed else ""
    if not merged.n_new and not merged.n_failed:
        return f"{merged.name}: nothing new, all its {merged.n_known:,} chunks were there already"
    known = f"; {merged.n_known:,} were there already" if merged.n_known else ""
    return f"{merged.name}: {merged.n_new:,} chunks of {merged.n_trials} trials taken{failed}{known}"


def merged_json(merged: Merged) -> dict[str, Any]:
    """Plain data."""
    return {
        "study": str(merged.out),
        "parts": [
            {"part": p.name, "new": p.n_new, "known": p.n_known, "trials": p.n_trials, "failures": p.n_failed, "notes": list(p.notes)}
            for p in merged.parts
        ],
    }  # fmt: skip
