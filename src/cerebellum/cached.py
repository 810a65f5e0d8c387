"""Where a machine keeps what takes seconds to make and is the same each time: compiled loops, the charts' JavaScript."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_folder(name: str, here: Path, chosen: str = "") -> Path | None:
    """The folder ``name``, made if need be: in ``chosen`` where the user has said so, else in ``__pycache__`` of the package's folder
    ``here``, else in the user's cache. None where none can be written."""
    folders = (base / name for base in _bases(here, chosen))
    return next((folder for folder in folders if _can_write(folder)), None)


def _bases(here: Path, chosen: str) -> Iterator[Path]:
    if chosen:
        yield Path(chosen)
        return
    yield here / "__pycache__"
    if cache := os.environ.get("XDG_CACHE_HOME"):
        yield Path(cache) / "cerebellum"
    elif (home := Path("~").expanduser()).is_absolute():
        yield home / ".cache" / "cerebellum"


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
