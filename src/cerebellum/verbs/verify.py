"""Check what a file says of itself: its hashes, and a rebuild from its source."""

from __future__ import annotations

import enum
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cerebellum.domain import Model, tensor_types_of
from cerebellum.errors import OverrideError, TypeChoiceError
from cerebellum.gguf import model_file
from cerebellum.gguf.compare import TensorDifference, tensor_differences
from cerebellum.gguf.overrides import pairs, pin
from cerebellum.gguf.stamp import DIGITS, PREFIX, changed_tensors, tensor_digests, tensors_key
from cerebellum.gguf.types import FTYPES, TYPES, needs_imatrix
from cerebellum.keys import sha256_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.quoting import name
from cerebellum.recipes.recipe import Recipe
from cerebellum.verbs.provenance import BASE, BUILD, DIGESTS, IMATRIX, RECIPE, SOURCE, TENSORS
from cerebellum.verbs.recipe_study import read_report

#: What another build's rounding does at most: bytes that differ in a tensor, as a share, and change of its weights, as a share. About 0.2 %
#: of bytes were reported between two compilers on two processors.
ROUNDED_BYTES, ROUNDED_WEIGHTS = 0.02, 0.02
#: Where llama-quantize notes the importance matrix that it took.
IMATRIX_FILE = "quantize.imatrix.file"
#: What tells of a file that says nothing of itself.
ADVICE = "--source MODEL makes it again and compares, --study DIR looks at what a run wrote"


class State(enum.StrEnum):
    """*failed* ends with an error; *open* means that it could not be told."""

    OK = "ok"
    FAILED = "failed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One question about a file and its answer; ``more`` is what the answer rests on."""

    what: str
    state: State
    message: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """``carried``: the file's keys of ours. ``tensors``: the hash over its tensors as they are now."""

    model: Model
    sha256: str
    tensors: str
    carried: Mapping[str, Any]
    checks: tuple[FileCheck, ...]

    @property
    def failed(self) -> tuple[FileCheck, ...]:
        return tuple(c for c in self.checks if c.state is State.FAILED)


def verify_file(
    backend: Backend,
    path: Path,
    source: Path | None = None,
    study: Path | None = None,
    imatrix: Path | None = None,
    base: str | None = None,
) -> Verified:
    """Check what can be checked: the tensors against the hashes carried along, the study's record, a rebuild from ``source``.

    ``base``: the mix to rebuild on, where the file doesn't say. Raises `ModelFileError` (a truncated file, say) or `InputError`.
    """
    model = model_file.read_model(path)
    carried = {key: value for key, value in model.metadata.items() if key.startswith(PREFIX)}
    digests = tensor_digests(path)
    sha256 = model_file.sha256_model(path)
    checks = [_tensors(digests, carried)]
    if checks[0].state is State.OPEN and source is None and study is None:
        checks[0] = replace(checks[0], message=f"{checks[0].message}; {ADVICE}")
    if study is not None:
        checks.append(_study(path, sha256, checks[0], study))
    if source is not None:
        checks += _source(backend, model, source, carried, imatrix, base)
    return Verified(model, sha256, tensors_key(digests), carried, tuple(checks))


