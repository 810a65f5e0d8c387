"""Measurements of another build, processor or device: when they are of the same series, and when they stand in a series beside it.

Two facts of a study hold what was decided. ``admitted series``: the key of a series → the key of the series that it is one with, as its
canary agreed bit for bit. ``pooled series``: groups of series that differ in their builds and whose figures don't agree: each has a base of
its own, and only differences to that base are compared. ``other builds`` says for people what was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebellum.domain import ChunkScore, TrialKind
from cerebellum.keys import content_key
from cerebellum.study.store import Study

ADMITTED, POOLED, OTHERS, CANARY = "admitted series", "pooled series", "other builds", "canary of "
#: Kinds of trials that others are compared with.
BASES = frozenset({TrialKind.BASE.value})
#: Chunks of a base that must agree before a build is taken for the same, where so many were measured.
LEAST_CHUNKS = 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two series that differ in their builds agree: ``n_bytes`` quantized tensors compared, ``n_base`` chunks of the base and
    ``n_cells`` chunks of all trials. ``fault``: what differs, or what was lacking to compare; "" where they are one."""

    n_bytes: int
    n_base: int
    n_cells: int
    fault: str = ""


def agreement(ours: Study, our_series: int, theirs: Study, their_series: int) -> Agreement:
    """Compare the canaries of two series, and every chunk of every trial that both have."""
    bytes_fault, n_bytes = _compare_bytes(canary(ours, our_series), canary(theirs, their_series))
    known = {key: number for number, key, *_ in ours.trials(our_series)}
    n_base = n_cells = 0
    fault = bytes_fault
    for number, key, label, kind, _ in theirs.trials(their_series):
        if key not in known:
            continue
        mine, other = ours.scores(known[key]), theirs.scores(number)
        common = sorted(mine.keys() & other.keys())
        n_cells += len(common)
        n_base += len(common) if kind in BASES else 0
        if odd := [c for c in common if mine[c] != other[c]]:
            fault = fault or f"the sums of trial {label!r} differ on chunk {odd[0]}"
    if not fault and n_base < LEAST_CHUNKS:
        fault = f"they share {n_base} chunks of a base, and {LEAST_CHUNKS} are needed to compare them"
    return Agreement(n_bytes, n_base, n_cells, fault)


def _compare_bytes(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[str, int]:
    common = sorted(ours.keys() & theirs.keys())
    odd = [name for name in common if ours[name] != theirs[name]]
    if odd:
        return f"the quantized bytes of {odd[0]} differ", len(common)
    return ("" if common else "no quantized tensor was hashed by both"), len(common)


def canary(study: Study, series: int) -> dict[str, str]:
    """``tensor=type`` → sha256 of the quantized bytes, as the build of a series makes them; empty where none was noted."""
    known = study.fact(CANARY + content_key("series", study.series_facts(series)))
    return {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}


def note_canary(study: Study, series: int, hashes: Mapping[str, str]) -> None:
    """Keep the hashes of quantized bytes of a series' build."""
    name = CANARY + content_key("series", study.series_facts(series))
    study.set_fact(name, {**(study.fact(name) or {}), **hashes})


def siblings(study: Study, series: int) -> tuple[int, ...]:
    """The series of other builds whose differences are pooled with those of this one."""
    groups = study.fact(POOLED)
    if not isinstance(groups, list):
        return ()
    ids = {key: number for number, key, _ in study.all_series()}
    this = {number: key for key, number in ids.items()}[series]
    return tuple(ids[key] for group in groups if this in group for key in group if key != this and key in ids)


def pool(study: Study, ours: str, theirs: str) -> None:
    """Let the differences of two series, by their keys, be compared."""
    groups: list[list[str]] = study.fact(POOLED) or []
    near = [group for group in groups if ours in group or theirs in group]
    rest = [group for group in groups if group not in near]
    joined = sorted({ours, theirs, *(key for group in near for key in group)})
    study.set_fact(POOLED, [*rest, joined])


def admit(study: Study, theirs: str, ours: str) -> None:
    """Let two series, by their keys, be one: what is measured in the first from now on is the second's."""
    study.set_fact(ADMITTED, {**(study.fact(ADMITTED) or {}), theirs: ours})


def note_build(study: Study, build: str, how: str, why: str) -> None:
    """Keep what was decided of a build: ``how`` is 'admitted' or 'pooled'."""
    known: list[dict[str, Any]] = study.fact(OTHERS) or []
    entry = {"build": build, "how": how, "why": why}
    if entry not in known:
        study.set_fact(OTHERS, [*known, entry])


def take_decisions(study: Study, other: Study) -> None:
    """What was decided in a part that was merged of parts itself holds for its rows wherever they go."""
    for theirs, ours in (other.fact(ADMITTED) or {}).items():
        admit(study, theirs, ours)
    for group in other.fact(POOLED) or []:
        for key in group[1:]:
            pool(study, group[0], key)
    for entry in other.fact(OTHERS) or []:
        note_build(study, entry["build"], entry["how"], entry["why"])


def sentences(study: Study) -> list[str]:
    """What a report says of the other builds that measured."""
    lines = []
    for entry in study.fact(OTHERS) or []:
        if entry["how"] == "admitted":
            lines.append(
                f"Part of the trials was measured by another build or processor ({entry['build']}). It is taken for the same, since "
                f"{entry['why']}, bit for bit."
            )
        else:
            lines.append(
                f"Part of the trials was measured by another build or processor ({entry['build']}) whose figures differ ({entry['why']}). "
                "Each of these trials is compared with the base that the same build measured on the same chunks; only the differences "
                "are put beside the others."
            )
    return lines


def paired(
    study: Study, series: Sequence[int], trial: str, base: str, chunks: Sequence[int]
) -> tuple[dict[int, ChunkScore], dict[int, ChunkScore]]:
    """Scores of a trial and of the base (content keys), chunk by chunk both from the first of the series that has both."""
    ours: dict[int, ChunkScore] = {}
    theirs: dict[int, ChunkScore] = {}
    asked = set(chunks)
    for number in series:
        ids = {key: trial_id for trial_id, key, *_ in study.trials(number) if key in (trial, base)}
        if trial not in ids or base not in ids:
            continue
        scores, bases = study.scores(ids[trial]), study.scores(ids[base])
        for chunk in sorted((scores.keys() & bases.keys() & asked) - ours.keys()):
            ours[chunk], theirs[chunk] = scores[chunk], bases[chunk]
    return ours, theirs
