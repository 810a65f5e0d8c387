"""Hashes of files, remembered in the study."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cerebellum.files import FileState, check_unchanged
from cerebellum.gguf.model_file import model_files
from cerebellum.gguf.split_set import SplitName
from cerebellum.keys import sha256_file
from cerebellum.study.store import Study

#: A file that changed so shortly before it was hashed may change again under the same time: its hash isn't remembered. Nanoseconds.
UNSETTLED_NS = 2_000_000_000


def cached_sha256(study: Study, path: Path) -> str:
    """The file's sha256 (of a model in several files that of all, `model_file.sha256_model`), computed anew only when a file or its state
    is another one.

    The study watches the files from now on: it takes no measurement after one has changed. Raises `InputError` where one can't be
    read, or changes while it is read.
    """
    return _cached(study, f"sha256 of {path.resolve()}", model_files(path))


def cached_file_sha256(study: Study, path: Path) -> str:
    """As `cached_sha256`, of this one file, though it is one of a set's."""
    if SplitName.parse(path.name) is None:
        return cached_sha256(study, path)
    return _cached(study, f"sha256 of the file {path.resolve()}", (path,))


def _cached(study: Study, name: str, files: Sequence[Path]) -> str:
    states = [FileState.of(file) for file in files]
    mark = [x for state in states for x in _mark(state)]
    known = study.fact(name)
    if not isinstance(known, dict) or known.get("mark") != mark or not isinstance(known.get("sha256"), str):
        is_settled = time.time_ns() - max(state.changed_ns for state in states) > UNSETTLED_NS
        known = {"mark": mark if is_settled else None, "sha256": sha256_file(*(state.path for state in states))}
        check_unchanged(states)
        study.set_fact(name, known)
    for state in states:
        study.watch(state)
    return str(known["sha256"])


def _mark(state: FileState) -> list[str | int]:
    path = str(state.path.resolve())
    return [path, state.device, state.inode, state.n_bytes, state.modified_ns, state.changed_ns]
