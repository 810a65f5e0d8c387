"""The keys that a recipe's file carries: their bytes, which count within the size asked for, and their writing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from cerebellum.allocation.sizes import file_bytes
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
    n_keys = key_bytes(session)
    if not n_keys:
        return table
    stamped = replace(table, extra_bytes=n_keys)
    if stamped.least_bytes() <= limit:
        return stamped
    tell_without(session, "the size asked for")
    return table


def key_bytes(session: Session) -> int:
    """Bytes that the keys add to a file made from the session's base. 0: it carries none, the base being a set of several files, whose
    headers say nothing of one file's."""
    base = session.base.model
    if len(base.files) > 1:
        return 0
    keys = blank_keys(len(base.tensors), session.base.ftype, session.backend.id, session.options.imatrix is not None)
    return grown_by(base.path, keys)


def tell_without(session: Session, what: str) -> None:
    """That a file carries no keys."""
    session.progress.note(f"{what} has no room for the keys that say where the file comes from: it is written without")


def stamp_within(session: Session, recipe: Trial, growth: int | None) -> Stamp | None:
    """`stamp_of` where the recipe's file stays with its keys within ``growth`` bytes of the base's file (None: any number); else None."""
    base, n_keys = session.base.model, key_bytes(session)
    room = math.inf if growth is None else base.file_bytes + growth - file_bytes(base, recipe.types(base.types))
    if not n_keys:
        return None
    if n_keys > room:
        tell_without(session, "the growth allowed (--max-growth)")
        return None
    return stamp_of(session, recipe)


def stamp_of(session: Session, recipe: Trial) -> Stamp:
    """Puts the keys into the recipe's file; its KL divergence on the report text, measured in memory, is what is expected of it."""
    base, types = session.base, recipe.types(session.base.model.types)
    stock = stock_types(session, base.ftype)
    key = Recipe(base.ftype, {n: k for n, k in types.items() if stock[n] != k}).key
    known = session.runner(session.report).known(recipe, session.report.chunks)
    expected = mean_kld(known) if all(score.kld is not None for score in known.values()) else None

    def write(path: Path) -> None:
        stamp_file(
            path, session.options.model, base.ftype, key, session.backend.id, session.options.imatrix, expected,
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
