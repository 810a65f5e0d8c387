"""The whole allocation: base, weight errors, anchors, candidate recipes, controls, file, proof, report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cerebellum.allocation.candidates import DEFAULT_TYPES, TypeRules, allowed_types
from cerebellum.allocation.sensitivity import map_json
from cerebellum.allocation.sizes import Target, file_bytes, target_bytes
from cerebellum.allocation.table import Table
from cerebellum.domain import Model, Trial
from cerebellum.errors import InputError, RefusedError
from cerebellum.files import make_folder
from cerebellum.gguf import model_file
from cerebellum.gguf.labels import labelled
from cerebellum.keys import content_key, stem_of
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.results.allocation import Allocation, Anchors, Controls, Refined, Transferred, Tried
from cerebellum.results.part import Part
from cerebellum.scoring.summary import as_json
from cerebellum.stats.intervals import Interval
from cerebellum.verbs.allocation.anchors import LOOKS, measure_anchors
from cerebellum.verbs.allocation.choose import STOCK_MIX, try_candidates
from cerebellum.verbs.allocation.controls import run_controls
from cerebellum.verbs.allocation.first import (
    check_first,
    checked_budget,
    own_reference_doubts,
    refuse_own_reference,
    stock_base,
)
from cerebellum.verbs.allocation.measuring import kld_ratio, recipe_trial
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.origin import check_origin
from cerebellum.verbs.allocation.refine import Spend, refine, usual_spend
from cerebellum.verbs.allocation.sensitivity import anchors_of_map, check_map, left_out_of
from cerebellum.verbs.allocation.stamped import stamp_of, with_keys
from cerebellum.verbs.allocation.stock import stock_sizes, stock_types
from cerebellum.verbs.allocation.transfer import transfer_anchors
from cerebellum.verbs.allocation.weights import coverage_lines, make_table
from cerebellum.verbs.bench import BenchOptions, prepared
from cerebellum.verbs.calibration import with_imatrix
from cerebellum.verbs.finished import claimed, note_job
from cerebellum.verbs.options import SessionOptions
from cerebellum.verbs.pipeline import bench_session, facts_of, part_of, take_effect, take_noise, warn_of_text
from cerebellum.verbs.race import seconds_a_chunk
from cerebellum.verbs.session import Session, open_session
from cerebellum.verbs.sweep import BASE_TRIAL
from cerebellum.verbs.warned import tell
from cerebellum.verbs.write import SplitSize, leave_overrides, write_trial

#: Writes the report of an allocation into a folder, and gives what its ``report.json`` holds.
Publish = Callable[[Allocation, Path], dict[str, Any]]


def allocate_session(
    options: SessionOptions,
    allocation: AllocationOptions,
    *,
    backend: Backend,
    publish: Publish,
    progress: Progress | None = None,
    bench_options: BenchOptions | None = None,
    folder: Path | None = None,
) -> Allocation:
    """The best file of the size asked for, with its proof and its report, in ``options.out``. Resumes what was begun there.

    ``publish`` writes the report of what is known, into a folder; ``folder``: another one than ``options.out``, for reports and items of
    benchmarks. Raises a `CerebellumError`; whatever was measured by then is kept.
    """
    questions = None if bench_options is None else prepared({}, bench_options)
    source = model_file.read_model(options.model)
    progress = progress or Silent()
    if not options.job:
        options = claimed(options, of_allocation(allocation), bench_options)
    if allocation.origin is not None:
        check_origin(allocation.origin, options.model)
    check_first(options, allocation, backend)
    options = calibrated(options, allocation, backend, progress)
    if allocation.sensitivity is not None:
        options = replace(options, left_out=left_out_of(allocation.sensitivity))
        check_map(allocation.sensitivity, options.model, options.imatrix, backend.id)
    base = options.base or stock_base(backend, source, options, allocation)
    with open_session(replace(options, base=base), backend, progress) as session:
        result = allocate(session, allocation)
        folder = folder or options.out
        make_folder(folder)
        if questions is not None:
            publish(replace(result, facts={**result.facts, "unfinished": list(questions.names)}), folder)
            result = replace(result, bench=bench_session(session, result.written, questions, folder))
        session.study.set_fact("result", publish(result, folder))
        return result


def anchor_part(
    options: SessionOptions, allocation: AllocationOptions, *, backend: Backend, progress: Progress | None = None
) -> Part:
    """The part ``options.shard`` of an allocation's anchors, kept in ``options.out``: of the first look that isn't whole there.

    Which anchors get more text depends on all that were measured before. So the parts of a look are merged, and the next look is cut into
    parts again.
    """
    if allocation.sensitivity is not None:
        raise InputError("with map (--map) no anchors are measured, so there are no parts: leave out shard (--shard)")
    source, progress = model_file.read_model(options.model), progress or Silent()
    if allocation.origin is not None:
        check_origin(allocation.origin, options.model)
    check_first(options, allocation, backend)
    options = calibrated(options, allocation, backend, progress)
    base = options.base or stock_base(backend, source, options, allocation)
    with open_session(replace(options, base=base), backend, progress, reports=False) as session:
        take_noise(session)
        table, _, budget = table_and_budget(session, allocation)
        return part_of(session, lambda: measure_anchors(session, table, budget, allocation.seed))


def calibrated(
    options: SessionOptions, allocation: AllocationOptions, backend: Backend, progress: Progress
) -> SessionOptions:
    """``options`` with the importance matrix that the job is to have: made where it is asked for, or where the base or a named type
    needs one."""
    named = () if allocation.rules.types == DEFAULT_TYPES else allowed_types(allocation.rules)
    base = options.base or stock_base(backend, model_file.read_model(options.model), options, allocation)
    with_base = replace(options, base=base)
    return replace(with_imatrix(with_base, named, backend, progress), base=options.base)


def allocate(session: Session, options: AllocationOptions) -> Allocation:
    """Everything of a job that is open."""
    tell(own_reference_doubts(session.inputs), session.progress, session.warnings)
    noise = take_noise(session)
    warn_of_text(session)
    table, limit, budget = table_and_budget(session, options)
    refuse_own_reference(table, session.inputs, limit)
    effect = take_effect(session) if options.compares_imatrix else None
    anchors, transferred = take_anchors(session, table, budget, options)
    table = table.without(anchors.failed)
    budget = checked_budget(table, budget + table.fixed_bytes())
    tried = try_candidates(session, table, anchors.model, budget, session.search, options.seed)
    kept = next(t for t in tried if t.kept)
    share = f", {kept.ratio.estimate:.3f} of the base's KL divergence" if math.isfinite(kept.ratio.estimate) else ""
    session.progress.note(f"kept: {kept.candidate.name}{share}")
    if kept.candidate.name == STOCK_MIX and table.extra_bytes:
        session.progress.note("the stock mix itself is kept: its file carries no keys that say where it comes from")
        table, budget = replace(table, extra_bytes=0), budget + table.extra_bytes
    refined = refine_recipe(session, table, anchors, kept, budget, options) if options.refine else None
    types = kept.candidate.types if refined is None else refined.types
    recipe = recipe_trial(session, "recipe", types)
    controls = run_controls(session, table, recipe, budget, limit, options)
    refuse_poor(session, recipe, controls)
    note_job(session.study, session.options)
    written = write_trial(
        session,
        recipe,
        file_name(session.source, session.base.ftype, options),
        stamp_of(session, recipe) if table.extra_bytes else None,
        SplitSize(table.file_bytes(types), limit),
    )
    facts = facts_of(session) | {"limit_bytes": limit, "target": str(options.target), "seed": options.seed}
    if lines := coverage_lines(session.options.imatrix, session.source):
        facts["imatrix"] |= {"coverage": lines}
    if effect is not None:
        facts["imatrix"] |= {"effect": effect.as_json()}
    return Allocation(
        session.options.model.name,
        session.base,
        options.target,
        limit,
        table,
        anchors,
        tried,
        recipe,
        controls,
        written,
        noise,
        stock_bytes=stock_sizes(session, table),
        facts=facts,
        refined=refined and replace(refined, ratio=gain(session, refined, kept, recipe)),
        transferred=transferred,
    )


def take_anchors(
    session: Session, table: Table, budget: int, options: AllocationOptions
) -> tuple[Anchors, Transferred | None]:
    """The anchors that the job solves by: a map's, those of a transfer, or all its own."""
    if options.sensitivity is not None:
        return anchors_of_map(session, table, options.sensitivity), None
    if options.origin is not None:
        return transfer_anchors(session, table, options.origin, budget, options.seed)
    return measure_anchors(session, table, budget, options.seed), None


