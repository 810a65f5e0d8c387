"""A written model as several files: what is to be split is split under hidden names, so that what is proven is the very set that stays."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebellum.allocation.sizes import parse_bytes
from cerebellum.domain import Model
from cerebellum.errors import InputError, ModelFileError, OutputError
from cerebellum.files import publish_set, refuse_input
from cerebellum.gguf import model_file
from cerebellum.gguf.split_file import SplitLimit, write_set
from cerebellum.gguf.split_set import SplitName
from cerebellum.keys import stem_of
from cerebellum.quoting import printable, shell_file


def split_limit(max_size: str | int | None, max_tensors: int | None) -> SplitLimit | None:
    """What ``--split-max-size`` and ``--split-max-tensors`` ask for; None: one file. Raises `InputError` for both, or nonsense."""
    if max_size is not None and max_tensors is not None:
        raise InputError("give one of --split-max-size and --split-max-tensors")
    if max_size is not None:
        return SplitLimit(max_bytes=parse_bytes(max_size, "--split-max-size"))
    if max_tensors is not None and max_tensors < 1:
        raise InputError(f"split_max_tensors (--split-max-tensors) is {max_tensors}; it must be at least 1")
    return None if max_tensors is None else SplitLimit(max_tensors=max_tensors)


def _hidden(out: Path) -> Path:
    return out.with_name(f".{stem_of(out)}.unproven.gguf")


@contextlib.contextmanager
def unproven(out: Path) -> Iterator[Path]:
    """The hidden name under which the model ``out`` is made; whatever is left under it is removed in the end."""
    path = _hidden(out)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            for file in (path, *_sets(path)):
                file.unlink(missing_ok=True)


def split(path: Path, limit: SplitLimit | None) -> Path:
    """The file at ``path`` as the set that it is to be, of which the first file is returned; ``path`` where one file holds all.

    Raises `OutputError`.
    """
    if limit is None or not (paths := write_set(path, path, limit)):
        return path
    path.unlink()
    return paths[0]


def publish_model(first: Path, out: Path) -> Path:
    """Give the model whose first file is ``first`` the name ``out``, or what the files of a set are called then; its first file.

    Raises `OutputError`.
    """
    files = model_file.model_files(first)
    names = (out.name,) if len(files) == 1 else SplitName(stem_of(out), 1, len(files)).all()
    try:
        publish_set([(file, out.with_name(name)) for file, name in zip(files, names, strict=True)])
    except OSError as error:
        raise OutputError(f"can't write {out}: {error.strerror or error}") from error
    return out.with_name(names[0])


def refuse_output(out: Path, inputs: Iterable[Path | None], force: bool, limit: SplitLimit | None = None) -> None:
    """Raises `OutputError` where ``out`` can't be the file to write: a folder, a file of one of ``inputs``, a file (or a file of the set
    that it would be) that exists and not ``force``."""
    if out.is_dir():
        raise OutputError(f"{out} is a folder; name the file to write")
    _refuse((out, *(_sets(out) if limit else ())), inputs, force)


def _refuse(outputs: Sequence[Path], inputs: Iterable[Path | None], force: bool) -> None:
    read = [file for path in inputs if path is not None and path.exists() for file in _files(path)]
    for path in outputs:
        refuse_input(path, read)
        refuse_input(_hidden(path), read)
        if path.exists() and not force:
            raise OutputError(f"{path} exists; --force replaces it")


def _files(path: Path) -> tuple[Path, ...]:
    """All files of a model, be it a set; of anything else the one."""
    try:
        return model_file.model_files(path)
    except ModelFileError:
        return (path,)


def _sets(out: Path) -> list[Path]:
    """Files of any set called as ``out``."""
    pattern = f"{glob.escape(stem_of(out))}-?????-of-?????.gguf"
    return sorted(path for path in out.parent.glob(pattern) if SplitName.parse(path.name))


@dataclass(frozen=True, slots=True)
class SplitModel:
    """The files that a model was split into. ``sizes``: bytes of each; ``sha256``: of all, one after the other."""

    model: Model
    sizes: tuple[int, ...]
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        files = [{"file": p.name, "bytes": n} for p, n in zip(self.model.files, self.sizes, strict=True)]
        return {"path": str(self.model.path), "files": files, "bytes": self.model.file_bytes, "sha256": self.sha256}

    def summary(self, limit: SplitLimit) -> str:
        """A few lines for people; a file that is larger than asked for is told."""
        n = len(self.sizes)
        lines = [
            f"{self.model.path}: {n} {'file' if n == 1 else 'files'}, {self.model.file_bytes:,} bytes together, "
            f"sha256 {self.sha256[:16]}… of all in a row"
        ]
        for path, n_bytes in zip(self.model.files, self.sizes, strict=True):
            most = limit.max_bytes
            over = (
                ": more than asked for (the limit counts tensors, and none is cut)" if most and n_bytes > most else ""
            )
            lines.append(f"  {path.name}  {n_bytes:,} bytes{over}")
        lines.append(f"Next: llama-cli -m {shell_file(str(self.model.files[0]))}, with all files in one folder.")
        return "\n".join(map(printable, lines))


def split_model(model: Path, out: Path, limit: SplitLimit, force: bool = False) -> SplitModel:
    """Write ``model`` (in one file or several) as a set called ``out``, as `llama-gguf-split` does.

    Raises `ModelFileError`, `InputError` (one file holds all) or `OutputError`.
    """
    source = model_file.read_model(model)
    _refuse(_sets(out), (model,), force)
    paths = write_set(model, out, limit)
    if not paths:
        raise InputError(
            f"{source.path.name} has {source.file_bytes:,} bytes and fits into one file of that limit: nothing to split"
        )
    written = model_file.read_model(paths[0])
    return SplitModel(written, tuple(path.stat().st_size for path in paths), model_file.sha256_model(paths[0]))
