"""The reference's scored rows on disk: one file a chunk, written whole or not at all, in the folder its key names.

Complete rows (float32 logits) where the vocabulary is small, else the ``k`` largest logits of each row with the normalizer: a
262,144-word vocabulary then takes 8 bytes × k a token instead of the 2 bytes × vocabulary of llama-perplexity's format.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum.errors import OutputError, StudyError
from cerebellum.keys import partial_of
from cerebellum.scoring.metrics import ReferenceRows

#: Vocabularies up to this size are kept complete: exact, and at most 32 KiB a token.
COMPLETE_UP_TO = 8192
DEFAULT_K = 256


def default_k(n_vocab: int) -> int | None:
    """None (complete rows) for small vocabularies, else `DEFAULT_K`."""
    return None if n_vocab <= COMPLETE_UP_TO else DEFAULT_K


@dataclass(frozen=True, slots=True)
class ReferenceStore:
    """A folder of reference rows. Picklable: it travels to the engine's process, the rows never do."""

    folder: Path
    k: int | None

    def path(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:06d}.npz"

    def has(self, chunk: int) -> bool:
        return self.path(chunk).exists()

    def write(self, chunk: int, rows: ReferenceRows) -> None:
        """Save the rows of one chunk; all or nothing. Raises `OutputError`."""
        arrays: dict[str, Any] = {
            "logits": rows.logits,
            "lse": rows.lse,
            "target_nll": rows.target_nll,
            "top": rows.top,
        }
        if rows.ids is not None:
            arrays["ids"] = rows.ids
        partial = partial_of(self.path(chunk))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                np.savez(stream, **arrays)
            partial.replace(self.path(chunk))
        except OSError as error:
            with contextlib.suppress(OSError):  # its folder may be what is wrong
                partial.unlink(missing_ok=True)
            raise OutputError(f"can't save reference rows in {self.folder}: {error.strerror or error}") from error

    def read(self, chunk: int) -> ReferenceRows:
        """The rows of one chunk. Raises `StudyError` where they are missing or damaged."""
        logits, lse, target_nll, top, *ids = self._load(chunk, ("logits", "lse", "target_nll", "top"), ("ids",))
        return ReferenceRows(logits, lse, target_nll, top, ids[0] if ids else None)

    def _load(self, chunk: int, names: Sequence[str], optional: Sequence[str] = ()) -> list[Any]:
        try:
            with self.path(chunk).open("rb") as stream, np.load(stream) as found:
                return [found[name] for name in (*names, *(name for name in optional if name in found.files))]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StudyError(
                f"reference rows {self.path(chunk)} can't be read ({error}); delete the file and run again"
            ) from error

    def nll(self, chunk: int) -> tuple[float, int]:
        """The reference's own (NLL sum in nats, scored tokens) on a chunk. Raises `StudyError` as `read` does."""
        target_nll = self._load(chunk, ("target_nll",))[0]
        return float(target_nll.sum()), len(target_nll)

    @property
    def n_bytes(self) -> int:
        """Bytes on disk so far."""
        return sum(path.stat().st_size for path in self.folder.glob("chunk-*.npz"))
