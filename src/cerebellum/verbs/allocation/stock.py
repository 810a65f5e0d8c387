"""Stock files without files: which types llama.cpp's mixes give (a dry run), how large they are, how far they are from the reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from cerebellum.allocation.candidates import TypeRules, allowed_types
from cerebellum.allocation.sizes import file_bytes
from cerebellum.allocation.table import Table
from cerebellum.domain import Model, Trial, TrialKind
from cerebellum.gguf.types import needs_imatrix
from cerebellum.keys import content_key
from cerebellum.llamacpp.protocol import Backend
from cerebellum.results.stock import BesideStock, Equivalent, Rival, StockRung
from cerebellum.scoring.summary import mean_kld, summarize
from cerebellum.stats.intervals import Interval
from cerebellum.study.runner import FailedTrial, Scores, Split
from cerebellum.verbs.allocation.measuring import kld_ratio, recipe_trial
from cerebellum.verbs.allocation.weights import important
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.session import Session
from cerebellum.verbs.sweep import BASE_TRIAL

#: The stock mixes that a size is looked up among and that a recipe is compared with, smallest first.
STOCK = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
#: Those with IQ types: between two of `STOCK` one of them may be the better file for its bytes, and those of about 2 bits are smaller than
#: all of `STOCK`. Which is larger than which depends on the model.
IQ_MIXES = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_XS", "IQ4_NL",
)  # fmt: skip
#: IQ mixes no larger than the recipe that it is compared with: the nearest in size.
RIVALS = 2


def stock_types(session: Session, ftype: str) -> Mapping[str, str]:
    """The type that each tensor gets in the stock file; asked once, kept with the study."""
    name = f"types of stock {ftype}, {content_key('of', [session.subject, session.build])}"
    known = session.study.fact(name)
    if known is None:
        known = dict(session.backend.types(session.options.model, ftype, (), session.options.imatrix))
        session.study.set_fact(name, known)
    return {str(tensor): str(kind) for tensor, kind in known.items()}


def stock_trial(session: Session, ftype: str) -> Trial:
    """The stock file of a mix as a trial."""
    return recipe_trial(session, f"stock {ftype}", stock_types(session, ftype), TrialKind.BLANKET)


def stock_sizes(session: Session, table: Table) -> dict[str, int]:
    """Bytes of each stock mix's file; of the IQ mixes, those that can be made."""
    return {f: file_bytes(table.base, stock_types(session, f)) for f in (*STOCK, *iq_mixes(session, TypeRules()))}


def iq_mixes(session: Session, rules: TypeRules) -> tuple[str, ...]:
    """The IQ mixes that llama.cpp makes of the model with the job's importance matrix, or without if it has none. Those with an IQ type
    that ``rules`` don't allow are left out: whoever can't run a type can't run them."""
    source, known = session.source, important(session.options.imatrix, session.source)
    mixes = {f: stock_types(session, f) for f in IQ_MIXES}
    return tuple(f for f, types in mixes.items() if are_allowed(types, rules) and can_be_made(source, f, types, known))


def can_be_made(source: Model, ftype: str, types: Mapping[str, str], known: Collection[str]) -> bool:
    """Whether llama.cpp makes the stock file with these ``types``; ``known``: tensors with an entry in the importance matrix."""
    now = source.types
    return all(n in known or kind == now.get(n) or not needs_imatrix(kind, n, ftype) for n, kind in types.items())


def are_allowed(types: Mapping[str, str], rules: TypeRules) -> bool:
    """Whether no tensor has an IQ type that ``rules`` don't allow. K types are everywhere: they always are."""
    allowed = allowed_types(rules)
    return all(kind in allowed or not kind.startswith("IQ") for kind in set(types.values()))


def nearest_mix(backend: Backend, source: Model, options: SessionOptions, rules: TypeRules, n_bytes: int) -> str:
    """The stock mix whose file is nearest to so many bytes, by ratio. A quantized source's own mix, which has no KL divergence to compare
    with, is left out where the source is its own reference."""
    sizes = mix_sizes(backend, source, options, rules, n_bytes)
    if source.is_quantized and options.reference in (None, options.model):
        sizes = {ftype: n for ftype, n in sizes.items() if ftype != source.ftype}
    return min(sizes, key=lambda f: abs(math.log(sizes[f] / n_bytes)))


