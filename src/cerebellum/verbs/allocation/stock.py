"""Stock files without files: which types llama.cpp's mixes give (a dry run), how large they are, how far they are from the reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cerebellum.allocation.sizes import file_bytes
from cerebellum.allocation.table import Table
from cerebellum.domain import Model, TrialKind
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Backend
from cerebellum.results.allocation import Rung
from cerebellum.scoring.summary import mean_kld, summarize
from cerebellum.study.runner import Scores, Split
from cerebellum.verbs.allocation.measuring import recipe_trial
from cerebellum.verbs.session import Session

#: The stock mixes that a size is looked up among and that a recipe is compared with, smallest first.
STOCK = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")


def stock_types(session: Session, ftype: str) -> Mapping[str, str]:
    """The type that each tensor gets in the stock file; asked once, kept with the study."""
    name = f"types of stock {ftype}, {content_key('of', [session.subject, session.build])}"
    known = session.study.fact(name)
    if known is None:
        known = dict(session.backend.types(session.options.model, ftype, (), session.options.imatrix))
        session.study.set_fact(name, known)
    return {str(tensor): str(kind) for tensor, kind in known.items()}


def stock_sizes(session: Session, table: Table) -> dict[str, int]:
    """Bytes of each stock mix's file."""
    return {ftype: file_bytes(table.base, stock_types(session, ftype)) for ftype in STOCK}


def nearest_mix(backend: Backend, source: Model, imatrix: Path | None, n_bytes: int) -> str:
    """The stock mix whose file is nearest to so many bytes, by ratio."""
    sizes = {f: file_bytes(source, backend.types(source.path, f, (), imatrix)) for f in STOCK}
    return min(STOCK, key=lambda f: abs(math.log(sizes[f] / n_bytes)))


def climb(session: Session, table: Table, split: Split, low: float, high: float) -> tuple[Rung, ...]:
    """The stock ladder on ``split``, from the base's rung up until one's KL divergence is at most ``low``, and down until one's is at least
    ``high``, nats a token."""
    first = STOCK.index(session.base.ftype) if session.base.ftype in STOCK else 0
    rungs: list[Rung] = []
    for place in range(first, len(STOCK)):
        rungs.append(_measured(session, table, STOCK[place], split))
        if rungs[-1].kld <= low:
            break
    for place in range(first - 1, -1, -1):
        if rungs[0].kld >= high:
            break
        rungs.insert(0, _measured(session, table, STOCK[place], split))
    return tuple(sorted(rungs, key=lambda r: r.file_bytes))


def _measured(session: Session, table: Table, ftype: str, split: Split) -> Rung:
    types = stock_types(session, ftype)
    trial = recipe_trial(session, f"stock {ftype}", types, TrialKind.BLANKET)
    scores: Scores = session.runner(split).measure([trial], split.chunks, f"stock ladder: {ftype}")[trial.label]
    divergence = summarize(scores).divergence
    return Rung(ftype, file_bytes(table.base, types), mean_kld(scores), divergence.mean if divergence else None)


def equivalent_bytes(rungs: Sequence[Rung], kld: float) -> float | None:
    """Bytes of a stock file that would have so much KL divergence: log-linear between neighbouring rungs. None beyond the ladder."""
    ordered = sorted(rungs, key=lambda r: r.file_bytes)
    for a, b in itertools.pairwise(ordered):
        if b.kld <= kld <= a.kld and a.kld > 0.0 and b.kld > 0.0 and kld > 0.0:
            share = math.log(a.kld / kld) / math.log(a.kld / b.kld) if a.kld > b.kld else 0.0
            return a.file_bytes + share * (b.file_bytes - a.file_bytes)
    return None
