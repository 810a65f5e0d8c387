"""Measure the anchors: every tensor alone at a type or two, on few chunks first, on more where a slope stays uncertain.

They are changes from the source, not from the base. At the source the KL divergence is at its minimum: what a change adds is quadratic in
it and positive on every token. From the base the same change also crosses with all that the base's other tensors have lost, which can have
either sign and hides it (on the bundled model, 4 chunks: median t of an effect 1 from the base, 10 from the source).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from cerebellum.allocate.anchors import anchor_types
from cerebellum.allocate.damage import Anchor, DamageModel, fit
from cerebellum.allocate.plan import single_trial
from cerebellum.allocate.table import Table
from cerebellum.domain import TensorType, Trial, TrialKind
from cerebellum.errors import InputError
from cerebellum.llamacpp.protocol import Sources
from cerebellum.results.allocation import Anchors
from cerebellum.study.runner import Scores, TrialRunner
from cerebellum.verbs.allocation.measuring import anchor_of, shuffled_chunks, steadied
from cerebellum.verbs.session import Session, shared_out

SOURCE_TRIAL = Trial("source", TrialKind.BASE)

#: Chunks of the first look at every anchor, and how many more the uncertain ones get.
FIRST_CHUNKS = 4
#: Share of the tensors that get as many chunks again: those whose slope's interval is widest for what they weigh.
SECOND_SHARE = 0.25


def measure_anchors(session: Session, table: Table, seed: int) -> Anchors:
    """Two trials a tensor at most; see the module. Raises `InputError` where no tensor has a second type."""
    trials = {
        name: [(k, single_trial(TensorType(name, k))) for k in kinds] for name, kinds in anchor_types(table).items()
    }
    trials = {name: own for name, own in trials.items() if own}
    if not trials:
        raise InputError("no tensor may take another type than the base's: allow more with --types or --only")
    order = shuffled_chunks(session.search, seed)
    first = order[:FIRST_CHUNKS]
    chunks = dict.fromkeys(trials, first)
    with source_measurer(session) as runner:
        found = _measure(runner, table, trials, chunks, "anchors")
        model = fit(table.roles, found)
        if len(order) > len(first):
            second = order[: 2 * FIRST_CHUNKS]
            chunks |= dict.fromkeys(uncertain(table, model, list(trials)), second)
            found = _measure(runner, table, trials, chunks, "anchors that are uncertain")
            model = fit(table.roles, found)
    n_chunks = sum(len(chunks[name]) * len(own) for name, own in trials.items())
    return Anchors(tuple(found), model, sum(map(len, trials.values())), n_chunks)


@contextlib.contextmanager
def source_measurer(session: Session) -> Iterator[TrialRunner]:
    """Measures trials of the source on the search split, in the job's own series: types alone tell trials apart."""
    split, source = session.search, session.options.model
    settings = shared_out(session.options.settings, session.options.workers)
    with contextlib.ExitStack() as stack:
        engines = []
        for _ in range(session.options.workers):
            engines.append(session.backend.open(source, settings, Sources(source, session.options.imatrix)))
            stack.callback(engines[-1].close)
        store = session.reference_store(split)
        yield TrialRunner(
            engines, session.study, session.series(split), session.source.types, split.corpus, store, session.progress
        )


def _measure(
    runner: TrialRunner,
    table: Table,
    trials: Mapping[str, Sequence[tuple[str, Trial]]],
    chunks: Mapping[str, Sequence[int]],
    what: str,
) -> list[Anchor]:
    longest = max(chunks.values(), key=len)
    wanted = [(SOURCE_TRIAL, longest), *((t, chunks[name]) for name, own in trials.items() for _, t in own)]
    scores = runner.measure_each(wanted, what)
    base = scores[SOURCE_TRIAL.label]
    by_length: dict[int, list[Anchor]] = {}
    for name, own in trials.items():
        for kind, trial in own:
            measured: Scores = scores[trial.label]
            anchor = anchor_of(table, name, kind, measured, base)
            by_length.setdefault(len(measured), []).append(anchor)
    return [a for n, own in by_length.items() for a in steadied(own, n)]


def uncertain(table: Table, model: DamageModel, names: Sequence[str]) -> list[str]:
    """The tensors whose damage at the base's type is least known, in nats: the first `SECOND_SHARE` of them."""

    def doubt(name: str) -> float:
        slope = model.slopes[name]
        return (slope.high - slope.low) * table.errors[name][table.base_types[name]]

    ranked = sorted(names, key=lambda name: (-doubt(name), name))
    return ranked[: round(SECOND_SHARE * len(ranked))]
