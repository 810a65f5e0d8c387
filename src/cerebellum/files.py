"""Folders and files of a run, written whole or not at all, and files that are read, watched while they are used.

What is written gets a hidden name first. That name can be guessed, so it is always created anew and no link is followed: what lies there
is removed, be it what a killed run left or a link that somebody put there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from cerebellum.errors import InputError, OutputError
from cerebellum.keys import partial_of, stem_of

#: Of every measurement, in the output folder.
STUDY_FILE = "study.sqlite"


def make_folder(out: Path) -> None:
    """The output folder, made if missing. Raises `OutputError` where it can't be written."""
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"can't make the output folder {out}: {error.strerror or error}; give another folder with --out"
        ) from error
    if not os.access(out, os.W_OK):
        raise OutputError(f"can't write in the output folder {out}: permission denied")


def check_folder(out: Path) -> None:
    """Raises `OutputError` where ``out``, or what it would lie in, is a file. Nothing is made."""
    with contextlib.suppress(OSError):
        if wrong := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
            raise OutputError(f"{wrong} is a file, no folder; give another folder with --out")


#: Tries to create a file whose name somebody else takes again and again.
_TRIES = 8


def create_new(path: Path) -> BinaryIO:
    """A new file at ``path``, opened for writing. What lies there is removed, never written through. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    for _ in range(_TRIES):
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            return os.fdopen(os.open(path, flags, 0o666), "wb")
    raise FileExistsError(f"somebody else keeps making {path}")


def publish(partial: Path, path: Path) -> None:
    """Give a file that is written its name, after its bytes are on the disk. Raises `OSError`, also where ``partial`` is a link."""
    _sync(partial)
    partial.replace(path)


def _sync(partial: Path) -> None:
    descriptor = os.open(partial, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_set(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Give files (written, name) that are of use only together their names: the first last, for it is the one that is opened. None has its
    name where one can't. Raises `OSError`."""
    for partial, _ in pairs:
        _sync(partial)
    done: list[Path] = []
    try:
        for partial, path in reversed(pairs):
            partial.replace(path)
            done.append(path)
    except OSError:
        for path in done:
            path.unlink(missing_ok=True)
        raise


#: What verbs write into an output folder, beside hidden files: a measurement, answers to questions, a job.
STUDY_FILES = ("study.sqlite*",)
COMPARE_FILES = (*STUDY_FILES, "report.html", "report.md", "report.json", "compare.svg")
BENCH_FILES = (*STUDY_FILES, "bench.json", "bench/*.jsonl")
REPORT_FILES = (
    "report.html", "report.md", "report.json", "sensitivity.json", "*.svg", "*.png", "*.overrides.txt", "*.card.md", "README.md",
    "sweep.html", "sweep.md", "sweep.json", "sweep.csv", "tensors.csv",
)  # fmt: skip
JOB_FILES = (*BENCH_FILES, *REPORT_FILES, "base-*.gguf", "*-cerebellum.gguf", "*-cerebellum-*.gguf")


def refuse_input(out: Path, inputs: Iterable[Path | None]) -> None:
    """No verb writes onto what it reads, forced or not: raises `OutputError` where ``out`` is one of ``inputs`` by whatever name, a link
    of either kind included, or where the hidden name that it is written under first is one. Of a model in several files all are read."""
    for path in _whole_sets(inputs):
        if same_file(out, path) or same_file(partial_of(out), path):
            raise OutputError(f"{out} is {path}, which this command reads; name another file to write")


def refuse_inputs_in(folder: Path, inputs: Iterable[Path | None], names: Iterable[str]) -> None:
    """The same for an output folder: no input lies there under a name that is written, one that matches a pattern of ``names``."""
    if not folder.is_dir():
        return
    given = _whole_sets(inputs)
    for out in [path for pattern in names for path in folder.glob(pattern)]:
        for path in given:
            if same_file(out, path):
                raise OutputError(
                    f"{path} is {out.name} in the output folder {folder}, a name that this command writes; give another --out"
                )


def _whole_sets(inputs: Iterable[Path | None]) -> list[Path]:
    """The inputs, and of each that is one of a model's several files the others too, as far as they are there."""
    paths = [path for path in inputs if path is not None]
    for path in paths.copy():
        if (stem := stem_of(path)) not in (path.name, path.stem):
            with contextlib.suppress(OSError):
                paths += [
                    p for p in path.parent.glob(f"*{path.name[-_OF:]}") if stem_of(p) == stem and p.name != path.name
                ]
    return paths


#: Letters of the end of a file's name that all files of a model in several have: ``-of-00003.gguf``.
_OF = len("-of-00003.gguf")


def same_file(one: Path, other: Path) -> bool:
    """Whether two names lead to one file that is there."""
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


@dataclass(frozen=True, slots=True)
class FileState:
    """Which file lies at a path, and in which state: a copy put in its place differs in ``inode``, a write in ``changed_ns``, whatever
    size and time of modification they keep. Times in ns."""

    path: Path
    device: int
    inode: int
    n_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The state of a file now. Raises `InputError`."""
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"can't read {path}: {error.strerror or error}") from error
        return cls(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)

    def check(self) -> None:
        """Raises `InputError` where another file lies there now, or the file was written to since."""
        try:
            same = FileState.of(self.path) == self
        except InputError:
            same = False
        if not same:
            raise InputError(
                f"{self.path} changed while it was used: another file was put in its place, or it was written to. What was measured before "
                "is kept, nothing of the changed file is; leave the file as it is and run the same command again"
            )


def check_unchanged(states: Iterable[FileState]) -> None:
    """Raises `InputError` where one of the files changed."""
    for state in states:
        state.check()


def write_text(path: Path, text: str) -> None:
    """A small text file, whole or not at all. Raises `OutputError`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """A small file, whole or not at all. Raises `OutputError`."""
    partial = partial_of(path)
    try:
        with create_new(partial) as stream:
            stream.write(content)
        publish(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be what is wrong
            partial.unlink(missing_ok=True)
        raise OutputError(f"can't write {path}: {error.strerror or error}") from error


def companions(path: Path) -> tuple[Path, Path]:
    """The override file and the model card of a written GGUF."""
    return path.with_name(f"{stem_of(path)}.overrides.txt"), path.with_name(f"{stem_of(path)}.card.md")
