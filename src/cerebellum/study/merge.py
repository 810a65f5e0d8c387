"""Join studies that measured parts of one job: rows are taken over, unchanged, in one transaction for all parts.

A part is refused where it is of another subject, or where its numbers can't be compared with the study's: another text, other settings,
another reference, another version of the metric. One of another build, processor or device is compared first (`cerebellum.study.builds`).
The same cell with other sums is refused: one of two machines computes wrongly. A part that was merged before changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.errors import StudyError
from cerebellum.files import STUDY_FILE
from cerebellum.quoting import name as quoted
from cerebellum.study import builds
from cerebellum.study.store import Study

#: What the facts of a series are called by people, in the order in which a difference is named. Facts beside these make a series that only
#: its own build and text can use (a noise floor, a written file).
STANDARD = {
    "tokens_sha256": "another text",
    "bos": "another first token of each chunk",
    "settings": "other settings",
    "reference": "another reference",
    "metric_version": "another version of the metric",
    "decoding_version": "another version of the decoding",
    "build": "another build",
    "subject": "another subject",
}


@dataclass(frozen=True, slots=True)
class MergedPart:
    """What a part brought: ``n_new`` rows of ``n_trials`` trials; ``n_known`` rows were there already. ``n_failed`` failures were taken.
    ``notes``: what was decided of its build."""

    name: str
    n_new: int
    n_known: int
    n_trials: int
    n_failed: int = 0
    notes: tuple[str, ...] = ()


def merge_parts(
    study: Study, parts: Sequence[tuple[str, Study]], *, same_build_only: bool = False
) -> tuple[MergedPart, ...]:
    """Take all rows of ``parts`` (name, opened read-only) into ``study``, or none. Raises `StudyError` that names the part."""
    with study.batch():
        return tuple(_Merger(study, name, other, same_build_only).merge() for name, other in parts)


class _Merger:
    """Takes one part."""

    def __init__(self, study: Study, name: str, other: Study, same_build_only: bool) -> None:
        self._study, self._name, self._part, self._same_build_only = study, name, other, same_build_only
        self._n_new = self._n_known = self._n_failed = 0
        self._trials: set[tuple[str, str]] = set()
        self._notes: list[str] = []

    def merge(self) -> MergedPart:
        self._check_subject()
        for number, _, name in self._part.all_series():
            if any(
                self._part.chunks_done(trial) or self._part.failures_of(trial)
                for trial, *_ in self._part.trials(number)
            ):
                self._take_series(number, self._target(number, name))
        self._take_facts()
        self._take_answers()
        notes = tuple(dict.fromkeys(self._notes))
        return MergedPart(self._name, self._n_new, self._n_known, len(self._trials), self._n_failed, notes)

    # -- may it be merged ------------------------------------------------------------------------------------------------

    def _check_subject(self) -> None:
        theirs, ours = self._part.fact("subject"), self._study.fact("subject")
        if not isinstance(theirs, dict) or not isinstance(theirs.get("facts"), dict):
            raise self._refused("holds nothing that was measured")
        if ours is None:
            self._study.set_fact("subject", theirs)
            return
        mine, other = ours["facts"], theirs["facts"]
        if mine.get("weights_sha256") != other.get("weights_sha256"):
            raise self._refused(
                f"is of another model, {quoted(str(theirs.get('name')))}; the study is of {quoted(str(ours['name']))}"
            )
        if mine != other:
            raise self._refused(
                f"was measured with {_imatrix(other)}, the study with {_imatrix(mine)}: make one file and give it to every part (--imatrix)"
            )

    def _target(self, number: int, name: str) -> int:
        """The study's series that a series of the part belongs to."""
        facts = self._part.series_facts(number)
        if facts.keys() != STANDARD.keys():
            return self._study.series(name, facts)
        known = [n for n, _, series in self._study.all_series() if series == name and self._is_used(n)]
        others = {n: theirs for n in known if (theirs := self._study.series_facts(n)).keys() == STANDARD.keys()}
        if facts in others.values() or not others:
            return self._study.series(name, facts)
        different = {n: [key for key in STANDARD if theirs[key] != facts[key]] for n, theirs in others.items()}
        nearest = min(different, key=lambda n: (len(different[n]), n))
        if different[nearest] != ["build"]:
            told = [_told(key, facts[key], others[nearest][key]) for key in different[nearest] if key != "build"]
            raise self._refused(
                f"was measured with {', '.join(told)}, so its {name} figures can't be compared with the study's"
            )
        return self._of_other_build(number, nearest, name, facts, others[nearest]["build"])

    def _is_used(self, series: int) -> bool:
        return any(self._study.chunks_done(trial) for trial, *_ in self._study.trials(series))

    def _of_other_build(self, number: int, nearest: int, name: str, facts: Mapping[str, Any], ours: str) -> int:
        """The study's own series where the two builds agree bit for bit, else one beside it."""
        theirs = str(facts["build"])
        told = f"was measured by another build, processor or device ({theirs}; the study by {ours})"
        if self._same_build_only:
            raise self._refused(f"{told}, and --same-build-only allows none")
        key_ours, key_theirs = self._key(self._study, nearest), self._key(self._part, number)
        compared = builds.agreement(self._study, nearest, self._part, number)
        if not compared.fault:
            why = f"{compared.n_bytes} quantized tensors and {compared.n_cells} sums of chunks that both measured are equal"
            builds.admit(self._study, key_theirs, key_ours)
            builds.note_build(self._study, theirs, "admitted", why)
            self._notes.append(f"{told}; {why}, bit for bit: taken for the same")
            return nearest
        self._check_pairs(number, told, compared.fault)
        target = self._study.series(name, facts)
        builds.pool(self._study, key_ours, key_theirs)
        builds.note_build(self._study, theirs, "pooled", compared.fault)
        self._notes.append(f"{told}; {compared.fault}: its trials are compared with its own base alone")
        return target

    @staticmethod
    def _key(study: Study, series: int) -> str:
        return next(key for number, key, _ in study.all_series() if number == series)

    def _check_pairs(self, number: int, told: str, fault: str) -> None:
        """Its trials can be compared with a base of the same build. Raises `StudyError`."""
        rows = self._part.trials(number)
        based: set[int] = set().union(*(self._part.chunks_done(t) for t, _, _, kind, _ in rows if kind in builds.BASES))
        for trial, _, label, kind, _ in rows:
            if kind not in builds.BASES and (bare := self._part.chunks_done(trial) - based):
                raise self._refused(
                    f"{told}, {fault}, and trial {quoted(label)}, chunk {min(bare)}, has no base of the same build to be compared with"
                )

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _take_series(self, number: int, target: int) -> None:
        for trial, key, label, kind, swaps in self._part.trials(number):
            trial_id = self._study.add_trial(target, key, label, kind, swaps)
            self._take_scores(trial, trial_id, label)
            known = {(at, reason) for at, reason, _ in self._study.failures_of(trial_id)}
            for at, reason, in_force in self._part.failures_of(trial):
                if in_force and (at, reason) not in known:
                    self._study.add_failure(trial_id, reason, at)
                    self._n_failed += 1

    def _take_scores(self, trial: int, trial_id: int, label: str) -> None:
        scores, known = self._part.scores(trial), self._study.scores(trial_id)
        for chunk, score in scores.items():
            if chunk not in known:
                self._study.add_score(trial_id, score)
                self._n_new += 1
                self._trials.add((self._name, label))
            elif known[chunk] == score:
                self._n_known += 1
            else:
                raise self._refused(
                    f"has other sums for trial {quoted(label)}, chunk {chunk}, than the study, though all that they depend on is the "
                    "same: one of the two machines computes wrongly, or a file was altered. Measure that trial again on both"
                )

    def _take_facts(self) -> None:
        """What was computed of the weights, and the canaries: their names say all that they depend on."""
        for beginning in ("weight errors of ", builds.CANARY):
            for name, value in self._part.facts_like(beginning).items():
                known = self._study.fact(name)
                if known is None:
                    self._study.set_fact(name, value)
                elif isinstance(known, dict) and isinstance(value, dict) and not isinstance(value.get("errors"), dict):
                    self._study.set_fact(name, {**value, **known})
        builds.take_decisions(self._study, self._part)

    def _take_answers(self) -> None:
        for file in self._part.answered_files():
            known = self._study.answers(file)
            for request, reply in self._part.answers(file).items():
                if known.get(request, reply) != reply:
                    raise self._refused(f"has another reply to the request {request[:24]} than the study")
                self._study.add_answer(file, request, reply)

    def _refused(self, why: str) -> StudyError:
        return StudyError(f"{quoted(self._name)} {why}. Nothing was merged")


def _imatrix(subject: Mapping[str, Any]) -> str:
    sha256 = subject.get("imatrix_sha256")
    return f"the importance matrix {str(sha256)[:12]}…" if sha256 else "no importance matrix"


def _told(key: str, theirs: Any, ours: Any) -> str:
    """A difference in words."""
    if key == "settings" and isinstance(theirs, dict) and isinstance(ours, dict):
        return ", ".join(
            f"{name} {theirs[name]} (the study: {ours.get(name)})" for name in theirs if theirs[name] != ours.get(name)
        )
    if key in ("metric_version", "decoding_version"):
        return f"{STANDARD[key]}, {theirs} (the study: {ours})"
    return STANDARD[key]


def study_file(path: Path) -> Path:
    """The database of a study's folder, or the file itself."""
    return path if path.is_file() else path / STUDY_FILE
