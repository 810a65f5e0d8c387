"""The keys that an allocation's file carries: their bytes, which count within the size asked for, and their writing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cerebellum.allocation.table import Table
from cerebellum.domain import Trial
from cerebellum.gguf.stamp import grown_by, tensor_digests, tensors_key
from cerebellum.recipes.recipe import Recipe
from cerebellum.scoring.summary import mean_kld
from cerebellum.verbs.allocation.stock import stock_types
from cerebellum.verbs.provenance import blank_keys, stamp_file
from cerebellum.verbs.session import Session
from cerebellum.verbs.write import Stamp


def with_keys(session: Session, table: Table, limit: int) -> Table:
    """The table of files that carry the keys; of files without them where ``limit`` bytes have no room for any that does."""
    base = session.base.model
    if len(base.files) > 1:  # their headers say nothing of one file's
        return table
    keys = blank_keys(len(base.tensors), session.base.ftype, session.backend.id, session.options.imatrix is not None)
    stamped = replace(table, extra_bytes=grown_by(base.path, keys))
    if stamped.least_bytes() <= limit:
        return stamped
    session.progress.note(
        "the size asked for has no room for the keys that say where the file comes from: it is written without"
    )
    return table


def stamp_of(session: Session, table: Table, recipe: Trial) -> Stamp | None:
    """Puts the keys into the recipe's file; its KL divergence on the report text, measured in memory, is what is expected of it. None where
    the table has no room for them."""
    if not table.extra_bytes:
        return None
    base, types = session.base, recipe.types(session.base.model.types)
    stock = stock_types(session, base.ftype)
    key = Recipe(base.ftype, {n: k for n, k in types.items() if stock[n] != k}).key
    known = session.runner(session.report).known(recipe, session.report.chunks)

    def write(path: Path) -> None:
        stamp_file(
            path, session.options.model, base.ftype, key, session.backend.id, session.options.imatrix, mean_kld(known),
            source_tensors(session),
        )  # fmt: skip

    return write


def source_tensors(session: Session) -> str:
    """The hash over the source's tensors; the source is read for it once a study."""
    name = f"tensors of the source {session.source_sha256}"
    known = session.study.fact(name)
    if known is None:
        known = tensors_key(tensor_digests(session.options.model))
        session.study.set_fact(name, known)
    return str(known)