def refuse_poor(session: Session, recipe: Trial, controls: Controls) -> None:
    """Raises `RefusedError` where a control is surely better than the recipe: no poor file is written. The control isn't taken in its
    place, since the report text must not choose."""
    if not controls.better:
        return
    lines = leave_overrides(session, recipe)
    first = controls.better[0]
    named = f"the stock {session.base.ftype} file" if first == BASE_TRIAL.label else first
    more = f" (and {len(controls.better) - 1} more)" if len(controls.better) > 1 else ""
    raise RefusedError(
        f"no file is written: on the report text {named}{more} is nearer to the reference than the recipe, beyond the "
        "interval, and no larger. On the search text the recipe was the best. Give more text (--chunks), or texts of one kind. The "
        f"recipe's overrides are in {lines.name}; all measurements are kept"
    )


def of_allocation(options: AllocationOptions) -> dict[str, Any]:
    """The settings of an allocation, by the names of their options."""
    rules = options.rules
    return {
        "policy": "allocate" if options.origin is None else "transfer",
        "from": options.origin and content_key("origin", as_json(options.origin)),
        "size": str(options.target),
        **rules_of(rules),
        "map": None if options.sensitivity is None else content_key("map", map_json(options.sensitivity)),
        "shuffled": options.n_shuffled,
        "refine": options.refine,
        "budget-minutes": options.refine_minutes,
        "seed": options.seed,
    }


