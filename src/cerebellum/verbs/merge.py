"""`merge`: parts of a job, measured apart, become one study."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from cerebellum.errors import InputError
from cerebellum.files import make_folder
from cerebellum.progress import Progress
from cerebellum.quoting import name as quoted
from cerebellum.results.part import Merged
from cerebellum.study.merge import merge_parts, study_file
from cerebellum.study.store import Study


def merge_studies(
    out: Path, parts: Sequence[Path], *, same_build_only: bool, progress: Progress, command: Sequence[str] = ()
) -> Merged:
    """Take the measurements of ``parts`` (folders, or their databases) into the study in ``out``, made if new: all of them, or none.

    Raises `InputError` or `StudyError`, naming the part.
    """
    if out.is_file():
        raise InputError(f"{quoted(str(out))} is a file: name the study's folder, as in --out")
    target, files = study_file(out), [study_file(folder) for folder in parts]
    for folder, file in zip(parts, files, strict=True):
        if not file.exists():
            raise InputError(
                f"there is no study in {quoted(str(folder))}: a part is the folder that --shard measured into"
            )
        if target.exists() and file.samefile(target):
            raise InputError(f"{quoted(str(folder))} is the study itself: name the parts that it takes")
    is_new = not target.exists()
    make_folder(out)
    try:
        with contextlib.ExitStack() as stack:
            study = stack.enter_context(Study.open(target))
            opened = [
                (str(folder), stack.enter_context(Study.open(file, read_only=True)))
                for folder, file in zip(parts, files, strict=True)
            ]
            taken = merge_parts(study, opened, same_build_only=same_build_only)
            study.add_command(list(command))
    except BaseException:
        if is_new:  # it holds nothing
            for name in (target.name, f"{target.name}-wal", f"{target.name}-shm", f".{target.name}.lock"):
                (out / name).unlink(missing_ok=True)
        raise
    for each in taken:
        for note in each.notes:
            progress.note(f"{each.name} {note}")
    return Merged(out, taken)
