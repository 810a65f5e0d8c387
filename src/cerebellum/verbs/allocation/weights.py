"""The table of a job: which types the tensors may take, and what these do to their weights, kept with the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebellum.allocation.candidates import TypeRules, candidate_types
from cerebellum.allocation.groups import with_groups
from cerebellum.allocation.table import Table, table_of
from cerebellum.domain import Model, Tensor
from cerebellum.gguf import model_file
from cerebellum.gguf.coverage import coverage_of
from cerebellum.gguf.imatrix_write import read_importance
from cerebellum.gguf.mix import Mix
from cerebellum.gguf.types import EMBEDDINGS
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import CHUNK_TOKENS
from cerebellum.verbs.base_mix import EXCLUDED
from cerebellum.verbs.session import Session

#: Weights of a tensor that its errors are computed on, about.
SAMPLED_WEIGHTS = 1 << 15


def make_table(session: Session, rules: TypeRules) -> Table:
    """The table of the job's model; errors that the study holds are not computed again. Raises a `CerebellumError`."""
    base = session.base.model
    importance = important(session.options.imatrix, session.source)
    types = candidate_types(session.source, base.types, rules, importance, session.engines[0].unused)
    types = without_impossible(types, session.options.imatrix, session.source)
    for line in coverage_lines(session.options.imatrix, session.source):
        session.progress.note(f"importance matrix: {line}")
    types = without_mix(types, session.base.mix)
    wanted = {name: tuple(dict.fromkeys([*offered, base.types[name]])) for name, offered in types.items()}
    errors, power = weight_errors(session, wanted)
    types = without_unstorable(session, types, errors)
    return with_groups(table_of(base, types, errors, power), rules.same_type)


def coverage_lines(imatrix: Path | None, source: Model) -> list[str]:
    """What the importance matrix leaves open, a line each; that embeddings have no entry is usual, and none."""
    if imatrix is None:
        return []
    coverage = coverage_of(read_importance(imatrix, CHUNK_TOKENS), source)
    gaps = {name: gap for name, gap in coverage.gaps.items() if gap.has_entry or name not in EMBEDDINGS}
    return replace(coverage, gaps=gaps).lines()


def without_impossible(
    types: Mapping[str, tuple[str, ...]], imatrix: Path | None, source: Model
) -> dict[str, tuple[str, ...]]:
    """``types`` without those that a tensor can't be stored in, since the importance matrix says too little of its inputs."""
    if imatrix is None:
        return dict(types)
    cannot = coverage_of(read_importance(imatrix, CHUNK_TOKENS), source).cannot_have
    return {n: tuple(k for k in offered if k not in cannot.get(n, ())) or offered[-1:] for n, offered in types.items()}


def without_mix(types: Mapping[str, tuple[str, ...]], mix: Mix) -> dict[str, tuple[str, ...]]:
    """``types`` without the tensors that were excluded, and without what the base was found not to hold."""
    free = {n: offered for n, offered in types.items() if mix.left_out.get(n) != EXCLUDED}
    cannot = {(tensor_type.tensor, tensor_type.type) for tensor_type in mix.cannot}
    return {n: tuple(k for k in offered if (n, k) not in cannot) or offered[-1:] for n, offered in free.items()}


def without_unstorable(
    session: Session, types: Mapping[str, tuple[str, ...]], errors: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[str, ...]]:
    """``types`` without those that can't hold a tensor's values, which have no error; told."""
    cannot = [f"{name} as {kind}" for name, offered in types.items() for kind in offered if kind not in errors[name]]
    if cannot:
        more = f" and {len(cannot) - 3} more" if len(cannot) > 3 else ""
        session.progress.note(f"left out, for their values are too large for the type: {', '.join(cannot[:3])}{more}")
    base = session.base.model.types
    return {n: tuple(k for k in offered if k in errors[n]) or (base[n],) for n, offered in types.items()}


def important(imatrix: Path | None, source: Model) -> frozenset[str]:
    """Tensors that have an entry of their size in the importance matrix."""
    if imatrix is None:
        return frozenset()
    entries = model_file.load_imatrix(imatrix).entries
    return frozenset(
        t.name for t in source.tensors if t.name in entries and entries[t.name].size == _importance_size(t)
    )


def _importance_size(tensor: Tensor) -> int:
    return tensor.row_length * (tensor.shape[2] if len(tensor.shape) > 2 else 1)


def weight_errors(
    session: Session, wanted: Mapping[str, Sequence[str]]
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """(errors by tensor and type, power by tensor): from the study, the rest computed and kept there."""
    known: dict[str, dict[str, Any]] = {name: session.study.fact(_fact(session, name)) or {} for name in wanted}
    lacking = []
    for name, types in wanted.items():
        have = {*known[name].get("errors", {}), *known[name].get("cannot", ())}
        if missing := [kind for kind in types if kind not in have]:
            lacking.append((name, missing))
    session.progress.begin("weight errors", len(wanted), len(wanted) - len(lacking))
    try:
        for tensor in session.backend.weight_errors(
            session.options.model, session.options.imatrix, lacking, SAMPLED_WEIGHTS
        ):
            errors = {**known[tensor.tensor].get("errors", {}), **tensor.errors}
            cannot = sorted({*known[tensor.tensor].get("cannot", ()), *tensor.cannot})
            known[tensor.tensor] = {"errors": errors, "power": tensor.power, **({"cannot": cannot} if cannot else {})}
            session.study.set_fact(_fact(session, tensor.tensor), known[tensor.tensor])
            session.progress.step(tensor.tensor)
    finally:
        session.progress.end()
    return {n: dict(k["errors"]) for n, k in known.items()}, {n: float(k["power"]) for n, k in known.items()}


def _fact(session: Session, name: str) -> str:
    """The fact that holds a tensor's errors: another source, matrix, build or sample is another fact."""
    return f"weight errors of {name}, {content_key('of', [session.subject, session.build, SAMPLED_WEIGHTS])}"
