"""Measure the anchors: every tensor alone at a type or two, on few chunks first, on more where the decision stays open.

They are changes from the source, not from the base. At the source the KL divergence is at its minimum: what a change adds is quadratic in
it and positive on every token. From the base the same change also crosses with all that the base's other tensors have lost, which can have
either sign and hides it (on the bundled model, 4 chunks: median t of an effect 1 from the base, 10 from the source).

The same holds where the reference is another file than the source, which is then away from the minimum itself. So anchors are measured by
the KL divergence from the source's own words, whatever the reference is. Two errors that have nothing to do with each other add up, so what
the source has lost is in a prediction once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cerebellum.allocation.anchors import first_anchors, open_tensors, second_anchors
from cerebellum.allocation.damage import Anchor, fit
from cerebellum.allocation.floor import Floor, fit_floor, harmless_types
from cerebellum.allocation.plan import single_trial
from cerebellum.allocation.table import Table
from cerebellum.domain import TensorType, Trial, TrialKind
from cerebellum.errors import EngineError
from cerebellum.llamacpp.protocol import Sources
from cerebellum.results.allocation import Anchors
from cerebellum.scoring.summary import mean_kld
from cerebellum.stats.verdicts import MILLI
from cerebellum.study.runner import TrialRunner
from cerebellum.verbs.allocation.first import refuse_unmeasurable
from cerebellum.verbs.allocation.measuring import anchor_of, effect_values, shuffled_chunks, steadied
from cerebellum.verbs.capture import capture_rows
from cerebellum.verbs.identity import keep_canary
from cerebellum.verbs.session import Session, opened_runner

SOURCE_TRIAL = Trial("source", TrialKind.BASE)

#: Chunks of the looks: of the first at every tensor, of the others at those whose decision is open.
LOOKS = (2, 4, 8, 16)

#: (tensor, type) → the chunks that it is measured on.
Wanted = dict[tuple[str, str], Sequence[int]]


def measure_anchors(session: Session, table: Table, budget: int, seed: int) -> Anchors:
    """A trial for each tensor, a second where it matters most; see the module. ``budget``: bytes of the table's tensors.

    Raises `InputError` where no type changes a tensor.
    """
    first = first_anchors(table, budget)
    if not first:
        refuse_unmeasurable(table, session.source)
    order = shuffled_chunks(session.search, seed)
    wanted: Wanted = dict.fromkeys(first.items(), order[: LOOKS[0]])
    start = measure_start(session)
    with source_runner(session, reads_pairs=True) as runner:
        floor, n_harmless = measure_floor(runner, table, session.source.types, order[: LOOKS[1]])
        anchors = measured_anchors(runner, table, wanted, "anchors", floor)
        model = fit(table.roles, anchors)
        for look in LOOKS[1:]:
            more_text = len(order) > look // 2  # than at the look before
            undecided = set(open_tensors(table, model, budget)) if more_text else set()
            cells = {cell for cell in wanted if cell[0] in undecided}
            if look == LOOKS[1]:
                seconds = second_anchors(table, model, budget, first)
                wanted |= dict.fromkeys(seconds.items(), order[: LOOKS[0]])
                cells |= set(seconds.items())
            if not cells:
                break
            wanted |= dict.fromkeys(sorted(cells), order[:look])
            anchors = measured_anchors(runner, table, wanted, f"anchors of open decisions: {len(cells)}", floor)
            model = fit(table.roles, anchors)
    measured = {(a.tensor, a.type) for a in anchors}
    failed = tuple(sorted(cell for cell in wanted if cell not in measured))
    n_chunks = sum(map(len, wanted.values())) + n_harmless * len(order[: LOOKS[1]])
    model = replace(model, floor=floor.whole, start=start)
    return Anchors(tuple(anchors), model, len(wanted) + n_harmless, n_chunks, failed, floor)


@contextlib.contextmanager
def source_runner(session: Session, *, reads_pairs: bool = False) -> Iterator[TrialRunner]:
    """What measures changes of the source, by the KL divergence from the source's own words, which are kept first where the reference is
    another file. ``reads_pairs``: as in `opened_runner`."""
    if not session.inputs.is_own_reference:
        facts = {**session.reference_facts, "sha256": session.source_sha256}
        session = replace(session, reference=replace(session.reference, facts=facts), words="the source's own")
        path, settings = session.source.path, session.workspace.settings
        with contextlib.closing(session.backend.open(path, settings, Sources(path))) as engine:
            store = session.reference_store(session.search)
            capture_rows(engine, [(session.search, store)], f"own words of {path.name}", session.progress)
    with opened_runner(session, session.source, session.search, reads_pairs=reads_pairs) as runner:
        yield runner


def measure_start(session: Session) -> float:
    """KL divergence of the source itself from the reference on the search text, nats a token. A part of a job leaves it to the whole."""
    if session.inputs.is_own_reference or session.options.shard is not None:
        return 0.0
    with opened_runner(session, session.source, session.search) as runner:
        scores = runner.measure([SOURCE_TRIAL], session.search.chunks, "the source beside the reference")
        return mean_kld(scores[SOURCE_TRIAL.label])


def measure_floor(
    runner: TrialRunner, table: Table, types: Mapping[str, str], chunks: Sequence[int]
) -> tuple[Floor, int]:
    """What single changes of the source, whose tensors have ``types``, do whatever they are, and how many trials it took: none where the
    source isn't quantized. A part of a study leaves it to the whole."""
    harmless = harmless_types(table.tensors, types) if runner.shard is None else {}
    if not harmless:
        return Floor(), 0
    trials = {name: single_trial(TensorType(name, kind)) for name, kind in harmless.items()}
    scores = runner.measure([SOURCE_TRIAL, *trials.values()], sorted(chunks), "floor of single changes")
    source = scores[SOURCE_TRIAL.label]
    effects = {n: float(effect_values(scores[t.label], source).mean()) for n, t in trials.items() if t.label in scores}
    floor = fit_floor(effects, table.tensors)
    first, last = floor.whole * MILLI, min(floor.values, default=0.0) * MILLI
    runner.progress.note(
        f"floor of single changes: {first:.3f} thousandths of a nat in the first block, {last:.3f} in the last, subtracted from the anchors"
    )
    return floor, len(trials)


def measured_anchors(runner: TrialRunner, table: Table, wanted: Wanted, what: str, floor: Floor) -> list[Anchor]:
    """The anchors that could be measured, less the floor, in the order of their names. Raises `EngineError` where none could."""
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
    steady = [a for n, of_length in sorted(by_length.items()) for a in steadied(of_length, n)]
    lowered = [floor.without(a, table.tensors[a.tensor]) for a in steady]
    return sorted(lowered, key=lambda a: (a.tensor, a.type))
