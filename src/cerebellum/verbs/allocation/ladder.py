"""A ladder of recipes: several sizes from one study and one set of anchors, a file each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cerebellum.allocation.candidates import TypeRules
from cerebellum.allocation.sizes import Target, file_bytes, target_bytes
from cerebellum.domain import Model
from cerebellum.errors import CerebellumError, InputError, RefusedError
from cerebellum.files import REPORT_FILES, refuse_inputs_in
from cerebellum.gguf import model_file
from cerebellum.llamacpp.protocol import Backend
from cerebellum.progress import Progress, Silent
from cerebellum.results.allocation import Allocation, AllocationLadder
from cerebellum.results.part import Part
from cerebellum.verbs.allocation.options import AllocationOptions
from cerebellum.verbs.allocation.run import Publish, allocate_session, anchor_part, calibrated, of_allocation
from cerebellum.verbs.allocation.stock import mix_sizes
from cerebellum.verbs.bench import BenchOptions, prepared
from cerebellum.verbs.finished import claimed
from cerebellum.verbs.options import SessionOptions

#: Writes the report of a ladder into a folder.
PublishLadder = Callable[[AllocationLadder, Path], None]


def allocate_ladder(
    options: SessionOptions,
    allocation: AllocationOptions,
    targets: Sequence[Target],
    *,
    backend: Backend,
    publish: Publish,
    publish_ladder: PublishLadder,
    progress: Progress | None = None,
    bench_options: BenchOptions | None = None,
) -> AllocationLadder:
    """The best file of each size, all in ``options.out``; each one's report in a folder of its label's name.

    Anchors are measured for the size in the middle, and serve all. Resumes what was begun. Raises a `CerebellumError`.
    """
    progress = progress or Silent()
    if bench_options is not None:
        prepared({}, bench_options)  # questions that aren't there are no reason to have no file of one size
    check_targets(options, targets)
    sizes = {"policy": "ladder", "size": None, "ladder": sorted(map(str, targets))}
    options = claimed(options, {**of_allocation(allocation), **sizes}, bench_options)
    for target in targets:  # one importance matrix for all, where any size wants one
        options = calibrated(options, replace(allocation, target=target), backend, progress)
    labels = labels_of(targets, model_file.read_model(options.model), backend, options, allocation.rules)
    for label in labels:
        refuse_inputs_in(options.out / label, options.files, REPORT_FILES)
    made: dict[str, Allocation] = {}
    missed: dict[str, CerebellumError] = {}
    for number, label in enumerate(from_the_middle(list(labels)), start=1):
        progress.note(f"ladder: {label} ({number} of {len(labels)})")
        known = allocation.sensitivity or next((one.sensitivity for one in made.values()), None)
        rung = replace(
            allocation, target=labels[label], sensitivity=known, label=label, compares_imatrix=not made
        )  # once
        try:
            made[label] = allocate_session(
                options, rung, backend=backend, publish=publish, progress=progress, bench_options=bench_options,
                folder=options.out / label,
            )  # fmt: skip
        except (InputError, RefusedError) as error:  # a size that can't be had is no reason to have none
            missed[label] = error
            progress.note(f"warning: ladder: no file of {labels[label]} ({label}): {error}")
    if not made:
        raise next(iter(missed.values()))
    ladder = ladder_of(made, {label: f"{labels[label]}: {error}" for label, error in missed.items()})
    publish_ladder(ladder, options.out)
    return ladder


def ladder_of(made: Mapping[str, Allocation], missed: Mapping[str, str]) -> AllocationLadder:
    """The files in the order of their sizes; ``missed``: label → why there is none."""
    ordered = sorted(made.items(), key=lambda pair: pair[1].written.file_bytes)
    return AllocationLadder(tuple(label for label, _ in ordered), tuple(result for _, result in ordered), dict(missed))


def ladder_part(
    options: SessionOptions,
    allocation: AllocationOptions,
    targets: Sequence[Target],
    *,
    backend: Backend,
    progress: Progress | None = None,
) -> Part:
    """The part ``options.shard`` of the anchors of a ladder: those of the size in the middle. See `anchor_part`."""
    check_targets(options, targets)
    for target in targets:
        options = calibrated(options, replace(allocation, target=target), backend, progress or Silent())
    labels = labels_of(targets, model_file.read_model(options.model), backend, options, allocation.rules)
    middle = labels[from_the_middle(list(labels))[0]]
    return anchor_part(options, replace(allocation, target=middle), backend=backend, progress=progress)


def check_targets(options: SessionOptions, targets: Sequence[Target]) -> None:
    """Raises `InputError` for a size that is named twice, or for a base beside several sizes."""
    if options.base is not None:
        raise InputError("a ladder's files each have their own stock file to compare with: leave out --base")
    if len(set(targets)) < len(targets):
        raise InputError("--ladder names a size twice")


def from_the_middle(labels: Sequence[str]) -> list[str]:
    """The middle one first, then the others in their order."""
    middle = labels[(len(labels) - 1) // 2]
    return [middle, *(label for label in labels if label != middle)]


def labels_of(
    targets: Sequence[Target], source: Model, backend: Backend, options: SessionOptions, rules: TypeRules
) -> dict[str, Target]:
    """Label → target, smallest file first; no two targets have one label, so that the hub tells their files apart.

    A stock mix's size has its name; other sizes have those of the nearest stock mixes that are free, a larger one that of a larger mix.
    Raises `InputError`.
    """
    taken = {t.like: t for t in targets if t.like is not None}
    limits = {t: file_bytes(source, backend.types(source.path, f, (), options.imatrix)) for f, t in taken.items()}
    asked = {t: target_bytes(t, source) for t in targets if t.like is None}
    limits |= asked
    others = sorted(asked, key=lambda t: asked[t])
    sizes = mix_sizes(backend, source, options, rules, min(asked.values())) if asked else {}
    names = nearest_free({f: n for f, n in sizes.items() if f not in taken}, [limits[t] for t in others])
    taken |= dict(zip(names, others, strict=True))
    return dict(sorted(taken.items(), key=lambda pair: limits[pair[1]]))


def nearest_free(sizes: Mapping[str, int], limits: Sequence[int]) -> tuple[str, ...]:
    """A mix of ``sizes`` for each of ``limits`` (smallest first), in the order of size, as near as can be by ratio. Raises `InputError`
    where there are more limits than mixes."""
    if len(limits) > len(sizes):
        raise InputError(
            f"--ladder names {len(limits)} sizes by bytes, and only {len(sizes)} labels are left to tell their files apart; name fewer"
        )
    ordered = sorted(sizes, key=lambda f: sizes[f])
    return min(
        itertools.combinations(ordered, len(limits)),
        key=lambda picked: sum(abs(math.log(sizes[f] / n)) for f, n in zip(picked, limits, strict=True)),
    )