def mix_sizes(backend: Backend, source: Model, options: SessionOptions, rules: TypeRules, least: int) -> dict[str, int]:
    """Bytes of the stock mixes that a size is looked up among: `STOCK`; where all of those have more than ``least``, the smaller IQ mixes
    too that ``rules`` allow and that can be made with the importance matrix that there is, or that is going to be made."""

    def types_of(mixes: Iterable[str]) -> dict[str, Mapping[str, str]]:
        return {ftype: backend.types(source.path, ftype, (), options.imatrix) for ftype in mixes}

    sizes = {ftype: file_bytes(source, types) for ftype, types in types_of(STOCK).items()}
    smallest = min(sizes.values())
    has_imatrix = options.imatrix is not None or (options.make_imatrix is not False and not source.is_quantized)
    if least < smallest and has_imatrix:
        known = important(options.imatrix, source) if options.imatrix else source.types.keys()
        mixes = {
            f: t for f, t in types_of(IQ_MIXES).items() if are_allowed(t, rules) and can_be_made(source, f, t, known)
        }
        sizes |= {ftype: n for ftype, types in mixes.items() if (n := file_bytes(source, types)) < smallest}
    return sizes


def beside_stock(
    session: Session, model: Model, split: Split, recipe: Trial, limit: int, rules: TypeRules | None = None
) -> tuple[BesideStock, tuple[FailedTrial, ...]]:
    """A recipe, measured on ``split`` as the base is, among stock files of ``model``'s header; and the stock files that can't be measured.
    ``limit``: bytes of the stock files that it competes with; ``rules``: what the user allows."""
    runner = session.runner(split)
    ours, base = (runner.known(trial, split.chunks) for trial in (recipe, BASE_TRIAL))
    ratio, unit = kld_ratio(ours, base), mean_kld(base)
    share = ratio
    if not math.isfinite(ratio.estimate):  # the base is the reference itself
        share, unit = Interval(1.0, 1.0, 1.0, 0.0, len(ours), 0.95), mean_kld(ours)
    ladder = StockLadder(session, model, split, iq_mixes(session, rules or TypeRules()))
    ladder.climb(*(unit * limit for limit in climbed(share)))
    ladder.fill(limit)
    rungs = ladder.ordered
    best = min((r for r in rungs if r.file_bytes <= limit), key=lambda r: r.kld, default=None)
    rival = None
    if best is not None and (trial := stock_trial(session, best.ftype)).tensor_types:  # else it is the base
        rival = Rival(best.ftype, best.file_bytes, kld_ratio(ours, runner.known(trial, split.chunks)))
    beside = BesideStock(ratio, rungs, equivalent_of(rungs, unit, share), rival)
    return beside, tuple(ladder.failed.values())


def climbed(share: Interval) -> tuple[float, float]:
    """How far up and down a ladder is worth climbing for a recipe with this share of a KL divergence. No file has less than none: where the
    lower limit holds that, the larger file is unknown whatever is measured, and the estimate ends the climb."""
    low = min(share.low, share.estimate)
    return low if low > 0.0 else share.estimate, share.high


