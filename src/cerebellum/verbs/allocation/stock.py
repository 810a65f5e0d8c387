"""Stock files without files: which types llama.cpp's mixes give (a dry run), how large they are, how far they are from the reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cerebellum.allocation.sizes import file_bytes
from cerebellum.allocation.table import Table
from cerebellum.domain import Model, TrialKind
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Backend
from cerebellum.results.stock import BesideStock, Equivalent, StockRung
from cerebellum.scoring.summary import mean_kld, summarize
from cerebellum.stats.intervals import Interval
from cerebellum.study.runner import FailedTrial, Scores, Split
from cerebellum.verbs.allocation.measuring import kld_ratio, recipe_trial
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


def nearest_mix(
    backend: Backend, source: Model, imatrix: Path | None, n_bytes: int, without: Iterable[str | None] = ()
) -> str:
    """The stock mix whose file is nearest to so many bytes, by ratio; ``without`` some mixes."""
    mixes = [f for f in STOCK if f not in set(without)]
    sizes = {f: file_bytes(source, backend.types(source.path, f, (), imatrix)) for f in mixes}
    return min(mixes, key=lambda f: abs(math.log(sizes[f] / n_bytes)))


def beside_stock(
    session: Session, model: Model, split: Split, ours: Scores, base: Scores
) -> tuple[BesideStock, tuple[FailedTrial, ...]]:
    """A recipe, measured on ``split`` as ``ours`` beside the base, among stock files of ``model``'s header; and the stock files that can't
    be measured."""
    ratio, unit = kld_ratio(ours, base), mean_kld(base)
    share = ratio
    if not math.isfinite(ratio.estimate):  # the base is the reference itself
        share, unit = Interval(1.0, 1.0, 1.0, 0.0, len(ours), 0.95), mean_kld(ours)
    low, high = unit * max(min(share.low, share.estimate), 0.0), unit * share.high
    rungs, failed = climb(session, model, split, low, high)
    return BesideStock(ratio, rungs, equivalent_of(rungs, unit, share)), failed


def climb(
    session: Session, model: Model, split: Split, low: float, high: float
) -> tuple[tuple[StockRung, ...], tuple[FailedTrial, ...]]:
    """The stock ladder on ``split``, from the base's rung up until one's KL divergence is at most ``low``, and down until one's is at least
    ``high``, nats a token; and the rungs that can't be measured, which are passed over."""
    first = STOCK.index(session.base.ftype) if session.base.ftype in STOCK else 0
    rungs: dict[str, StockRung] = {}
    failed: list[FailedTrial] = []

    def climb_to(ftype: str) -> StockRung | None:
        rung = _measured(session, model, ftype, split)
        if isinstance(rung, FailedTrial):
            failed.append(rung)
            return None
        rungs[ftype] = rung
        return rung

    for i in range(first, len(STOCK)):
        rung = climb_to(STOCK[i])
        if rung and rung.kld <= low:
            break
    for i in range(first - 1, -1, -1):
        if rungs and min(rungs.values(), key=lambda r: r.file_bytes).kld >= high:
            break
        climb_to(STOCK[i])
    return tuple(sorted(rungs.values(), key=lambda r: r.file_bytes)), tuple(failed)


def _measured(session: Session, model: Model, ftype: str, split: Split) -> StockRung | FailedTrial:
    types = stock_types(session, ftype)
    trial = recipe_trial(session, f"stock {ftype}", types, TrialKind.BLANKET)
    runner = session.runner(split)
    scores: Scores | None = runner.measure([trial], split.chunks, f"stock ladder: {ftype}").get(trial.label)
    if scores is None:
        return runner.failed([trial])[0]
    divergence = summarize(scores).divergence
    return StockRung(ftype, file_bytes(model, types), mean_kld(scores), divergence.mean if divergence else None)


def equivalent_bytes(rungs: Sequence[StockRung], kld: float) -> float | None:
    """Bytes of a stock file that would have so much KL divergence: log-linear between neighbouring rungs. None beyond the ladder. A rung
    that a smaller one is as good as is passed over: nobody would take it."""
    ordered: list[StockRung] = []
    for rung in sorted(rungs, key=lambda r: (r.file_bytes, r.kld)):
        if not ordered or rung.kld < ordered[-1].kld:
            ordered.append(rung)
    for a, b in itertools.pairwise(ordered):
        if b.kld <= kld <= a.kld and b.kld > 0.0 and kld > 0.0:
            return a.file_bytes + math.log(a.kld / kld) / math.log(a.kld / b.kld) * (b.file_bytes - a.file_bytes)
    return None


def equivalent_of(rungs: Sequence[StockRung], base_kld: float, ratio: Interval) -> Equivalent:
    """Where the recipe's KL divergence lies on the stock ladder; a smaller share is a larger file."""
    sizes = [equivalent_bytes(rungs, base_kld * share) for share in (ratio.estimate, ratio.high, ratio.low)]
    return Equivalent(*sizes)
