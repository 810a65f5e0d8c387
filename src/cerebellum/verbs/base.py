"""The base: the file that a recipe starts from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebellum.domain import Model
from cerebellum.errors import OutputError, TypeChoiceError
from cerebellum.gguf import model_file
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.mix import Mix, MixOptions
from cerebellum.gguf.overrides import pairs
from cerebellum.gguf.split_file import joined_bytes
from cerebellum.gguf.types import ftype_name, needs_imatrix
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Backend
from cerebellum.results import Base
from cerebellum.verbs.base_mix import EXCLUDED, excluded, from_plain, mix_of, plain, write_mix
from cerebellum.verbs.inputs import Inputs, subject_of
from cerebellum.verbs.workspace import Workspace

DEFAULT_BASE = "Q3_K_M"


def base_ftype(source: Model, asked: str | None) -> str:
    """The file type of the base: the one asked for, else a quantized source's own, else the default. Raises `TypeChoiceError`."""
    if asked is not None:
        return ftype_name(asked)
    return source.ftype if source.is_quantized and source.ftype is not None else DEFAULT_BASE


def own_base(source: Model, asked: str | None, mix: MixOptions) -> Base | None:
    """The source itself where it is quantized already to the file type of the base, and no mix makes that another file."""
    if not source.is_quantized or source.ftype is None or base_ftype(source, asked) != source.ftype:
        return None
    if mix.overrides or mix.pure:
        return None
    ftype = source.ftype
    left_out = {tensor.name: EXCLUDED for tensor in excluded(mix.exclude, source)}
    if len(source.files) > 1:  # what is written of it is one file first
        source = replace(source, file_bytes=joined_bytes(source.path))
    return Base(source, ftype, True, Mix(left_out=left_out))


def planned_types(
    backend: Backend, source: Model, imatrix: Path | None, asked: str | None, options: MixOptions
) -> Mapping[str, str]:
    """The types that the base will have, by a dry run: nothing is computed. Raises `OverrideError`, or `TypeChoiceError` where a tensor is
    to have a type that needs an importance matrix, and there is none."""
    if (itself := own_base(source, asked, options)) is not None:
        return itself.model.types
    ftype = base_ftype(source, asked)
    types = backend.types(source.path, ftype, pairs(mix_of(options, source, ftype).lines), imatrix)
    for tensor in quantizable_tensors(source) if imatrix is None else ():
        kind = types.get(tensor.name, tensor.type)
        if kind != tensor.type and needs_imatrix(kind, tensor.name, ftype):
            raise TypeChoiceError(
                f"the base {ftype} stores {tensor.name} as {kind}, which needs an importance matrix: give one (--imatrix FILE, or "
                "--imatrix auto to have it made), or another base (--base)"
            )
    return types


def prepare_base(workspace: Workspace, inputs: Inputs, asked: str | None, options: MixOptions) -> Base:
    """The base file, quantized from the source into the output folder once."""
    source, imatrix = inputs.source, inputs.imatrix
    ftype = base_ftype(source, asked)
    path, fact, mix = workspace.out / f"base-{ftype}.gguf", f"base {ftype}", mix_of(options, source, ftype)
    subject = subject_of(workspace.sha256(source.path), imatrix)
    noted = (
        [] if imatrix is None else [os.fspath(imatrix)]
    )  # in the file's header: where the matrix has moved, the header has other bytes
    key = content_key("base", [subject, ftype, workspace.backend.id, pairs(mix.lines), *noted])
    known = workspace.study.fact(fact)
    set_aside(workspace, path, known)
    known = known or {}
    if not path.exists() or (known.get("key"), known.get("sha256")) != (key, workspace.sha256(path)):
        workspace.study.set_fact(
            fact, {"key": key, "sha256": None}
        )  # being written: a file found after a kill is this study's
        workspace.progress.note(f"quantizing {source.path.name} to {ftype}")
        made = write_mix(workspace.backend, source, path, ftype, mix, imatrix)
        known = {"key": key, "sha256": workspace.sha256(path), "mix": plain(made)}
        workspace.study.set_fact(fact, known)
    return Base(model_file.read_model(path), ftype, source.is_quantized, from_plain(known["mix"]))


def set_aside(workspace: Workspace, path: Path, known: Mapping[str, Any] | None) -> None:
    """Rename what lies at ``path`` unless this study wrote it (``known`` is what it noted of it): nobody's file is overwritten.

    Raises `OutputError` where it can't be renamed.
    """
    if not path.exists() or (known is not None and known["sha256"] in (None, workspace.sha256(path))):
        return
    names = (path.with_name(f"{path.stem}.kept-{n}{path.suffix}") for n in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    try:
        path.rename(kept)
    except OSError as error:
        raise OutputError(
            f"{path} is not what this study wrote, and can't be moved out of the way: {error.strerror}; move it, or give another --out"
        ) from error
    workspace.progress.note(f"warning: {path.name} is not what this study wrote: it is kept as {kept.name}")