def rules_of(rules: TypeRules) -> dict[str, Any]:
    """The rules of types, by the names of their options."""
    types = [] if rules.types == DEFAULT_TYPES else list(rules.types)
    keep = [f"{tensor}={kind}" for tensor, kind in rules.keep]
    same = {"same-type": ["+".join(roles) for roles in rules.same_type]} if rules.same_type else {}
    return {"types": types, "never": list(rules.never), "only": list(rules.only), "keep": keep, **same}


def file_name(source: Model, base: str, options: AllocationOptions) -> str:
    """The name of the recipe's GGUF: one quantization label, at its end, and the size asked for where no stock file's was."""
    label, target = options.label or base, options.target
    asked = "" if target.like else f"-{target.bits:g}bpw" if target.bits else f"-{(target.n_bytes or 0) / 1e6:.4g}MB"
    stem = labelled(stem_of(source.path), label)
    return f"{stem.removesuffix(f'-{label}')}{asked}-{label}.gguf"


def refine_recipe(
    session: Session, table: Table, anchors: Anchors, kept: Tried, budget: int, options: AllocationOptions
) -> Refined:
    """The kept recipe refined, with as much text as was asked for. Minutes become chunks by a rate that is measured once and kept with the
    study: a clock read along the way would make the choice depend on the machine's load."""
    n_chunks = anchors.n_chunks or LOOKS[0] * len(table.names)  # anchors of a map took none: as many as a first look
    spend = usual_spend(n_chunks, len(session.search.chunks))
    if options.refine_minutes is not None:
        seconds = seconds_a_chunk(session, session.runner(session.search).series)
        spend = Spend(int(options.refine_minutes * 60 / seconds), seconds)
    return refine(session, table, anchors, kept.candidate.types, budget, spend, options.seed)


def gain(session: Session, refined: Refined, kept: Tried, recipe: Trial) -> Interval | None:
    """KL divergence of the refined recipe on the report text as a share of that of the recipe before; None where they are the same, or
    the one before can't be measured."""
    if not refined.n_taken:
        return None
    before = recipe_trial(session, "recipe before refinement", kept.candidate.types)
    split = session.report
    scores = session.runner(split).measure([before, recipe], split.chunks, "what refinement brought")
    return kld_ratio(scores[recipe.label], scores[before.label]) if before.label in scores else None


def table_and_budget(session: Session, options: AllocationOptions) -> tuple[Table, int, int]:
    """(the job's table, the most bytes of the finished file, those of the table's tensors in it)."""
    table = make_table(session, options.rules)
    limit = limit_of(session, table, options.target)
    added = session.options.split.most_added(limit, len(session.source.tensors)) if session.options.split else 0
    table = with_keys(session, table, limit - added)
    return table, limit, checked_budget(table, limit - added)


def limit_of(session: Session, table: Table, target: Target) -> int:
    """The most bytes of the finished file; those of the stock file in ``target.like``, whatever base was named or shaped."""
    if target.like is None:
        return target_bytes(target, session.base.model)
    return file_bytes(table.base, stock_types(session, target.like))
