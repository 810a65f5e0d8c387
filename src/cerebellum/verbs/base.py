"""The base: the file that a recipe starts from."""

from __future__ import annotations

from cerebellum.domain import Model
from cerebellum.gguf import model_file
from cerebellum.gguf.types import ftype_name
from cerebellum.keys import content_key
from cerebellum.results import Base
from cerebellum.verbs.inputs import Inputs, subject_of
from cerebellum.verbs.workspace import Workspace

DEFAULT_BASE = "Q3_K_M"


def base_ftype(source: Model, asked: str | None) -> str:
    """The file type of the base: the one asked for, else a quantized source's own, else the default. Raises `TypeChoiceError`."""
    if asked is not None:
        return ftype_name(asked)
    return source.ftype if source.is_quantized and source.ftype is not None else DEFAULT_BASE


def own_base(inputs: Inputs, asked: str | None) -> Base | None:
    """The source itself where it is quantized already to the file type of the base."""
    source = inputs.source
    if not source.is_quantized or source.ftype is None or base_ftype(source, asked) != source.ftype:
        return None
    return Base(source, source.ftype, True)


def prepare_base(workspace: Workspace, inputs: Inputs, asked: str | None) -> Base:
    """The base file, quantized from the source into the output folder once."""
    source, imatrix = inputs.source, inputs.imatrix
    ftype = base_ftype(source, asked)
    path, fact = workspace.out / f"base-{ftype}.gguf", f"base {ftype}"
    subject = subject_of(workspace.sha256(source.path), imatrix)
    key = content_key("base", [subject, ftype, workspace.backend.id])
    if not path.exists() or workspace.study.fact(fact) != {"key": key, "sha256": workspace.sha256(path)}:
        workspace.progress.note(f"quantizing {source.path.name} to {ftype}")
        workspace.backend.quantize(source.path, path, ftype, (), imatrix)
        workspace.study.set_fact(fact, {"key": key, "sha256": workspace.sha256(path)})
    return Base(model_file.read_model(path), ftype, source.is_quantized)
