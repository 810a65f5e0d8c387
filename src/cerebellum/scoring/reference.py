"""The reference's scored rows on disk: one file a chunk, written whole or not at all, in the folder its key names.

Complete rows (float32 logits) where the vocabulary is small, else ``k`` words of each row with the normalizer, half of them the most likely
ones and half drawn from the rest: a 262,144-word vocabulary then takes 2 kB a token instead of the 2 bytes × vocabulary of
llama-perplexity's format. On demand all words at 16 bits, which takes as much as that format does.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cerebellum.errors import OutputError, StudyError
from cerebellum.files import FileState, create_new, publish
from cerebellum.keys import partial_of
from cerebellum.scoring.metrics import ReferenceRows

#: Vocabularies up to this size are kept complete: exact, and at most 32 KiB a token.
COMPLETE_UP_TO = 8192
#: Words kept of a larger one's row: with the four numbers beside them 2,016 bytes a token.
DEFAULT_K = 248
#: Bits of a logit where all words are kept of a larger one.
EXACT_BITS = 16


def default_k(n_vocab: int) -> int | None:
    """None (complete rows) for small vocabularies, else `DEFAULT_K`."""
    return None if n_vocab <= COMPLETE_UP_TO else DEFAULT_K


@dataclass(frozen=True, slots=True)
class ReferenceStore:
    """A folder of reference rows. Picklable: it travels to the engine's process, the rows never do.

    ``k`` words are kept of a row, or None: all of them, at ``bits`` 32 or 16 (see `cerebellum.scoring.metrics.coded_rows`).
    ``watched``: the files that rows come of. None is kept after one of them has changed.
    """

    folder: Path
    k: int | None
    bits: int = 32
    watched: tuple[FileState, ...] = field(default=(), compare=False)

    def path(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:06d}.npz"

    def has(self, chunk: int) -> bool:
        return self.path(chunk).exists()

    def write(self, chunk: int, rows: ReferenceRows) -> None:
        """Save the rows of one chunk; all or nothing. Raises `OutputError`, or `InputError` where a watched file has changed."""
        arrays: dict[str, Any] = {
            "logits": rows.logits,
            "lse": rows.lse,
            "target_nll": rows.target_nll,
            "top": rows.top,
        }
        if rows.ids is not None:
            arrays |= {"ids": rows.ids, "drawn": np.int64(rows.drawn)}
        if rows.scale is not None:
            arrays["scale"] = rows.scale
        partial = partial_of(self.path(chunk))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with create_new(partial) as stream:
                np.savez(stream, **arrays)
            for state in self.watched:
                state.check()
            publish(partial, self.path(chunk))
        except OSError as error:
            raise OutputError(f"can't save reference rows in {self.folder}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):  # its folder may be what is wrong
                partial.unlink(missing_ok=True)

    def read(self, chunk: int) -> ReferenceRows:
        """The rows of one chunk. Raises `StudyError` where they are missing or damaged."""
        wanted = ("ids", "drawn") if self.k is not None else ("scale",) if self.bits == EXACT_BITS else ()
        logits, lse, target_nll, top, *more = self._load(chunk, ("logits", "lse", "target_nll", "top", *wanted))
        arrays = dict(zip(wanted, more, strict=True))
        drawn = int(arrays.get("drawn", 0))
        return ReferenceRows(logits, lse, target_nll, top, arrays.get("ids"), drawn, arrays.get("scale"))

    def _load(self, chunk: int, names: Sequence[str]) -> list[Any]:
        try:
            with self.path(chunk).open("rb") as stream, np.load(stream) as arrays:
                return [arrays[name] for name in names]
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
