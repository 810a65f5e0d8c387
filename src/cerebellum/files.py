"""Folders and text files of a run, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cerebellum.errors import OutputError
from cerebellum.keys import partial_of, stem_of


def make_folder(out: Path) -> None:
    """The output folder, made if missing. Raises `OutputError` where it can't be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{out} is a file" if out.is_file() else f"can't make the output folder {out}: {error.strerror or error}"
        raise OutputError(f"{why}; give another folder with --out") from error
    if not os.access(out, os.W_OK):
        raise OutputError(f"can't write in the output folder {out}: permission denied")


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not at all. Raises `OutputError`."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be what is wrong
            partial.unlink(missing_ok=True)
        raise OutputError(f"can't write {path}: {error.strerror or error}") from error


def companions(path: Path) -> tuple[Path, Path]:
    """The override file and the model card of a written GGUF."""
    return path.with_name(f"{stem_of(path)}.overrides.txt"), path.with_name(f"{stem_of(path)}.card.md")