def _tensors(digests: Mapping[str, str], carried: Mapping[str, Any]) -> FileCheck:
    what = "tensors"
    if not carried:
        return FileCheck(
            what, State.OPEN, "the file carries no keys of cerebellum, so nothing says what its tensors were"
        )
    known, parts = carried.get(TENSORS), carried.get(DIGESTS)
    if not isinstance(known, str) or not isinstance(parts, str):
        return FileCheck(what, State.OPEN, "the file carries no hash of its tensors")
    if tensors_key(digests) == known:
        return FileCheck(what, State.OK, "every tensor's name, shape, type and bytes are as its hashes say")
    changed = changed_tensors(digests, parts)
    listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    if len(digests) != (n := len(parts) // DIGITS):
        listed = f"it has {len(digests)} tensors, the hashes are of {n}" + (f"; {listed}" if listed else "")
    return FileCheck(what, State.FAILED, f"changed since the file was written: {listed or 'the hash itself'}")


def _study(path: Path, sha256: str, tensors: FileCheck, folder: Path) -> FileCheck:
    """The study's record of what it wrote."""
    written = read_report(folder)["written"]["sha256"]
    if written == sha256:
        return FileCheck("study", State.OK, f"this is the very file that {folder} wrote and measured")
    if tensors.state is State.OK:
        why = "metadata was edited, another study wrote it, or its hashes were changed too"
        return FileCheck("study", State.OPEN, f"not the file of {folder} byte for byte, yet as its hashes say: {why}")
    return FileCheck(
        "study", State.FAILED, f"{path.name} is not the file that {folder} wrote (sha256 {str(written)[:16]}…)"
    )


def _source(
    backend: Backend, model: Model, source: Path, carried: Mapping[str, Any], imatrix: Path | None, base: str | None
) -> list[FileCheck]:
    known, digests = carried.get(SOURCE), tensor_digests(source)
    named = isinstance(known, str)
    if named and tensors_key(digests) != known:
        return [
            FileCheck("source", State.FAILED, f"{source.name} is not the source: the file was made from other weights")
        ]
    checks = [FileCheck("source", State.OK, f"made from the weights of {source.name}, it says")] if named else []
    if why := _not_rebuilt(model, carried, imatrix):
        return [*checks, FileCheck("rebuild", State.OPEN, why)]
    base = base or _text(carried.get(BASE)) or model.ftype or ""
    if not model.is_quantized:
        same = tensor_digests(model.path) == digests
        text = f"not quantized: its tensors are {'the very ones' if same else 'not those'} of {source.name}"
        return [*checks, FileCheck("rebuild", State.OK if same else State.OPEN, text)]
    if base not in FTYPES or not TYPES[FTYPES[base][1]].quantized:
        return [*checks, FileCheck("rebuild", State.OPEN, "the file doesn't say its base mix: give it with --base")]
    return [*checks, *_rebuilt(backend, model, source, base, imatrix, carried)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _not_rebuilt(model: Model, carried: Mapping[str, Any], imatrix: Path | None) -> str:
    """What lacks for a rebuild: the importance matrix, by our key, by llama.cpp's, or by types that need it; empty if nothing."""
    needed = _text(carried.get(IMATRIX))
    if needed and (imatrix is None or sha256_file(imatrix) != needed):
        why = "give it with --imatrix" if imatrix is None else f"{imatrix.name} is another one"
        return f"the file was made with an importance matrix: {why}"
    if imatrix is not None:
        return ""
    if named := _text(model.metadata.get(IMATRIX_FILE)):
        return f"the file was made with the importance matrix {name(named)}: give it with --imatrix"
    if needy := next((n for n, k in model.types.items() if needs_imatrix(k, n)), None):
        return f"{name(needy)} is {model.types[needy]}, which takes an importance matrix: give it with --imatrix"
    return ""


def _rebuilt(
    backend: Backend, model: Model, source: Path, base: str, imatrix: Path | None, carried: Mapping[str, Any]
) -> list[FileCheck]:
    """Make the file again and compare tensor by tensor; the recipe that it names, where that can be told."""
    room = model.path.parent if os.access(model.path.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=room) as folder:
        again = Path(folder) / "rebuilt.gguf"
        try:
            stock = dict(backend.types(source, base, (), imatrix))
            if set(stock) != set(model.types):
                return [FileCheck("rebuild", State.FAILED, f"{source.name} has other tensors than {model.path.name}")]
            differing = {n: k for n, k in model.types.items() if stock[n] != k}
            lines = pin(tensor_types_of(differing), stock, lambda o: backend.types(source, base, o, imatrix), model)
            backend.quantize(source, again, base, pairs(lines), imatrix)
        except (OverrideError, TypeChoiceError) as error:
            return [FileCheck("rebuild", State.FAILED, f"llama.cpp can't make it from {source.name}: {error}")]
        check = judge_rebuild(list(tensor_differences(model.path, again)), model, carried.get(BUILD), backend.id)
    return [check, *_recipe(Recipe(base, differing), carried, backend.id)]


def _recipe(recipe: Recipe, carried: Mapping[str, Any], ours: str) -> list[FileCheck]:
    """A named recipe that isn't the one of these types on this base. Another build's mix may differ, so nothing is said of its files."""
    named = carried.get(RECIPE)
    if named is None or named == recipe.key or carried.get(BUILD) != ours or carried.get(BASE) != recipe.base:
        return []
    text = f"its types on the base {recipe.base} are {recipe.key}, not the recipe that it names: its keys were changed"
    return [FileCheck("recipe", State.FAILED, text)]


def judge_rebuild(differences: list[TensorDifference], model: Model, build: Any, ours: str) -> FileCheck:
    """Equal, another build's rounding, or neither. ``build``: what the file claims; ``ours``: what made it again."""
    what = "rebuild"
    if not differences:
        return FileCheck(
            what, State.OK, f"made again from the source, all {len(model.tensors)} tensors byte for byte, by {ours}"
        )
    worst = max(differences, key=lambda d: (d.change, d.n_differing / d.n_bytes))
    n, where = (
        sum(d.n_differing for d in differences),
        f"{len(differences)} tensor{'s' if len(differences) > 1 else ''}",
    )
    size = f"{n:,} of {model.tensor_bytes:,} bytes in {where} differ from a rebuild"
    if build == ours:
        return FileCheck(
            what, State.FAILED, f"{size} by the same build, {worst.tensor} the most: these are other tensors"
        )
    unnamed = (
        ""
        if build
        else ". The file doesn't say how it was made: perhaps from another source, or with another importance matrix"
    )
    small = all(d.n_differing <= ROUNDED_BYTES * d.n_bytes and d.change <= ROUNDED_WEIGHTS for d in differences)
    if small:
        claimed = f"the file claims {build}" if build else "the file names no build"
        return FileCheck(
            what, State.OPEN, f"{size}, weights by at most {worst.change:.2%}: as much as another build's rounding makes",
            f"{claimed}, here is {ours}. A change as small as that can't be told from rounding without the build",
        )  # fmt: skip
    return FileCheck(
        what, State.FAILED,
        f"{size}, more than another build's rounding: {worst.tensor} by {worst.n_differing:,} bytes{unnamed}",
    )  # fmt: skip
