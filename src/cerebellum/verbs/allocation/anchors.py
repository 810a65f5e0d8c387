"""Measure the anchors: every tensor alone at a type or two, on few chunks first, on more where the decision stays open.

They are changes from the source, not from the base. At the source the KL divergence is at its minimum: what a change adds is quadratic in
it and positive on every token. From the base the same change also crosses with all that the base's other tensors have lost, which can have
either sign and hides it (on the bundled model, 4 chunks: median t of an effect 1 from the base, 10 from the source).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from cerebellum.allocation.anchors import first_anchors, open_tensors, second_anchors
from cerebellum.allocation.damage import Anchor, fit
from cerebellum.allocation.plan import single_trial
from cerebellum.allocation.table import Table
from cerebellum.domain import TensorType, Trial, TrialKind
from cerebellum.errors import EngineError, InputError
from cerebellum.results.allocation import Anchors
from cerebellum.study.runner import TrialRunner
from cerebellum.verbs.allocation.measuring import anchor_of, shuffled_chunks, steadied
from cerebellum.verbs.identity import keep_canary
from cerebellum.verbs.session import Session

SOURCE_TRIAL = Trial("source", TrialKind.BASE)

#: Chunks of the looks: of the first at every tensor, of the others at those whose decision is open.
LOOKS = (2, 4, 8, 16)

#: (tensor, type) → the chunks that it is measured on.
Wanted = dict[tuple[str, str], Sequence[int]]


def measure_anchors(session: Session, table: Table, budget: int, seed: int) -> Anchors:
    """A trial for each tensor, a second where it matters most; see the module. ``budget``: bytes of the table's tensors.

    Raises `InputError` where no tensor has a second type.
    """
    first = first_anchors(table, budget)
    if not first:
        raise InputError("no tensor may take another type than the model's own: allow more with --types or --only")
    order = shuffled_chunks(session.search, seed)
    wanted: Wanted = dict.fromkeys(first.items(), order[: LOOKS[0]])
    with source_measurer(session) as runner:
        found = _measure(runner, table, wanted, "anchors")
        model = fit(table.roles, found)
        for look in LOOKS[1:]:
            undecided = set(open_tensors(table, model, budget))
            cells = {cell for cell in wanted if cell[0] in undecided}
            if look == LOOKS[1]:
                seconds = second_anchors(table, model, budget, first)
                wanted |= dict.fromkeys(seconds.items(), order[: LOOKS[0]])
                cells |= set(seconds.items())
            if not cells or len(order) <= look // 2:
                break
            wanted |= dict.fromkeys(sorted(cells), order[:look])
            found = _measure(runner, table, wanted, f"anchors of open decisions: {len(cells)}")
            model = fit(table.roles, found)
    measured = {(a.tensor, a.type) for a in found}
    failed = tuple(sorted(cell for cell in wanted if cell not in measured))
    return Anchors(tuple(found), model, len(wanted), sum(map(len, wanted.values())), failed)


@contextlib.contextmanager
def source_measurer(session: Session) -> Iterator[TrialRunner]:
    """Measures trials of the source on the search split, in the job's own series: types alone tell trials apart."""
    split = session.search
    with session.engines_on(session.source.path) as engines:
        store = session.reference_store(split)
        yield TrialRunner(
            engines, session.study, session.series(split), session.source.types, split.corpus, store, session.progress,
            shard=session.options.shard,
        )  # fmt: skip


def _measure(runner: TrialRunner, table: Table, wanted: Wanted, what: str) -> list[Anchor]:
    """The anchors that could be measured, in the order of their names. Raises `EngineError` where none could."""
    longest = max(wanted.values(), key=len)
    trials = {cell: single_trial(TensorType(*cell)) for cell in sorted(wanted)}
    if runner.shard is not None:
        keep_canary(runner, list(trials.values()), table.base)
    scores = runner.measure_each(
        [(SOURCE_TRIAL, longest), *((trial, wanted[cell]) for cell, trial in trials.items())], what
    )
    source = scores[SOURCE_TRIAL.label]
    by_length: dict[int, list[Anchor]] = {}
    for cell, trial in trials.items():
        if trial.label in scores:
            pair = runner.paired(trial, wanted[cell]) if runner.pooled else (scores[trial.label], source)
            by_length.setdefault(len(pair[0]), []).append(anchor_of(table, *cell, *pair))
    if not by_length:
        raise EngineError(f"no trial could be measured: {runner.failed(list(trials.values()))[0].reason}")
    found = [a for n, own in sorted(by_length.items()) for a in steadied(own, n)]
    return sorted(found, key=lambda a: (a.tensor, a.type))