class StockLadder:
    """Stock files of ``model``'s header, measured on ``split`` one by one: those of `STOCK`, of ``mixes`` and of the base. Of those with
    the same types one is measured."""

    def __init__(self, session: Session, model: Model, split: Split, mixes: Sequence[str]) -> None:
        self._session, self._model, self._split = session, model, split
        self._rungs: dict[str, StockRung] = {}
        self.failed: dict[str, FailedTrial] = {}
        self._low = self._high = 0.0
        base = session.base
        self._base = [base.ftype] if stock_types(session, base.ftype) == base.model.types else []
        # the last name of a file stays: the base's, a K mix's, and of IQ2_S and IQ4_NL the second
        names = {self._file(f): f for f in (*mixes, *reversed(STOCK), *self._base)}
        self._mixes, self._names = [f for f in names.values() if f in mixes], names

    @property
    def ordered(self) -> tuple[StockRung, ...]:
        """What was measured, smallest file first."""
        return tuple(sorted(self._rungs.values(), key=lambda r: (r.file_bytes, r.ftype)))

    def climb(self, low: float, high: float) -> None:
        """Measures those of `STOCK` from the base's up until one's KL divergence is at most ``low``, and down until one's is at least
        ``high``, nats a token. Those that can't be measured are passed over."""
        self._low, self._high = low, high
        base = file_bytes(self._model, stock_types(self._session, self._session.base.ftype))
        first = max(sum(self._bytes(f) <= base for f in STOCK) - 1, 0)
        for i in range(first, len(STOCK)):
            rung = self._measure(STOCK[i])
            if rung and rung.kld <= low:
                break
        for i in range(first - 1, -1, -1):
            if self._rungs and self.ordered[0].kld >= high:
                break
            self._measure(STOCK[i])

    def fill(self, limit: int) -> None:
        """After `climb`, measures those of the mixes that may change how large a stock file as good as the recipe is, their `RIVALS`
        largest within ``limit`` bytes, the largest of `STOCK` within it, and the base."""
        mixes, stock = (sorted(names, key=lambda f: (-self._bytes(f), f)) for names in (self._mixes, STOCK))
        top = min((r.file_bytes for r in self._rungs.values() if r.kld <= self._low), default=math.inf)
        for ftype in mixes:
            below = max((r.file_bytes for r in self._rungs.values() if r.kld >= self._high), default=0)
            if below <= self._bytes(ftype) <= top:
                self._measure(ftype)
        nearest = [f for f in mixes if self._bytes(f) <= limit][:RIVALS]
        nearest += [f for f in stock if self._bytes(f) <= limit][:1]
        for ftype in [*nearest, *self._base]:
            self._measure(ftype)

    def _measure(self, ftype: str) -> StockRung | None:
        """One rung, measured once; None where it can't be."""
        ftype = self._names[self._file(ftype)]
        if ftype in self._rungs or ftype in self.failed:
            return self._rungs.get(ftype)
        trial, runner = stock_trial(self._session, ftype), self._session.runner(self._split)
        scores: Scores | None = runner.measure([trial], self._split.chunks, f"stock ladder: {ftype}").get(trial.label)
        if scores is None:
            self.failed[ftype] = runner.failed([trial])[0]
            return None
        divergence = summarize(scores).divergence
        mean = divergence.mean if divergence else None
        self._rungs[ftype] = StockRung(ftype, self._bytes(ftype), mean_kld(scores), mean)
        return self._rungs[ftype]

    def _file(self, ftype: str) -> tuple[tuple[str, str], ...]:
        """What tells the stock file's tensors from another's."""
        return tuple(sorted(stock_types(self._session, ftype).items()))

    def _bytes(self, ftype: str) -> int:
        """Bytes of the stock file."""
        return file_bytes(self._model, stock_types(self._session, ftype))


def equivalent_bytes(rungs: Sequence[StockRung], kld: float) -> float | None:
    """Bytes of a stock file that would have so much KL divergence: log-linear between neighbouring rungs. None beyond the ladder. A rung
    that a smaller one is as good as is passed over: nobody would take it."""
    ordered: list[StockRung] = []
    for rung in sorted(rungs, key=lambda r: (r.file_bytes, r.kld)):
        if not ordered or rung.kld < ordered[-1].kld:
            ordered.append(rung)
    if same := next((rung for rung in ordered if math.isclose(rung.kld, kld, rel_tol=1e-9)), None):
        return float(same.file_bytes)  # the stock mix itself
    for a, b in itertools.pairwise(ordered):
        if b.kld <= kld <= a.kld and b.kld > 0.0 and kld > 0.0:
            return a.file_bytes + math.log(a.kld / kld) / math.log(a.kld / b.kld) * (b.file_bytes - a.file_bytes)
    return None


def equivalent_of(rungs: Sequence[StockRung], base_kld: float, ratio: Interval) -> Equivalent:
    """Where the recipe's KL divergence lies on the stock ladder; a smaller share is a larger file."""
    sizes = [equivalent_bytes(rungs, base_kld * share) for share in (ratio.estimate, ratio.high, ratio.low)]
    return Equivalent(*sizes)
