"""Hashes of files, remembered in the study."""

from __future__ import annotations

from pathlib import Path

from cerebellum.keys import sha256_file
from cerebellum.study.store import Study


def cached_sha256(study: Study, path: Path) -> str:
    """The file's sha256, computed anew only when its size or time has changed."""
    state = path.stat()
    mark = [str(path.resolve()), state.st_size, state.st_mtime_ns]
    name = f"sha256 of {path.resolve()}"
    known = study.fact(name)
    if known is None or known["mark"] != mark:
        known = {"mark": mark, "sha256": sha256_file(path)}
        study.set_fact(name, known)
    return str(known["sha256"])
