"""Hashes of files, remembered in the study."""

from __future__ import annotations

import time
from pathlib import Path

from cerebellum.files import FileState
from cerebellum.keys import sha256_file
from cerebellum.study.store import Study

#: A file that changed so shortly before it was hashed may change again under the same time: its hash isn't remembered. Nanoseconds.
UNSETTLED_NS = 2_000_000_000


def cached_sha256(study: Study, path: Path) -> str:
    """The file's sha256, computed anew only when the file or its state is another one.

    The study watches the file from now on: it takes no measurement after the file has changed. Raises `InputError` where it can't be
    read, or changes while it is read.
    """
    state = FileState.of(path)
    mark = [
        str(path.resolve()), state.device, state.inode, state.n_bytes, state.modified_ns, state.changed_ns
    ]  # fmt: skip
    name = f"sha256 of {path.resolve()}"
    known = study.fact(name)
    if not isinstance(known, dict) or known.get("mark") != mark or not isinstance(known.get("sha256"), str):
        is_settled = time.time_ns() - state.changed_ns > UNSETTLED_NS
        known = {"mark": mark if is_settled else None, "sha256": sha256_file(path)}
        state.check()
        study.set_fact(name, known)
    study.watch(state)
    return str(known["sha256"])
